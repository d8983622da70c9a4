"""What servers send: whole replies to every dialect, error bodies, headers, content codings, streams of events.

An input is a reply as text: a line with the status, header lines, an empty line, the body. Whatever it says, one typed
outcome comes of it, the same however the body is cut, and the ledger and the result files can hold that outcome.
"""

import gzip
import json
import math
import zlib
from collections.abc import Callable
from functools import cache

from batchrunner.core.events import Accepted as AcceptedEvent
from batchrunner.core.events import Failed, Ready
from batchrunner.core.http import Completed, Decoder, Ending, Interrupted, ResponseHead
from batchrunner.core.job import DialectName, Json
from batchrunner.core.outcome import Answer, FollowUp, Pending, Pictures, PictureUrl, Problem, TaskAccepted
from batchrunner.core.ports import TaskDialect
from batchrunner.core.row import Effort, answer_output, failure_row, result_row
from batchrunner.core.sign import Family
from batchrunner.providers import dialect_for
from batchrunner.providers.error_bodies import refusal
from batchrunner.providers.modelscope_images import BalanceReader
from batchrunner.providers.rate_headers import duration_s, hints_of, reset_s, should_retry, wait_in_prose_s, wait_s
from batchrunner.providers.sse import SseEvent, SseParser
from batchrunner.simulator.scenarios import SCENARIOS
from batchrunner.simulator.script import Call, Script, Send
from batchrunner.simulator.world import World
from batchrunner.stores.ledger import encode_line
from batchrunner.stores.ledger_line import MAX_LINE_BYTES, is_intact
from batchrunner.stores.row_codec import encode_row
from batchrunner.transport.coding import STEP_BYTES, CodingError, unpacker
from tests.fuzz.target import Target
from tests.providers.reading import NOON, item, provider, read

Outcome = Answer | TaskAccepted | Pictures | Pending | FollowUp | Problem
BOOK: dict[str, Json] = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "pages": {"type": "integer"}},
    "required": ["title"],
}
EFFORT = Effort(attempts=1, ambiguous=0, recovered=False, started_at="2026-11-22T00:00:00.000Z", seconds=0.1)


# -- replies


def parts_of(reply: bytes) -> tuple[ResponseHead, bytes]:
    """A reply as text, read as leniently as it can be: status, headers, body."""
    head, _, body = reply.partition(b"\n\n")
    first, *lines = head.decode("utf-8", "replace").split("\n")
    digits = "".join(char for char in first if char in "0123456789")[:3]
    pairs = (line.partition(":") for line in lines[:50])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs if name.strip()}
    return ResponseHead(status=int(digits or 200), headers=headers, received_at=NOON), body


def reads(make: Callable[[], Decoder[Outcome]]) -> Callable[[bytes], object]:
    """Read a reply whole and in pieces, with an orderly end and a broken one."""

    def run(reply: bytes) -> object:
        head, body = parts_of(reply)
        middle = len(body) // 2
        step = max(1, len(body) // 97)
        ways = [[body], [body[:middle], body[middle:]], [body[at : at + step] for at in range(0, len(body), step)]]
        endings: list[Ending] = [Completed(), Interrupted(cause="reset", message="reset by peer", sent=True)]
        told: list[Outcome] = []
        for ending in endings:
            outcomes = [read(make(), head, way, ending) for way in ways]
            assert all(repr(outcome) == repr(outcomes[0]) for outcome in outcomes), "the cuts changed the outcome"
            can_be_kept(outcomes[0])
            told.append(outcomes[0])
        return told

    return run


def can_be_kept(outcome: Outcome) -> None:
    """Asserts that the outcome is typed and that the files of a run can hold it."""
    match outcome:
        case Answer():
            row = encode_row(
                result_row(item(), answer_output(outcome, path=None), usage=outcome.usage, task_id=None, effort=EFFORT)
            )
            json.loads(row)
            assert b"\n" not in row
        case TaskAccepted():
            event = AcceptedEvent(i="a", k="0" * 32, n=1, a=0, task=outcome.task_id, model="m", account="a")
            line = encode_line(event, sequence=1, at=NOON, durable=None)
            assert is_intact(line.rstrip(b"\n"))
        case Pictures():
            urls = tuple(ref.url for ref in outcome.refs if isinstance(ref, PictureUrl))
            line = encode_line(Ready(i="a", k="0" * 32, urls=urls), sequence=1, at=NOON, durable=None)
            assert len(line) <= MAX_LINE_BYTES
        case Pending():
            assert outcome.hint_s is None or math.isfinite(outcome.hint_s)
        case Problem():
            problem_can_be_kept(outcome)
        case FollowUp():
            raise AssertionError("ModelScope needs no second request")


def problem_can_be_kept(problem: Problem) -> None:
    assert problem.wait_s is None or (math.isfinite(problem.wait_s) and problem.wait_s >= 0)
    row = encode_row(failure_row(item(), problem, task_id=None, attempts=1, ambiguous=0, at="x"))
    json.loads(row)
    assert b"\n" not in row
    failed = Failed(
        i="a", k="0" * 32, n=1, a=1, kind=problem.kind.value, message=problem.message, request_id=problem.request_id
    )
    assert is_intact(encode_line(failed, sequence=1, at=NOON, durable=None).rstrip(b"\n"))


def decoder_of(name: DialectName, *, schema: dict[str, Json] | None = None) -> Callable[[], Decoder[Outcome]]:
    dialect = dialect_for(provider("simulator" if name != "modelscope-images" else "modelscope", name))
    return lambda: dialect.decoder(item(schema=schema))


def poll_decoder() -> Decoder[Outcome]:
    dialect = dialect_for(provider("modelscope", "modelscope-images"))
    assert isinstance(dialect, TaskDialect)
    return dialect.poll_decoder()


# -- seeds: what the simulator says in every one of its scenarios


def as_text(script: Script) -> bytes:
    lines = "".join(f"{name}: {value}\n" for name, value in script.headers.items())
    body = b"".join(step.piece for step in script.steps if isinstance(step, Send))
    return f"{script.status}\n{lines}\n".encode() + body


@cache
def replies_at(path: str, *, model: str, body: str, headers: tuple[tuple[str, str], ...] = ()) -> tuple[bytes, ...]:
    """Replies to one request in every scenario, streamed and not; each once."""
    found: dict[bytes, None] = {}
    for name in SCENARIOS:
        world = World(1, scenario=name)
        value = {"model": model, "prompt": "a cat", "messages": [{"role": "user", "content": "hi"}], **json.loads(body)}
        call = Call(method="POST", path=path, headers=dict(headers), body=json.dumps(value).encode())
        found[as_text(world.answer(call, NOON))] = None
    return tuple(found)


def chat_seeds() -> tuple[bytes, ...]:
    tools = '{"stream": true, "stream_options": {"include_usage": true}}'
    return tuple(
        seed for more in (tools, '{"stream": false}')
        for seed in replies_at("/v1/chat/completions", model="Qwen/Qwen3-8B", body=more)
    )  # fmt: skip


def messages_seeds() -> tuple[bytes, ...]:
    asked = (("anthropic-version", "2023-06-01"),)
    return tuple(
        seed for more in ('{"stream": true, "max_tokens": 9}', '{"max_tokens": 9}')
        for seed in replies_at("/v1/messages", model="Qwen/Qwen3-8B", body=more, headers=asked)
    )  # fmt: skip


def responses_seeds() -> tuple[bytes, ...]:
    return tuple(
        seed for more in ('{"input": "hi", "stream": true}', '{"input": "hi"}')
        for seed in replies_at("/v1/responses", model="Qwen/Qwen3-8B", body=more)
    )  # fmt: skip


def submit_seeds() -> tuple[bytes, ...]:
    headers = (("x-modelscope-async-mode", "true"),)
    return replies_at("/v1/images/generations", model="Qwen/Qwen-Image", body='{"size": "64x64"}', headers=headers)


def picture_seeds() -> tuple[bytes, ...]:
    return replies_at("/v1/images/generations", model="gpt-image-1", body='{"size": "64x64", "n": 2}')


def vector_seeds() -> tuple[bytes, ...]:
    body = '{"input": ["a", "b"], "encoding_format": "%s", "dimensions": 3}'
    return tuple(
        seed for form in ("float", "base64") for seed in replies_at("/v1/embeddings", model="m", body=body % form)
    )


def transcript_seeds() -> tuple[bytes, ...]:
    body = '{"file": {"sha256": "0", "size": 40000, "head": "ID3"}, "response_format": "%s"}'
    return tuple(
        seed
        for form in ("json", "verbose_json", "srt")
        for seed in replies_at("/v1/audio/transcriptions", model="m", body=body % form)
    )


def poll_seeds() -> tuple[bytes, ...]:
    """A task's whole life in the scenarios that concern pictures."""
    found: dict[bytes, None] = {}
    for name, scenario in SCENARIOS.items():
        if scenario.group not in {"image", "picture", "download"}:
            continue
        world = World(1, scenario=name)
        body = json.dumps({"model": "Qwen/Qwen-Image", "prompt": "a cat", "size": "64x64"}).encode()
        asked = Call(
            method="POST", path="/v1/images/generations", headers={"x-modelscope-async-mode": "true"}, body=body
        )
        try:
            task = json.loads(world.answer(asked, NOON).body or b"{}").get("task_id")
        except ValueError:  # scenarios whose order is answered with something that is not JSON
            continue
        poll = Call(method="GET", path=f"/v1/tasks/{task}", headers={"x-modelscope-task-type": "image_generation"})
        found |= dict.fromkeys(as_text(world.answer(poll, NOON + after)) for after in (0.5, 30.0, 4000.0))
    return tuple(found)


def structured_seeds() -> tuple[bytes, ...]:
    """Answers that should be a book."""
    texts = (
        '{"title": "x", "pages": 3}',
        '```json\n{"title": "x"}\n```',
        '{"title": 1}',
        "[]",
        "no",
        '{"title": "\\ud800"}',
    )
    made = []
    for text in texts:
        message = {"role": "assistant", "content": text}
        whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": None}
        block = {"type": "tool_use", "id": "t", "name": "answer", "input": {"title": text}}
        anthropic = {"type": "message", "content": [{"type": "text", "text": text}, block], "stop_reason": "end_turn"}
        made += [
            b"200\ncontent-type: application/json\n\n" + json.dumps(value).encode() for value in (whole, anthropic)
        ]
    return (*made, *chat_seeds()[:10])


# -- pieces of a reply


def events(data: bytes) -> object:
    """Any bytes give the same events however they are cut, none beyond the cap."""
    cap_bytes = 4096
    told: list[list[SseEvent]] = []
    for step in (len(data) or 1, 1 if len(data) < 5000 else 997, 7, 64):
        parser = SseParser(cap_bytes=cap_bytes)
        found = [event for at in range(0, len(data), step) for event in parser.feed(data[at : at + step])]
        found += parser.end()
        assert all(len(event.data) <= cap_bytes for event in found)
        told.append(found)
    assert all(found == told[0] for found in told)
    return len(told[0])


def error_body(reply: bytes) -> object:
    """An error body of any family under any status."""
    head, body = parts_of(reply)
    families: tuple[Family, ...] = ("modelscope", "openai", "anthropic", "simulator")
    problems = [refusal(family, head, body) for family in families]
    for problem in problems:
        problem_can_be_kept(problem)
    return [problem.kind for problem in problems]


def headers(reply: bytes) -> object:
    """Rate limits, waits and resets: a number of seconds that one can wait, or nothing."""
    head, body = parts_of(reply)
    texts = [*head.headers.values(), body.decode("utf-8", "replace")[:2000]]
    hints = hints_of(head)
    seconds = [wait_s(head, None), wait_s(head, {"retry_after": texts[-1]}), wait_in_prose_s(texts[-1])]
    seconds += [reading for text in texts for reading in (duration_s(text), reset_s(text, received_at=NOON))]
    seconds += [hints.requests_reset_s, hints.tokens_reset_s] if hints else []
    assert all(value is None or (math.isfinite(value) and value >= 0) for value in seconds), seconds
    counts = [hints.model_remaining, hints.account_remaining, hints.tokens_remaining] if hints else []
    assert all(count is None or 0 <= count < 10**18 for count in counts)
    return (seconds, should_retry(head))


def header_seeds() -> tuple[bytes, ...]:
    values = (
        "7", "0.5", "-1", "inf", "nan", "1e400", "6m0s", "1m30.5s", "200ms", "Wed, 21 Oct 2026 07:28:00 GMT",
        "2026-11-22T00:00:00Z", "1795000000", "9" * 30, "2026-11-22T00:00:00+99:99",
        "Fri, 31 Feb 9999 99:99:99 +9999", "²",
    )  # fmt: skip
    names = ("retry-after", "retry-after-ms", "x-ratelimit-reset-requests", "anthropic-ratelimit-tokens-reset")
    more = "x-ratelimit-remaining-requests: 5\nmodelscope-ratelimit-requests-remaining: 3\nx-should-retry: true\n"
    return tuple(f"429\n{name}: {value}\n{more}\ntry again in {value}".encode() for name in names for value in values)


def coding(data: bytes) -> object:
    """A line with the coding and the coded bytes, undone in small steps, or an error with a name."""
    name, _, coded = data.partition(b"\n")
    try:
        undo = unpacker(name.decode("latin-1"))
        if undo is None:
            return None
        size = 0
        for at in range(0, len(coded), 1000):
            for plain in undo.feed(coded[at : at + 1000]):
                assert len(plain) <= STEP_BYTES
                size += len(plain)
                if size > 1 << 22:
                    return "capped"
        return undo.is_complete()
    except CodingError as error:
        return str(error)


def coding_seeds() -> tuple[bytes, ...]:
    zeros = bytes(3_000_000)
    raw = zlib.compressobj(wbits=-15)
    return (
        b"gzip\n" + gzip.compress(b"hello " * 99), b"gzip\n" + gzip.compress(zeros) * 2,
        b"deflate\n" + zlib.compress(zeros),
        b"deflate\n" + raw.compress(b"hello") + raw.flush(), b"br\nxx", b"gzip, gzip\nxx",
        b"x-gzip\n" + gzip.compress(b""),
    )  # fmt: skip


def balance(reply: bytes) -> object:
    """What ModelScope says of points."""
    head, body = parts_of(reply)
    return repr(read(BalanceReader("KEY"), head, [body], Completed()))


def balance_seeds() -> tuple[bytes, ...]:
    value = {"success": True, "data": {"available_balance": 12.5, "frozen_amount": 2}}
    return (b"200\ncontent-type: application/json\n\n" + json.dumps(value).encode(), b"401\n\n{}")


TARGETS: tuple[Target, ...] = (
    Target("events", events, lambda: tuple(parts_of(seed)[1] for seed in (*chat_seeds(), *messages_seeds()))),
    Target("openai-chat", reads(decoder_of("openai-chat")), chat_seeds),
    Target("openai-chat, structured", reads(decoder_of("openai-chat", schema=BOOK)), structured_seeds),
    Target("anthropic-messages", reads(decoder_of("anthropic-messages")), messages_seeds),
    Target("anthropic-messages, structured", reads(decoder_of("anthropic-messages", schema=BOOK)), structured_seeds),
    Target("openai-responses", reads(decoder_of("openai-responses")), responses_seeds),
    Target("openai-responses, structured", reads(decoder_of("openai-responses", schema=BOOK)), structured_seeds),
    Target("modelscope-images", reads(decoder_of("modelscope-images")), submit_seeds),
    Target("modelscope-images, poll", reads(poll_decoder), poll_seeds),
    Target("openai-images", reads(decoder_of("openai-images")), picture_seeds),
    Target("openai-embeddings", reads(decoder_of("openai-embeddings")), vector_seeds),
    Target("openai-transcriptions", reads(decoder_of("openai-transcriptions")), transcript_seeds),
    Target("error body", error_body, lambda: (*chat_seeds(), *messages_seeds())),
    Target("headers", headers, header_seeds),
    Target("content coding", coding, coding_seeds),
    Target("balance", balance, balance_seeds),
)
