"""Files and batches as OpenAI has them: upload, order, looks, list, result files. With what real servers do besides.

See docs/batches.md. Requests of a batch are executed, and paid for, when it is ordered; what it came to is
shown when its time is over.
"""

import json
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, field
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.refusals import Refusal, invalid, refuse
from batchrunner.simulator.requests import Chosen
from batchrunner.simulator.script import Script, Send, Visit, as_object, as_text, digest_of, encode_json, json_script

Execute = Callable[[Visit, dict[str, Json], str], tuple[int, bytes]]
"""Runs one request of a batch as if it had come to this endpoint by itself: its status and its body."""
Choose = Callable[[str], Chosen]
"""The scenarios of a model."""

MOST_LINES: Final = 50_000
_MOST_ON_PAGE: Final = 100
_EXPIRY_S: Final = 24 * 3600.0
_PADDING: Final = " " * 4_000_000
_BOUNDARY: Final = re.compile(r'boundary="?([^";]+)"?')
_ENDPOINTS: Final = frozenset({"/v1/chat/completions", "/v1/responses", "/v1/embeddings"})
_LATE: Final = Refusal(
    status=500, shape="C", message="The server had an error", code="server_error", type="server_error"
)
_TOO_LARGE: Final = Refusal(
    status=413, shape="C", message="The file is too large", code="file_too_large", type="invalid_request_error"
)


def is_too_large(chosen: Chosen, data: bytes) -> bool:
    """Whether `batch-too-large` refuses so much."""
    return "batch-too-large" in chosen and len(data) > 1000 * (chosen["batch-too-large"] or 1.0)


def _missing(what: str, name: str) -> Refusal:
    message = f"No such {what}: {name}"
    return Refusal(status=404, shape="C", message=message, code="not_found", type="invalid_request_error")


@dataclass(slots=True, kw_only=True)
class _Batch:
    id: str
    account: str
    body: dict[str, Json]
    created_at: float
    ends_at: float
    chosen: Chosen
    requests: int
    status: str = "completed"
    """At its end."""
    errors: Json = None
    outputs: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Json] = field(default_factory=dict)
    looks: int = 0
    cancelled: bool = False


class SimulatedBatches:
    """All files and batches of all accounts."""

    def __init__(self, *, seed: int, latency: Latency, execute: Execute, choose: Choose) -> None:
        self._seed = seed
        self._latency = latency
        self._execute = execute
        self._choose = choose
        self._files: dict[str, tuple[str, bytes]] = {}
        self._batches: dict[str, _Batch] = {}
        self._uploads = 0
        self._counted: dict[str, int] = {}
        self.created = 0
        """Orders that were taken."""

    def __repr__(self) -> str:
        return f"SimulatedBatches({len(self._files)} files, {len(self._batches)} batches)"

    # -- files

    def upload(self, visit: Visit, account: str) -> Script:
        """A file of requests."""
        found = _BOUNDARY.search(visit.call.headers.get("content-type", ""))
        parts = _parts(visit.call.body, found[1].encode()) if found is not None else {}
        if "file" not in parts or parts.get("purpose") != b"batch":
            return _refused(invalid("`file` and `purpose: batch` are needed as form data"), visit)
        first = _requests(parts["file"].partition(b"\n")[0])
        if first and is_too_large(self._choose(as_text(as_object(first[0].get("body")).get("model"))), parts["file"]):
            return _refused(_TOO_LARGE, visit)
        return json_script(self._file_body(self._keep(account, parts["file"]), visit.now))

    def file(self, visit: Visit, account: str) -> Script:
        """What is known of a file."""
        name = visit.path.rpartition("/")[2]
        if self._files.get(name, ("",))[0] != account:
            return _refused(_missing("File object", name), visit)
        return json_script(self._file_body(name, visit.now))

    def content(self, visit: Visit, account: str) -> Script:
        """The bytes of a file."""
        name = visit.path.split("/")[-2]
        owner, data = self._files.get(name, ("", b""))
        if owner != account:
            return _refused(_missing("File object", name), visit)
        return Script(headers={"content-type": "application/octet-stream"}, steps=(Send(piece=data),))

    def _keep(self, account: str, data: bytes) -> str:
        self._uploads += 1
        name = f"file-{digest_of(f'{self._seed}/{self._uploads}', bits=96):024x}"
        self._files[name] = account, data
        return name

    def _file_body(self, name: str, now: float) -> Json:
        return {
            "id": name,
            "object": "file",
            "bytes": len(self._files[name][1]),
            "created_at": int(now),
            "filename": "requests.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    # -- batches

    def create(self, visit: Visit, account: str) -> Script:
        """An order. What is wrong with it is said at once; `batch-500` says 500 of one that was taken."""
        try:
            body = as_object(json.loads(visit.call.body))
        except (ValueError, RecursionError):
            return _refused(invalid("the request body is not valid JSON"), visit)
        owner, data = self._files.get(as_text(body.get("input_file_id")), ("", b""))
        if owner != account:
            return _refused(_missing("File object", as_text(body.get("input_file_id"))), visit)
        if body.get("endpoint") not in _ENDPOINTS or body.get("completion_window") != "24h":
            return _refused(invalid("`endpoint` or `completion_window` is not supported"), visit)
        lines = _requests(data)
        chosen = self._choose(as_text(as_object(lines[0].get("body")).get("model"))) if lines else {}
        if "batch-refused" in chosen:
            return _refused(invalid("this organisation cannot create batches"), visit)
        if "batch-not-taken" in chosen and is_among_first(chosen, "batch-not-taken", self._count("not-taken")):
            return _refused(_LATE, visit)
        batch = self._made(visit, account, body, lines, chosen)
        if "batch-500" in chosen and is_among_first(chosen, "batch-500", self._count("500")):
            return _refused(_LATE, visit)
        return json_script(self._body(batch, visit.now))

    def look(self, visit: Visit, account: str) -> Script:
        """How a batch stands."""
        batch = self._batches.get(visit.path.rpartition("/")[2])
        if batch is None or batch.account != account:
            return _refused(_missing("batch", visit.path.rpartition("/")[2]), visit)
        batch.looks += 1
        if "batch-404" in batch.chosen and batch.looks <= (batch.chosen["batch-404"] or float("inf")):
            return _refused(_missing("batch", batch.id), visit)
        return json_script(self._body(batch, visit.now))

    def cancel(self, visit: Visit, account: str) -> Script:
        """A person's wish; what was executed stays paid."""
        batch = self._batches.get(visit.path.split("/")[-2])
        if batch is None or batch.account != account:
            return _refused(_missing("batch", visit.path.split("/")[-2]), visit)
        batch.cancelled = True
        return json_script(self._body(batch, visit.now))

    def listing(self, visit: Visit, account: str) -> Script:
        """A page of the account's batches, the newest first."""
        query = parse_qs(visit.query)
        limit = min(_MOST_ON_PAGE, int(query.get("limit", ["20"])[0]))
        own = [batch for batch in reversed(self._batches.values()) if batch.account == account]
        after = query.get("after", [""])[0]
        start = next((place + 1 for place, batch in enumerate(own) if batch.id == after), 0)
        page = own[start : start + limit]
        listed: list[Json] = [self._body(batch, visit.now) for batch in page]
        return json_script(
            {
                "object": "list",
                "data": listed,
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
                "has_more": start + limit < len(own),
            }
        )

    def _count(self, what: str) -> int:
        """How often this was asked for, this time included."""
        counted = self._counted[what] = self._counted.get(what, 0) + 1
        return counted

    def _made(
        self, visit: Visit, account: str, body: dict[str, Json], lines: list[dict[str, Json]], chosen: Chosen
    ) -> _Batch:
        self.created += 1
        wait_s = chosen.get("batch-slow") or self._latency.task_s
        batch = _Batch(
            id=f"batch_{digest_of(f'{self._seed}/{self.created}', bits=96):024x}",
            account=account,
            body=body,
            created_at=visit.now,
            ends_at=float("inf") if "batch-stuck" in chosen else visit.now + wait_s,
            chosen=chosen,
            requests=len(lines),
        )
        self._batches[batch.id] = batch
        most = chosen.get("batch-too-much")
        if "batch-too-much" in chosen and len(lines) > (most or 100):
            batch.status = "failed"
            message = "Enqueued token limit reached for this model. Please try again once some batches are completed."
            error: Json = {"code": "token_limit_exceeded", "message": message, "line": None, "param": None}
            batch.errors = {"object": "list", "data": [error]}
            return batch
        if problem := _invalid_ids(lines):
            batch.status = "failed"
            batch.errors = {"object": "list", "data": [{"code": "invalid_custom_id", "message": problem}]}
            return batch
        self._run(visit, batch, lines)
        return batch

    def _run(self, visit: Visit, batch: _Batch, lines: list[dict[str, Json]]) -> None:
        """Execute its requests, and write the result files."""
        chosen, good, bad = batch.chosen, list[bytes](), list[bytes]()
        executed = len(lines)
        if "batch-expires" in chosen:
            executed = int(len(lines) * (chosen["batch-expires"] or 60.0) / 100.0)
            batch.status = "expired"
        for number, line in enumerate(lines):
            custom_id = as_text(line.get("custom_id"))
            if number >= executed:
                error: Json = {
                    "code": "batch_expired",
                    "message": "This request could not be executed before it expired.",
                }
                bad.append(_result(number, custom_id, None, error=error))
                continue
            status, body = self._execute(visit, as_object(line.get("body")), as_text(batch.body.get("endpoint")))
            if "batch-all-errors" in chosen:
                status, body = (
                    400,
                    encode_json({"error": {"message": "invalid request", "type": "invalid_request_error"}}),
                )
            if "batch-status-0" in chosen and number % 10 == 9:
                status, body = 0, b"null"
            padding = _PADDING if "batch-long-line" in chosen and number == 0 else ""
            as_string = "batch-strings" in chosen
            written = _result(number, custom_id, status, body=body, padding=padding, as_string=as_string)
            (good if status < 400 else bad).append(written)
        batch.counts = {"total": len(lines), "completed": executed, "failed": 0}
        if "batch-odd-lines" in chosen:
            good = _with_odd_lines(good)
        self._write(batch, "output_file_id", good)
        self._write(batch, "error_file_id", bad, even_empty="batch-strings" in chosen)

    def _write(self, batch: _Batch, name: str, lines: list[bytes], *, even_empty: bool = False) -> None:
        if lines or even_empty:
            batch.outputs[name] = self._keep(batch.account, b"".join(lines))
        if "batch-file-gone" in batch.chosen and name in batch.outputs:
            del self._files[batch.outputs[name]]

    def _body(self, batch: _Batch, now: float) -> dict[str, Json]:
        has_ended = now >= batch.ends_at or batch.cancelled
        half = batch.created_at + (batch.ends_at - batch.created_at) / 2.0
        status = batch.status if now >= batch.ends_at else "in_progress" if now >= half else "validating"
        counts: dict[str, Json] = {"total": batch.requests, "completed": 0, "failed": 0}
        hides = "batch-no-metadata" in batch.chosen
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.body.get("endpoint"),
            "errors": batch.errors if has_ended else None,
            "input_file_id": batch.body.get("input_file_id"),
            "completion_window": "24h",
            "status": "cancelled" if batch.cancelled else status,
            "output_file_id": batch.outputs.get("output_file_id") if has_ended else None,
            "error_file_id": batch.outputs.get("error_file_id") if has_ended else None,
            "created_at": int(batch.created_at),
            "expires_at": None if "batch-strings" in batch.chosen else int(batch.created_at + _EXPIRY_S),
            "request_counts": batch.counts if has_ended and batch.counts else counts,
            "metadata": None if hides else batch.body.get("metadata"),
        }


def _refused(refusal: Refusal, visit: Visit) -> Script:
    return refuse(refusal, model="", request_id=visit.request_id)


def is_among_first(chosen: Chosen, name: str, nth: int) -> bool:
    """Whether the scenario still holds the n-th time: its figure is how often, without one it always does."""
    most = chosen[name]
    return most is None or nth <= most


def _parts(body: bytes, boundary: bytes) -> dict[str, bytes]:
    """The fields of form data by name."""
    parts: dict[str, bytes] = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        found = re.search(rb'name="([^"]*)"', head)
        if found is not None:
            parts[found[1].decode("utf-8", "replace")] = value.removesuffix(b"\r\n")
    return parts


def _requests(data: bytes) -> list[dict[str, Json]]:
    """The lines of a file of requests; what is none is left out."""
    lines: list[dict[str, Json]] = []
    for line in data.splitlines():
        try:
            lines.append(as_object(json.loads(line)))
        except (ValueError, RecursionError):
            continue
    return lines


def _invalid_ids(lines: list[dict[str, Json]]) -> str:
    ids = [as_text(line.get("custom_id")) for line in lines]
    if not lines or len(lines) > MOST_LINES:
        return f"a batch has 1 to {MOST_LINES} requests"
    if len(set(ids)) != len(ids):
        return "The custom_id for this request is a duplicate of another request."
    return ""


def _result(
    number: int,
    custom_id: str,
    status: int | None,
    *,
    body: bytes = b"null",
    error: Json = None,
    padding: str = "",
    as_string: bool = False,
) -> bytes:
    """A line of a result file, newline included."""
    value = encode_json(body.decode()) if as_string else body
    name = f"{number:024x}"
    reply = b"null"
    if status is not None:
        reply = b'{"status_code": %d, "request_id": "req_%b", "body": %b}' % (status, name.encode(), value)
    head = b'{"id": "batch_req_%b", "custom_id": %b, "response": %b%b' % (
        name.encode(),
        encode_json(custom_id),
        reply,
        padding.encode(),
    )
    return b'%b, "error": %b}\n' % (head, encode_json(error))


def _with_odd_lines(lines: list[bytes]) -> list[bytes]:
    """In another order, with a line of nobody's, one twice, one of another item's shape, and one that is no JSON."""
    if not lines:
        return lines
    stranger = _result(0, "0" * 32, 200, body=b'{"choices": []}')
    nameless = _result(0, "request-1", 200, body=b'{"choices": []}')
    return [stranger, *reversed(lines), lines[0], nameless, b"not JSON\n", b"\n"]
