"""The dialect of OpenAI's batches, with files: a file of requests is uploaded, ordered, and its results downloaded.

OpenAI, Azure, Groq, Together, DashScope, Mistral, SiliconFlow, Zhipu, Novita and others have it; `batch_hosts` has what
differs. Each line of the file is a request of the job's dialect (chat, responses or embeddings), each line of a result
file a reply to one, which that dialect reads. See docs/batches.md.
"""

from typing import Final, Literal, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from batchrunner.core.http import Decoder, Request, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import Problem, Revision
from batchrunner.core.ports import Dialect
from batchrunner.core.remote_batch import BatchLine, BatchLook, BatchPage, RequestFile
from batchrunner.core.values import replace
from batchrunner.providers.batch_hosts import ENDPOINTS, BatchHost, host_of, is_known
from batchrunner.providers.batch_replies import ChatReplies, Hide, as_it_is, get, not_understood, text_of
from batchrunner.providers.error_bodies import refusal
from batchrunner.providers.json_bodies import NotJson, decode, encode, is_object, openai_url
from batchrunner.providers.json_decoder import WholeReply

T = TypeVar("T")

_KEY_FIELD: Final = "batchrunner"
"""Of the metadata: what names our intent."""
_PAGE: Final = 100
_EXPIRED: Final = frozenset({"batch_expired", "batch_cancelled", "batch_canceled"})
"""Codes of requests that were never executed."""
_TOO_MUCH: Final = ("token_limit_exceeded", "enqueued", "rate_limit", "quota", "too many")
"""Words of a batch that failed because too much was ordered at once."""
_STATES: Final[dict[str, Literal["running", "ended", "failed"]]] = {
    "validating": "running",
    "queued": "running",
    "pending": "running",
    "in_progress": "running",
    "progress": "running",
    "running": "running",
    "finalizing": "running",
    "cancelling": "running",
    "cancellation_requested": "running",
    "completed": "ended",
    "success": "ended",
    "succeeded": "ended",
    "expired": "ended",
    "timeout_exceeded": "ended",
    "cancelled": "ended",
    "canceled": "ended",
    "failed": "failed",
}
"""By the server's word in lower case; a word that is not here is waited for."""
_OUTPUTS: Final[tuple[tuple[Literal["out", "err"], tuple[str, str]], ...]] = (
    ("out", ("output_file_id", "output_file")),
    ("err", ("error_file_id", "error_file")),
)
"""The second names are Mistral's."""
_UNANSWERED_STATUS: Final = 500
"""What a line without a reply and without a status is read as."""


_LIKE_OPENAI: Final = BatchHost()


class OpenAiBatches(ChatReplies):
    """A `BatchDialect` over the chat dialect of the same provider."""

    def __init__(self, provider: Provider, chat: Dialect, hide: Hide = as_it_is) -> None:
        super().__init__(provider, chat, hide)
        self._files = openai_url(provider, "files")
        host = host_of(provider)
        self._is_known = is_known(provider)
        self._host = host or _LIKE_OPENAI
        self._batches = openai_url(provider, self._host.route)
        path = ENDPOINTS[provider.dialect]
        self._endpoint = urlsplit(openai_url(provider, path)).path
        version = next((version for version in ("/v1/", "/v4/") if version in self._endpoint), None)
        if version is not None:  # a gateway's own prefix is no part of the endpoint's name
            self._endpoint = version + path

    def __repr__(self) -> str:
        """Where it orders."""
        return f"<OpenAiBatches {self._batches}>"

    @property
    def most_items(self) -> int:
        """Requests of a batch."""
        return self._host.most_items

    @property
    def most_bytes(self) -> int:
        """Of the file of requests."""
        return self._host.most_bytes

    @property
    def is_known(self) -> bool:
        """Whether the provider is known to have batches."""
        return self._is_known

    @property
    def finds_again(self) -> bool:
        """Whether a batch is found in the account's list by what was known before it was ordered."""
        return True

    uploads = True
    between = b""

    # -- requests

    def line(self, item: Item) -> bytes:
        """The item's line in the file of requests, newline included."""
        request = self._chat.encode(replace(item, stream=False), Revision())
        body = (request.body or b"{}").replace(b"\n", b" ")
        if self._host.form == "mistral":  # the order names the model, and the endpoint
            value = decode(body)
            value = {name: each for name, each in value.items() if name != "model"} if is_object(value) else {}
            return b'{"custom_id":%b,"body":%b}\n' % (encode(item.key), encode(value))
        url = self._endpoint_of(item.model)
        return b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}\n' % (encode(item.key), encode(url), body)

    def _endpoint_of(self, model: str) -> str:
        return self._host.endpoints.get(model, self._endpoint)

    def upload(self, requests: RequestFile, *, name: str) -> Request:
        """The POST of the file of requests; free, and may be repeated."""
        boundary = f"batchrunner-{requests.sha256}"
        before = (
            f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
            "content-type: application/jsonl\r\n\r\n"
        )
        return Request(
            method="POST",
            url=self._files,
            headers={"content-type": f"multipart/form-data; boundary={boundary}", "accept": "application/json"},
            streamed=requests.body.between(before.encode(), f"\r\n--{boundary}--\r\n".encode()),
            bulk=True,
        )

    def create(self, file: str, *, key: str, model: str, requests: RequestFile) -> Request:  # noqa: ARG002 - the port
        """The POST that orders the batch of an uploaded file, with what names our intent."""
        endpoint = self._endpoint_of(model)
        if self._host.form == "mistral":
            body: dict[str, Json] = {"input_files": [file], "endpoint": endpoint, "model": model, "timeout_hours": 24}
        else:
            body = {"input_file_id": file, "endpoint": endpoint}
        if self._host.window is not None:
            body["completion_window"] = self._host.window
        if self._host.metadata:
            body["metadata"] = {_KEY_FIELD: key}
        headers = {"content-type": "application/json", "accept": "application/json"}
        return Request(method="POST", url=self._batches, headers=headers, body=encode(body))

    def look(self, batch_id: str) -> Request:
        """The GET that asks how a batch stands."""
        return get(f"{self._batches}/{quote(batch_id, safe='')}")

    def cancel(self, batch_id: str) -> Request:
        """The POST that asks for a batch's end."""
        url = f"{self._batches}/{quote(batch_id, safe='')}/cancel"
        return Request(method="POST", url=url, headers={"accept": "application/json"})

    def listing(self, after: str | None) -> Request:
        """The GET of a page of the account's batches."""
        if self._host.form == "mistral":
            return get(f"{self._batches}?page_size={_PAGE}&page={after or 0}")
        start = "" if after is None else f"&after={quote(after, safe='')}"
        return get(f"{self._batches}?limit={_PAGE}{start}")

    def content(self, file: str) -> Request:
        """The GET of a result file."""
        request = get(f"{self._files}/{quote(file, safe='')}/content")
        request.bulk = True
        return request

    # -- replies

    def uploaded(self) -> Decoder[str | Problem]:
        """Reads the reply to `upload`: the file's id."""
        return WholeReply(self._family, read=_file_id)

    def looked(self) -> Decoder[BatchLook | Problem]:
        """Reads the reply to `create`, `look` and `cancel`."""
        return WholeReply(self._family, read=_look)

    def listed(self, after: str | None = None) -> Decoder[BatchPage | Problem]:
        """Reads the reply to `listing`."""
        if self._host.form == "mistral":
            return WholeReply(self._family, read=lambda head, value: _numbered_page(head, value, int(after or 0)))
        return WholeReply(self._family, read=_page)

    # -- lines of result files

    def read(self, line: bytes) -> BatchLine:
        """A line of a result file. Never raises."""
        try:
            found = _decode_line(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            value = decode(line)
            if isinstance(value, NotJson) or not is_object(value):
                return BatchLine(key="")
            response, error = value.get("response"), value.get("error")
            found = _Line(
                custom_id=text_of(value.get("custom_id")),
                response=_response(response) if is_object(response) else None,
                error=msgspec.Raw(encode(error)) if error is not None else None,
            )
        return self._line(found)

    def _line(self, found: "_Line") -> BatchLine:
        reply, error = found.response, found.error
        if reply is not None and reply.status_code and (body := _body(reply.body)):
            return BatchLine(
                key=found.custom_id, status=reply.status_code, body=body, request_id=reply.request_id or ""
            )
        fault = decode(bytes(error)) if error is not None else None
        code = text_of(fault.get("code")) if is_object(fault) else ""
        if code in _EXPIRED:
            return BatchLine(key=found.custom_id, unanswered=True)
        status = (reply.status_code if reply is not None else 0) or _UNANSWERED_STATUS
        head = ResponseHead(status=status, headers={"content-type": "application/json"}, received_at=0.0)
        said: Json = {"error": fault if is_object(fault) else {"message": "the batch has no reply to this request"}}
        return BatchLine(key=found.custom_id, problem=refusal(self._family, head, encode(said)))


class _Reply(msgspec.Struct):
    status_code: int = 0
    body: msgspec.Raw = msgspec.Raw(b"")
    request_id: str | None = None


class _Line(msgspec.Struct):
    custom_id: str
    response: _Reply | None = None
    error: msgspec.Raw | None = None

    def __post_init__(self) -> None:
        if self.error is not None and bytes(self.error) == b"null":
            self.error = None


_decode_line = msgspec.json.Decoder(_Line).decode


def _response(value: dict[str, Json]) -> _Reply:
    """The reply of a line that is not quite as it should be."""
    status, body = value.get("status_code"), value.get("body")
    try:
        number = int(status) if isinstance(status, int | float | str) else 0
    except ValueError:
        number = 0
    return _Reply(status_code=number, body=msgspec.Raw(encode(body)), request_id=text_of(value.get("request_id")))


def _body(raw: msgspec.Raw) -> bytes:
    """The reply's bytes; some servers give them as a text that holds JSON. Empty where there is none."""
    data = bytes(raw).strip()
    if data.startswith(b'"'):
        text = decode(data)
        return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else b""
    return b"" if data in {b"null", b"{}"} else data


def _file_id(head: ResponseHead, value: Json) -> str | Problem:
    found = value.get("id") if is_object(value) else None
    return found if isinstance(found, str) and found else not_understood(head, "file", value)


def _look(head: ResponseHead, value: Json) -> BatchLook | Problem:
    return _look_of(value) or not_understood(head, "batch", value)


def _look_of(value: Json) -> BatchLook | None:
    if not is_object(value):
        return None
    batch_id, word = text_of(value.get("id")), text_of(value.get("status"))
    if not batch_id or not word:
        return None
    outputs = tuple(
        (kind, found)
        for kind, (name, other) in _OUTPUTS
        if (found := text_of(value.get(name)) or text_of(value.get(other)))
    )
    inputs = value.get("input_files")
    only = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else None
    state = _STATES.get(word.lower(), "running")
    codes, message = _errors(value.get("errors"))
    metadata = value.get("metadata")
    expires = value.get("expires_at")
    said = f"{codes} {message}".lower()
    return BatchLook(
        batch_id=batch_id,
        state="ended" if state == "failed" and outputs else state,
        word=word,
        key=text_of(metadata.get(_KEY_FIELD)) if is_object(metadata) else "",
        input_file=text_of(value.get("input_file_id")) or text_of(only),
        outputs=outputs,
        expires_at=float(expires) if isinstance(expires, int | float) and expires > 0 else None,
        message=message,
        too_much=state == "failed" and any(words in said for words in _TOO_MUCH),
    )


def _errors(value: Json) -> tuple[str, str]:
    """(codes, messages) of why a batch failed."""
    listed = value.get("data") if is_object(value) else value
    faults = [fault for fault in listed if is_object(fault)] if isinstance(listed, list) else []
    codes = " ".join(filter(None, (text_of(fault.get("code")) for fault in faults)))
    messages = dict.fromkeys(filter(None, (text_of(fault.get("message")) for fault in faults[:20])))
    return codes, "; ".join(messages) or codes


def _page(head: ResponseHead, value: Json) -> BatchPage | Problem:
    listed = value.get("data") if is_object(value) else None
    if not is_object(value) or not isinstance(listed, list):
        return not_understood(head, "list of batches", value)
    batches = tuple(look for entry in listed if (look := _look_of(entry)) is not None)
    more = value.get("has_more") is True and bool(batches)
    last = text_of(value.get("last_id")) or (batches[-1].batch_id if batches else "")
    return BatchPage(batches=batches, after=last if more else None)


def _numbered_page(head: ResponseHead, value: Json, number: int) -> BatchPage | Problem:
    """A page that is asked for by its number; one that is not full is the last one."""
    page = _page(head, value)
    listed = value.get("data") if is_object(value) else None
    if isinstance(page, Problem) or not isinstance(listed, list) or len(listed) < _PAGE:
        return page
    return replace(page, after=str(number + 1))
