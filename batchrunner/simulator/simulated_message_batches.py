"""Message batches as Anthropic has them: the requests stand in the order, results come in any order, nothing names it.

The scenarios are those of `simulated_batches`, as far as they mean something here. See docs/batches.md.
"""

import json
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qs

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.refusals import Refusal, refuse
from batchrunner.simulator.requests import Chosen
from batchrunner.simulator.script import (
    Script,
    Send,
    Visit,
    as_list,
    as_object,
    as_text,
    digest_of,
    encode_json,
    json_script,
)
from batchrunner.simulator.simulated_batches import Choose, Execute, is_among_first, is_too_large

_MOST: Final = 100_000
_EXPIRY_S: Final = 24 * 3600.0
_ROUTE: Final = "/v1/messages/batches"


def _refusal(status: int, kind: str, message: str) -> Refusal:
    return Refusal(status=status, shape="D", message=message, code=kind, type=kind)


_LATE: Final = _refusal(500, "api_error", "Internal server error")


@dataclass(slots=True, kw_only=True)
class _MessageBatch:
    id: str
    account: str
    created_at: float
    ends_at: float
    chosen: Chosen
    results: list[bytes]
    counts: dict[str, Json]
    looks: int = 0
    cancelled: bool = False


class SimulatedMessageBatches:
    """All message batches of all accounts."""

    def __init__(self, *, seed: int, latency: Latency, execute: Execute, choose: Choose) -> None:
        self._seed = seed
        self._latency = latency
        self._execute = execute
        self._choose = choose
        self._batches: dict[str, _MessageBatch] = {}
        self._counted: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"SimulatedMessageBatches({len(self._batches)} batches)"

    @property
    def created(self) -> int:
        """Orders that were taken."""
        return len(self._batches)

    def create(self, visit: Visit, account: str) -> Script:
        """An order. What is wrong with it is said at once; `batch-500` says 500 of one that was taken."""
        try:
            asked = as_list(as_object(json.loads(visit.call.body)).get("requests"))
        except (ValueError, RecursionError):
            return _refused(_refusal(400, "invalid_request_error", "the request body is not valid JSON"), visit)
        requests = [as_object(request) for request in asked]
        if fault := _fault(requests):
            return _refused(_refusal(400, "invalid_request_error", fault), visit)
        chosen = self._choose(as_text(as_object(requests[0].get("params")).get("model")))
        if is_too_large(chosen, visit.call.body):
            return _refused(_refusal(413, "request_too_large", "Request exceeds the maximum size"), visit)
        if "batch-refused" in chosen:
            return _refused(_refusal(400, "invalid_request_error", "this workspace cannot create batches"), visit)
        if self._still_holds(chosen, "batch-not-taken"):
            return _refused(_LATE, visit)
        batch = self._made(visit, account, requests, chosen)
        if self._still_holds(chosen, "batch-500"):
            return _refused(_LATE, visit)
        return json_script(_body(batch, visit.now))

    def look(self, visit: Visit, account: str) -> Script:
        """How a batch stands."""
        batch = self._of(visit, account, place=-1)
        if batch is not None:
            batch.looks += 1
        if batch is None or ("batch-404" in batch.chosen and batch.looks <= (batch.chosen["batch-404"] or _MOST)):
            return _missing(visit)
        return json_script(_body(batch, visit.now))

    def cancel(self, visit: Visit, account: str) -> Script:
        """A person's wish; what was executed stays paid."""
        batch = self._of(visit, account, place=-2)
        if batch is None:
            return _missing(visit)
        batch.cancelled = True
        return json_script(_body(batch, visit.now))

    def listing(self, visit: Visit, account: str) -> Script:
        """A page of the account's batches, the newest first."""
        query = parse_qs(visit.query)
        own = [batch for batch in reversed(self._batches.values()) if batch.account == account]
        after = query.get("after_id", [""])[0]
        start = next((place + 1 for place, batch in enumerate(own) if batch.id == after), 0)
        page = own[start : start + int(query.get("limit", ["20"])[0])]
        listed: list[Json] = [_body(batch, visit.now) for batch in page]
        ends: dict[str, Json] = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
        return json_script({"data": listed, **ends, "has_more": start + len(page) < len(own)})

    def results(self, visit: Visit, account: str) -> Script:
        """The results, once the batch has ended."""
        batch = self._of(visit, account, place=-2)
        if batch is None or "batch-file-gone" in batch.chosen or not _has_ended(batch, visit.now):
            return _missing(visit)
        return Script(headers={"content-type": "application/x-jsonl"}, steps=(Send(piece=b"".join(batch.results)),))

    def _of(self, visit: Visit, account: str, *, place: int) -> _MessageBatch | None:
        batch = self._batches.get(visit.path.split("/")[place])
        return batch if batch is not None and batch.account == account else None

    def _still_holds(self, chosen: Chosen, name: str) -> bool:
        if name not in chosen:
            return False
        self._counted[name] = self._counted.get(name, 0) + 1
        return is_among_first(chosen, name, self._counted[name])

    def _made(self, visit: Visit, account: str, requests: list[dict[str, Json]], chosen: Chosen) -> _MessageBatch:
        wait_s = chosen.get("batch-slow") or self._latency.task_s
        executed = len(requests)
        if "batch-expires" in chosen:
            executed = int(len(requests) * (chosen["batch-expires"] or 60.0) / 100.0)
        results: list[bytes] = []
        counts: dict[str, int] = {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        for number, request in enumerate(requests):
            kind, said = "expired", b""
            if number < executed:
                kind, said = self._run(visit, as_object(request.get("params")), chosen)
            counts[kind] += 1
            results.append(
                b'{"custom_id": %b, "result": {"type": "%b"%b}}\n'
                % (encode_json(request.get("custom_id")), kind.encode(), said)
            )
        if "batch-odd-lines" in chosen:
            stranger = b'{"custom_id": "request-1", "result": {"type": "succeeded", "message": {}}}\n'
            results = [stranger, *reversed(results), results[0], b"not JSON\n", b"\n"]
        batch = _MessageBatch(
            id=f"msgbatch_{digest_of(f'{self._seed}/{len(self._batches)}', bits=96):024x}",
            account=account,
            created_at=visit.now,
            ends_at=float("inf") if "batch-stuck" in chosen else visit.now + wait_s,
            chosen=chosen,
            results=results,
            counts=dict(counts),
        )
        self._batches[batch.id] = batch
        return batch

    def _run(self, visit: Visit, params: dict[str, Json], chosen: Chosen) -> tuple[str, bytes]:
        """(type of the result, its further fields)."""
        status, body = self._execute(visit, params, "/v1/messages")
        if "batch-all-errors" in chosen:
            error: Json = {"type": "invalid_request_error", "message": "invalid request"}
            status, body = 400, encode_json({"type": "error", "error": error})
        return ("succeeded", b', "message": %b' % body) if status < 300 else ("errored", b', "error": %b' % body)


def _fault(requests: list[dict[str, Json]]) -> str:
    """What is wrong with an order; empty if nothing is."""
    if not 0 < len(requests) <= _MOST:
        return f"requests: 1 to {_MOST} are possible"
    if len({as_text(request.get("custom_id")) for request in requests}) != len(requests):
        return "requests: custom_id must be unique within the batch"
    if any(as_object(request.get("params")).get("stream") for request in requests):
        return "requests: stream is not possible in a batch"
    return ""


def _has_ended(batch: _MessageBatch, now: float) -> bool:
    return now >= batch.ends_at or batch.cancelled


def _body(batch: _MessageBatch, now: float) -> dict[str, Json]:
    has_ended = _has_ended(batch, now)
    counts = batch.counts if has_ended else {**dict.fromkeys(batch.counts, 0), "processing": len(batch.results)}
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if has_ended else "in_progress",
        "request_counts": {**counts},
        "created_at": _shown(batch.created_at),
        "expires_at": _shown(batch.created_at + _EXPIRY_S),
        "ended_at": _shown(min(now, batch.ends_at)) if has_ended else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"{_ROUTE}/{batch.id}/results" if has_ended else None,
    }


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def _refused(refusal: Refusal, visit: Visit) -> Script:
    return refuse(refusal, model="", request_id=visit.request_id)


def _missing(visit: Visit) -> Script:
    return _refused(_refusal(404, "not_found_error", f"no such batch: {visit.path}"), visit)
