"""Threat 2, invariant 18: every way in which a run can fail, with a canary for a key, and every byte written searched.

The server knows the key and says it back wherever it can: in errors, in answers, in headers, in ids, URLs and pictures.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchrunner.core.row import PictureOrigin
from batchrunner.stores.picture_formats import with_metadata
from tests.fuzz.hostile_server import Asked, Kind, Step, Steps, hostile
from tests.fuzz.kinds import (
    chat_answer,
    cut,
    echoing_answer,
    echoing_pieces,
    echoing_text,
    half_http,
    http,
    json_reply,
    noise,
    redirect,
    silence,
    valid_reply,
    wrong_coding,
)
from tests.fuzz.sandbox import CANARY, HALVES, KEY_NAME, Ground, assert_harmless, run_here
from tests.fuzz.stores import picture_seeds
from tests.support.torture import Tried
from tests.support.waiting import wait_until


def refusing(status: str, *, more: str = "") -> Kind:
    """A refusal that quotes the key in message, code, id and headers, and once more where messages are cut."""

    def kind(asked: Asked) -> Steps:
        key = asked.key
        message = f"bad key {key} {'x' * (970 - len(key))} {key}"
        error = {"error": {"message": message, "code": key, "type": key}, "request_id": key}
        return json_reply(error, status=status, more=f"x-request-id: {key}\r\nServer: {key}\r\n{more}")

    return kind


def kept_at_files(kind: Callable[[Asked], Steps]) -> Kind:
    """A reply that names a picture, and what the storage host says of it."""

    def both(asked: Asked) -> Steps:
        return (
            kind(asked)
            if asked.path.startswith("/files")
            else json_reply({"data": [{"url": f"{asked.base}/files/a.png"}]})
        )

    return both


def led_on(asked: Asked) -> list[Step]:
    """To an address with the key in it, where there is nothing."""
    if CANARY in asked.path:
        return [http(b"", status="404 No")]
    return [http(b"", status="302 Found", more=f"Location: /files/{CANARY}?{CANARY}\r\n")]


def task_refused(asked: Asked) -> Steps:
    if "/tasks/" in asked.path:
        return json_reply({"task_status": "FAILED", "errors": {"message": asked.key, "code": asked.key}})
    return valid_reply(asked)


def with_key_inside(asked: Asked) -> list[Step]:
    """A whole picture whose text chunk quotes the key: storage hosts may be in league with the server."""
    png = next(data for data in picture_seeds() if data.startswith(b"\x89PNG"))
    origin = PictureOrigin(prompt=CANARY, model="m", id="i", key="k", params={})
    return [http(with_metadata(png, "PNG", origin, size=(1, 1)), kind="image/png")]


def escaped(asked: Asked) -> list[Step]:
    text = "".join(f"\\u{ord(char):04x}" for char in asked.key)
    body = f'{{"choices":[{{"index":0,"message":{{"content":"{text}"}},"finish_reason":"{text}"}}]}}'
    return [http(body.encode())]


def tool_call(asked: Asked) -> list[Step]:
    call = {"id": asked.key, "type": "function", "function": {"name": asked.key, "arguments": asked.key}}
    message = {"role": "assistant", "content": None, "reasoning_content": asked.key, "tool_calls": [call]}
    return json_reply({"choices": [{"index": 0, "message": message, "finish_reason": asked.key}]})


def parsed(asked: Asked) -> list[Step]:
    return chat_answer(f'{{"{asked.key}": ["{asked.key}", {{"a": "{asked.key}"}}]}}')


CHAT = "model: m\n"
IMAGE = "model: m\nkind: image\n"
TASKS = "dialect: modelscope-images, "
PICTURES = "dialect: openai-images, "
POLLED = "deadline: 8s"
"""The first poll of a new server comes after three seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A way to fail: what the server does, what the job says, how the run may end."""

    kind: Kind = valid_reply
    provider: str = ""
    job: str = CHAT
    statuses: frozenset[int] = frozenset({1})
    base: str = ""


FAILURES: dict[str, Failure] = {
    "400": Failure(kind=refusing("400 Bad Request")),
    "401": Failure(kind=refusing("401 Unauthorized"), statuses=frozenset({5})),
    "402": Failure(kind=refusing("402 Payment Required"), statuses=frozenset({1, 3, 5})),
    "403": Failure(kind=refusing("403 Forbidden"), statuses=frozenset({1, 5})),
    "404": Failure(kind=refusing("404 Not Found"), statuses=frozenset({2, 3})),
    "429": Failure(kind=refusing("429 Slow Down", more="Retry-After: 0.1\r\n"), statuses=frozenset({1, 3})),
    "500": Failure(kind=refusing("500 Oops")),
    "503": Failure(kind=refusing("503 Busy"), statuses=frozenset({1, 3})),
    "redirect": Failure(kind=redirect, statuses=frozenset({1, 3})),
    "redirect with the key in it": Failure(
        kind=lambda asked: [http(b"", status="302 Found", more=f"Location: https://x.invalid/{asked.key}\r\n")],
        statuses=frozenset({1, 3}),
    ),
    "reset in the middle": Failure(kind=cut, statuses=frozenset({0, 1})),
    "no HTTP": Failure(kind=noise),
    "half of HTTP": Failure(kind=half_http),
    "status line with the key": Failure(kind=lambda asked: [f"HTTP/1.1 2x0 {asked.key}\r\n\r\n".encode(), "close"]),
    "header line with the key": Failure(
        kind=lambda asked: [f"HTTP/1.1 200 OK\r\n{asked.key}\0\r\n\r\n".encode(), "close"]
    ),
    "silence": Failure(kind=silence),
    "a stop in the middle": Failure(kind=lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", 5.0]),
    "wrong coding": Failure(kind=wrong_coding),
    "coding with the key": Failure(kind=lambda asked: [http(b"{}", more=f"Content-Encoding: {asked.key}\r\n")]),
    "the request as text": Failure(kind=echoing_text, statuses=frozenset({1, 3})),
    "the key as an answer": Failure(kind=echoing_answer, statuses=frozenset({0})),
    "the key in pieces": Failure(kind=echoing_pieces, statuses=frozenset({0})),
    "the key escaped": Failure(kind=escaped, statuses=frozenset({0, 1})),
    "the key as a tool call": Failure(kind=tool_call, statuses=frozenset({0, 1})),
    "the key as parsed JSON": Failure(
        kind=parsed, job=CHAT + "stream: false\nschema: {type: object}\n", statuses=frozenset({0})
    ),
    "the key as a schema's fault": Failure(
        kind=parsed, job=CHAT + "stream: false\nschema: {type: object, additionalProperties: false}\n"
    ),
    "the key in answer files": Failure(
        kind=echoing_answer, job=CHAT + 'output: {each: "answers/{{ id }}.md"}\n', statuses=frozenset({0})
    ),
    "the key as a task": Failure(kind=echoing_answer, provider=TASKS, job=IMAGE, statuses=frozenset({0, 1, 3})),
    "the key in a picture": Failure(
        kind=kept_at_files(with_key_inside), provider=PICTURES, job=IMAGE, statuses=frozenset({0, 1, 3})
    ),
    "a download that fails": Failure(
        kind=kept_at_files(lambda _: [http(CANARY.encode(), status=f"404 {CANARY}")]), provider=PICTURES, job=IMAGE,
        statuses=frozenset({1, 3}),
    ),
    "a download led on": Failure(
        kind=kept_at_files(led_on), provider=PICTURES, job=IMAGE, statuses=frozenset({1, 3})
    ),
    "a bad picture": Failure(
        kind=kept_at_files(lambda _: [http(b"\x89PNG\r\n\x1a\n" + CANARY.encode())]), provider=PICTURES, job=IMAGE,
        statuses=frozenset({1, 3}),
    ),
    "a task refused": Failure(kind=task_refused, provider=TASKS, job=IMAGE + POLLED, statuses=frozenset({1, 3})),
    "no such name": Failure(
        base="http://no-such-host.invalid/v1", provider="allow_http: true, ", statuses=frozenset({1, 3})
    ),
    "no TLS there": Failure(base="https://127.0.0.1:{port}/v1", statuses=frozenset({1, 3})),
    "nobody listens": Failure(base="http://127.0.0.1:1/v1", statuses=frozenset({1, 3})),
    "a proxy that is gone": Failure(
        provider="proxy: 'http://127.0.0.1:1', allow_http: true, ", statuses=frozenset({1, 3})
    ),
    "a proxy that is no proxy": Failure(
        kind=refusing("407 No"), provider="proxy: 'http://127.0.0.1:{port}', ", base="https://127.0.0.1:9/v1",
        statuses=frozenset({1, 3}),
    ),
    "a command that fails": Failure(
        job=CHAT + "notify: [sh, -c, 'env; cat; echo $CANARY_KEY; env >&2; exit 3']\n", statuses=frozenset({0})
    ),
    "a budget that is spent": Failure(job=CHAT + "budget: {calls: 1}\n", statuses=frozenset({3})),
    "an unknown key in the job": Failure(job=CHAT + "modle: m\n", statuses=frozenset({2})),
    "the key as a header": Failure(job=CHAT, provider=f"headers: {{X-Team: {CANARY}}}, ", statuses=frozenset({2})),
    "the key as a parameter": Failure(job=CHAT + f"params: {{user: {CANARY}}}\n", statuses=frozenset({2})),
    "the key as a base URL": Failure(base=f"http://127.0.0.1:9/{CANARY}/v1", statuses=frozenset({2})),
}  # fmt: skip
COMMON = """
limits: {concurrency: 2}
retry: {attempts: 2, max_wait_s: 0.05}
on_quota: stop
"""
HASTY = "timeouts: {connect_s: 1, first_byte_s: 0.2, idle_s: 0.2, total_s: 0.5, task_s: 5, download_s: 0.5}\n"


def limits_of(row: Failure) -> str:
    """Of time: short ones where they may end the run or the request, and none where a busy machine would reach them."""
    timeouts = "" if 0 in row.statuses else HASTY
    return timeouts + ("" if POLLED in row.job else "deadline: 2s\n" if 3 in row.statuses else "deadline: 90s\n")


def job_text(row: Failure, *, port: int) -> str:
    base = row.base.replace("{port}", str(port)) or f"http://127.0.0.1:{port}/v1"
    more = row.provider.replace("{port}", str(port))
    provider = f"provider: {{base_url: '{base}', {more}api_key_env: {KEY_NAME}}}"
    return f"{provider}\n{row.job}{COMMON}{limits_of(row)}prompts: [one prompt, another prompt]\n"


@pytest.mark.parametrize("name", FAILURES)
def test_no_failure_writes_the_key(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], tried: Tried) -> None:
    """Threat 2, invariant 18: run it, look at it, audit it; as JSON and for people."""
    row = FAILURES[name]
    with hostile({"kind": row.kind}, 7) as server:
        ground = Ground(tmp_path)
        ground.write("job.yaml", job_text(row, port=server.port))
        holds_key = any(half in (ground.work / "job.yaml").read_bytes() for half in HALVES)
        ended = run_here(ground, capfd, "run", "job.yaml", "--json")
        assert_harmless(ground, ended, statuses=row.statuses)
        for command in ("status", "verify") if not holds_key and 2 not in row.statuses else ():
            for more in ((), ("--json",)):
                ended = run_here(ground, capfd, command, "outputs/job", *more)
                assert_harmless(ground, ended, statuses=frozenset({0}))
    tried("canary: ways to fail", 1)


@pytest.mark.parametrize(
    "text", [f"say {CANARY}", f"{{id: {CANARY}, prompt: hi}}", f"{{prompt: hi, vars: {{a: {CANARY}}}}}"]
)
def test_a_prompt_that_holds_the_key_is_refused_before_anything_is_written(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Threats 2 and 15: whatever is sent is written down, too."""
    ground = Ground(tmp_path)
    ground.write("job.yaml", job_text(Failure(), port=9).replace("[one prompt, another prompt]", f"[{text}]"))
    assert_harmless(ground, run_here(ground, capfd, "run", "job.yaml", "--json"), statuses=frozenset({2}))


def test_a_row_that_holds_the_key_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Threats 2 and 15, for what only the rows of a source say."""
    ground = Ground(tmp_path)
    ground.write("rows.csv", f"prompt,note\nhi,plain\nho,{CANARY}\n")
    ground.write("job.yaml", job_text(Failure(), port=9).replace("[one prompt, another prompt]", "{file: rows.csv}"))
    ended = run_here(ground, capfd, "run", "job.yaml", "--json")
    assert_harmless(ground, ended, statuses=frozenset({2}))
    assert KEY_NAME.encode() in ended.err


def test_a_full_disk_writes_no_key(tmp_path: Path) -> None:
    """Threat 2, with a limit of the system on every file: 4, no answer lost without a word, no key in what is said."""
    with hostile({"kind": echoing_answer}, 1) as server:
        ground = Ground(tmp_path)
        ground.write("job.yaml", job_text(Failure(statuses=frozenset({0})), port=server.port))
        ended = ground.run("run", "job.yaml", "--json", environment={"FILE_LIMIT_BYTES": "1500"})
        assert_harmless(ground, ended, statuses=frozenset({4}))


def test_an_interruption_writes_no_key(tmp_path: Path) -> None:
    """Threat 2: SIGINT while the server is silent: 130, and nothing of the key."""
    with hostile({"kind": silence}, 1) as server:
        ground = Ground(tmp_path)
        text = (
            job_text(Failure(), port=server.port)
            .replace("_byte_s: 0.2", "_byte_s: 1")
            .replace("total_s: 0.5", "total_s: 2")
            .replace("attempts: 2", "attempts: 50")
        )
        ground.write("job.yaml", text)
        process = ground.start("run", "job.yaml", "--json")
        wait_until(lambda: server.asked, "it asks", process=process)
        process.send_signal(signal.SIGINT)
        assert_harmless(ground, ground.finish(process), statuses=frozenset({130}))
