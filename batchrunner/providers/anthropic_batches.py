"""The dialect of Anthropic's message batches: the requests stand in the order itself, and nothing names it.

There is no file of requests and no metadata, so an order whose reply is lost cannot be told from another one of the
same account and size: it is held. Where the list has none of its size, it was never taken. Each line of the results is
a reply that the dialect of messages reads. See docs/batches.md.
"""

from datetime import datetime
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from batchrunner.core.http import Decoder, Request, ResponseHead
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import Problem, ProblemKind, Revision
from batchrunner.core.ports import Dialect
from batchrunner.core.remote_batch import BatchLine, BatchLook, BatchPage, RequestFile
from batchrunner.core.values import replace
from batchrunner.providers.anthropic_messages import VERSION
from batchrunner.providers.batch_hosts import ANTHROPIC, is_known
from batchrunner.providers.batch_replies import ChatReplies, Hide, as_it_is, get, not_understood, text_of
from batchrunner.providers.error_bodies import plain_problem, refusal
from batchrunner.providers.json_bodies import anthropic_url, at, decode, encode, is_object
from batchrunner.providers.json_decoder import WholeReply

_PAGE: Final = 100
_BEFORE: Final = b'{"requests":['
_AFTER: Final = b"]}"
_ENDED: Final = "ended"
_NOT_EXECUTED: Final = frozenset({"canceled", "expired"})
_STATUS: Final[dict[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Which status the ordinary API gives with the type of an error: a line of the results has none."""
_UNKNOWN_STATUS: Final = 500


class AnthropicBatches(ChatReplies):
    """A `BatchDialect` over the dialect of messages of the same provider."""

    most_items = ANTHROPIC.most_items
    most_bytes = ANTHROPIC.most_bytes - len(_BEFORE) - len(_AFTER)
    """The limit is that of the whole order."""
    finds_again = False
    uploads = False
    between = b","

    def __init__(self, provider: Provider, chat: Dialect, hide: Hide = as_it_is) -> None:
        super().__init__(provider, chat, hide)
        self._batches = anthropic_url(provider, "messages/batches")
        self.is_known = is_known(provider)
        """Whether the provider is known to have batches."""

    def __repr__(self) -> str:
        """Where it orders."""
        return f"<AnthropicBatches {self._batches}>"

    # -- requests

    def line(self, item: Item) -> bytes:
        """The item's part of the order, newline included. It is never streamed, however long the answer may be."""
        request = self._chat.encode(replace(item, stream=False), Revision())
        params = decode(request.body or b"{}")
        if is_object(params):
            params.pop("stream", None)
        return b'{"custom_id":%b,"params":%b}\n' % (encode(item.key), encode(params if is_object(params) else {}))

    def upload(self, requests: RequestFile, *, name: str) -> Request:
        """Never asked for: see `uploads`."""
        raise NotImplementedError(name, requests.sha256)

    def uploaded(self) -> Decoder[str | Problem]:
        """Never asked for: see `uploads`."""
        raise NotImplementedError

    def create(self, file: str, *, key: str, model: str, requests: RequestFile) -> Request:  # noqa: ARG002 - the port
        """The POST that orders the batch of these requests."""
        body = requests.body.between(_BEFORE, _AFTER)
        headers = {"content-type": "application/json", "accept": "application/json", "anthropic-version": VERSION}
        return Request(method="POST", url=self._batches, headers=headers, streamed=body, bulk=True)

    def look(self, batch_id: str) -> Request:
        """The GET that asks how a batch stands."""
        return _with_version(get(f"{self._batches}/{quote(batch_id, safe='')}"))

    def cancel(self, batch_id: str) -> Request:
        """The POST by which a person cancels a batch; what was executed stays."""
        url = f"{self._batches}/{quote(batch_id, safe='')}/cancel"
        headers = {"content-type": "application/json", "accept": "application/json", "anthropic-version": VERSION}
        return Request(method="POST", url=url, headers=headers, body=b"{}")

    def listing(self, after: str | None) -> Request:
        """The GET of a page of the account's batches."""
        start = "" if after is None else f"&after_id={quote(after, safe='')}"
        return _with_version(get(f"{self._batches}?limit={_PAGE}{start}"))

    def content(self, file: str) -> Request:
        """The GET of the results: at the address that the server gave, which may be relative, or at the usual one.

        An address of another host is not asked: the key belongs to this one.
        """
        url = urljoin(self._batches, file)
        if urlsplit(url)[:2] != urlsplit(self._batches)[:2]:
            batch_id = urlsplit(url).path.rstrip("/").split("/")[-2:-1] or [""]
            url = f"{self._batches}/{quote(batch_id[0], safe='')}/results"
        request = _with_version(get(url))
        request.bulk = True
        return request

    # -- replies

    def looked(self) -> Decoder[BatchLook | Problem]:
        """Reads the reply to `create`, `look` and `cancel`."""
        return WholeReply(self._family, read=self._look)

    def listed(self, after: str | None = None) -> Decoder[BatchPage | Problem]:  # noqa: ARG002 - the port
        """Reads the reply to `listing`."""
        return WholeReply(self._family, read=self._page)

    def _look(self, head: ResponseHead, value: Json) -> BatchLook | Problem:
        return self._look_of(value) or not_understood(head, "batch", value)

    def _look_of(self, value: Json) -> BatchLook | None:
        if not is_object(value):
            return None
        batch_id, word = text_of(value.get("id")), text_of(value.get("processing_status"))
        if not batch_id or not word:
            return None
        usual = f"{self._batches}/{quote(batch_id, safe='')}/results"
        has_ended = word == _ENDED
        return BatchLook(
            batch_id=batch_id,
            state="ended" if has_ended else "running",
            word=word,
            outputs=(("out", text_of(value.get("results_url")) or usual),) if has_ended else (),
            expires_at=_moment(value.get("expires_at")),
            requests=_sum(value.get("request_counts")),
            created_at=_moment(value.get("created_at")),
        )

    def _page(self, head: ResponseHead, value: Json) -> BatchPage | Problem:
        listed = value.get("data") if is_object(value) else None
        if not is_object(value) or not isinstance(listed, list):
            return not_understood(head, "list of batches", value)
        batches = tuple(look for entry in listed if (look := self._look_of(entry)) is not None)
        last = text_of(value.get("last_id")) or (batches[-1].batch_id if batches else "")
        has_more = value.get("has_more") is True
        if len(batches) < len(listed) or (has_more and not last):  # a batch that is overlooked could be paid for again
            return not_understood(head, "list of batches", value)
        return BatchPage(batches=batches, after=last if has_more else None)

    # -- lines of the results

    def read(self, line: bytes) -> BatchLine:
        """A line of the results. Never raises."""
        try:
            found = _decode_line(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return BatchLine(key="")
        result = found.result
        if result.type in _NOT_EXECUTED:
            return BatchLine(key=found.custom_id, unanswered=True)
        message = bytes(result.message).strip()
        if result.type == "succeeded" and message.startswith(b"{"):
            return BatchLine(key=found.custom_id, status=200, body=message)
        return BatchLine(key=found.custom_id, problem=self._problem(result))

    def _problem(self, result: "_Result") -> Problem:
        said = decode(bytes(result.error)) if bytes(result.error) else None
        fault = said.get("error", said) if is_object(said) else None
        head = ResponseHead(
            status=_STATUS.get(text_of(at(fault, "type")), _UNKNOWN_STATUS),
            headers={"content-type": "application/json"},
            received_at=0.0,
        )
        if not is_object(fault):
            message = f"the batch has no reply to this request: {result.type or 'no result'}"
            return plain_problem(ProblemKind.SERVER_ERROR, message, head=head)
        return refusal(self._family, head, encode({"type": "error", "error": fault}))


class _Result(msgspec.Struct):
    type: str = ""
    message: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


class _IndividualResult(msgspec.Struct):
    custom_id: str
    result: _Result


_decode_line = msgspec.json.Decoder(_IndividualResult).decode


def _with_version(request: Request) -> Request:
    request.headers["anthropic-version"] = VERSION
    return request


def _sum(counts: Json) -> int | None:
    """How many requests a batch has, by their states."""
    if not is_object(counts):
        return None
    return sum(count for count in counts.values() if isinstance(count, int))


def _moment(value: Json) -> float | None:
    """RFC 3339 as seconds since 1970."""
    try:
        return datetime.fromisoformat(text_of(value)).timestamp()
    except ValueError:
        return None
