"""The whole program, in a process of its own, against servers that mean harm, with a canary for a key.

Whatever they say: the run ends with one of the statuses of the contract and no traceback, writes below its own
directory only and the key nowhere, and stays within 256 MB of a process that does next to nothing.
"""

import random
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.fuzz.hostile_server import Kind, hostile
from tests.fuzz.kinds import KINDS, SLOW, valid_reply
from tests.fuzz.sandbox import KEY_NAME, Ground, assert_harmless, run_here
from tests.support.torture import TORTURE, Tried, at_size

ENDS = frozenset({0, 1, 3, 5})
"""Every end that a server can bring about: done, failed, paused, refused."""
JOBS = {
    "chat": "dialect: openai-chat|model: m",
    "responses": "dialect: openai-responses|model: m",
    "messages": "dialect: anthropic-messages|model: m\nparams: {max_tokens: 9}",
    "tasks": "dialect: modelscope-images|model: m\nkind: image",
    "pictures": "dialect: openai-images|model: m\nkind: image",
    "vectors": "dialect: openai-embeddings|model: m\nkind: embedding",
    "transcripts": "dialect: openai-transcriptions|model: m\nkind: transcription\nfiles: [sound.mp3]",
    "structured": "dialect: openai-chat|model: m\nstream: false\nschema: {type: object, required: [a]}",
}
COMMON = """
limits: {concurrency: 8}
retry: {attempts: 2, max_wait_s: 0.1}
timeouts: {connect_s: 2, first_byte_s: 0.7, idle_s: 0.7, total_s: 1.5, task_s: 6, download_s: 1.5}
breaker: 1000
on_quota: stop
deadline: 4s
"""


def job_of(kind: str, base: str, *, items: int) -> str:
    provider, rest = JOBS[kind].split("|")
    lines = [f"provider: {{base_url: '{base}/v1', api_key_env: {KEY_NAME}, {provider}}}", rest, COMMON, "prompts:"]
    lines = [line.replace("deadline: 4s", "deadline: 7s") for line in lines] if kind == "tasks" else lines
    return "\n".join([*lines, *(f"  - prompt number {number}" for number in range(items))])


@cache
def idle_bytes() -> int:
    """What a process takes that asks one question and gets one answer."""
    with TemporaryDirectory() as folder, hostile({"sound": valid_reply}, 0) as server:
        ground = Ground(Path(folder))
        job = job_of("chat", server.base, items=1)
        ground.write("job.yaml", re.sub(r"(?m)^(timeouts|deadline): .*$", "", job))  # however busy the machine is
        ended = ground.run("run", "job.yaml", "--json")
        assert ended.status == 0, ended.err
        return ended.peak_bytes


def kinds_of(random_source: random.Random) -> dict[str, Kind]:
    """A server's manners: one answer in three or so is sound, few are slow, and not every server has walls."""
    chosen = set(random_source.sample(sorted(KINDS), 8)) - (SLOW if random_source.random() < 0.5 else set())
    chosen -= {"wall"} if random_source.random() < 0.7 else set()
    return {"sound": valid_reply, "sound again": valid_reply, **{name: KINDS[name] for name in chosen}}


@pytest.mark.parametrize("seed", range(at_size(1, 40)))
@pytest.mark.parametrize("kind", JOBS)
def test_no_server_does_harm(
    kind: str, seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], tried: Tried
) -> None:
    """Threats 1 to 6, 9, 10 and 13, all at once; invariants 18 and 19."""
    items = 30
    with hostile(kinds_of(random.Random(f"{kind}{seed}")), seed) as server:
        ground = Ground(tmp_path)
        ground.write("job.yaml", job_of(kind, server.base, items=items))
        ground.write("sound.mp3", "ID3 a sound")
        ended = ground.run("run", "job.yaml", "--json")
        assert_harmless(ground, ended, statuses=ENDS, idle_bytes=idle_bytes())
        for command in ("status", "verify"):
            assert_harmless(ground, run_here(ground, capfd, command, "outputs/job", "--json"), statuses=frozenset({0}))
        assert server.downloads_with_key == 0, "a storage host got the key"
    tried("hostile servers: requests", sum(server.asked.values()))


GREEDY = {
    "chat": ("compressed_bomb", "big_body", "endless_line"),
    "pictures": ("compressed_bomb", "endless_line", "pixel_bomb"),
    "tasks": ("pixel_bomb",),
}
USUAL = [("chat", "compressed_bomb"), ("pictures", "endless_line"), ("pictures", "pixel_bomb")]
GREEDIEST = [(kind, name) for kind in GREEDY for name in GREEDY[kind]]


@pytest.mark.parametrize(("kind", "name"), GREEDIEST if TORTURE else USUAL)
def test_many_big_replies_at_once_take_no_more_memory_than_promised(name: str, kind: str, tmp_path: Path) -> None:
    """Threats 4 and 6: sixteen at a time."""
    with hostile({name: KINDS[name]}, 1) as server:
        ground = Ground(tmp_path)
        ground.write("job.yaml", job_of(kind, server.base, items=16).replace("concurrency: 8", "concurrency: 16"))
        ended = ground.run("run", "job.yaml", "--json")
        assert_harmless(ground, ended, statuses=ENDS, idle_bytes=idle_bytes())
