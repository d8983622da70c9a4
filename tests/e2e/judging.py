"""What must be true of a run's files beside a simulator that counted: nothing lost, nothing silent, nothing altered.

Judges from outside: the files as anybody reads them, the simulator's counters, and its own functions from a request to
what it sends. Knows nothing of the program's insides but the names of the ledger's events.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

import batchrunner
from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import Json
from batchrunner.simulator.answers import expected_text
from batchrunner.simulator.drawing import draw
from batchrunner.simulator.quotas import token_hash
from batchrunner.simulator.requests import content_of
from tests.e2e.runs import CANARY, Simulator
from tests.support.json_lines import json_lines

CHAT_MODEL, IMAGE_MODEL = "sim/chat", "Qwen/Qwen-Image"
IMAGE_SIZE = (64, 64)
_PLAIN = ("a", "the", "7", "3.5", "猫", "Ωμέγα", "naïve", "🦉", "tab\there")
_WORDS = (*_PLAIN, '"so"', "'so'", "{so}", "%s", "\\n", "\\", "<so>", "&")
_ENDS = frozenset({"done", "failed", "retry"})


def write_prompts(path: Path, *, items: int, seed: int = 1) -> list[str]:
    """Write `items` rows of JSONL, each prompt unlike every other, short and long; gives them in order."""
    random_source = random.Random(seed)
    prompts = [
        f"{number}: " + " ".join(random_source.choice(_WORDS) for _ in range(random_source.choice((1, 5, 20, 80))))
        for number in range(1, items + 1)
    ]
    lines = (json.dumps({"n": number, "prompt": prompt}) for number, prompt in enumerate(prompts, 1))
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return prompts


@dataclass(slots=True)
class Till:
    """What the provider was paid for each order, from its log, which forgets: look often."""

    server: Simulator
    paid: Counter[str] = field(default_factory=Counter)
    """Digest of an order -> how often it was executed for money."""
    polled: set[str] = field(default_factory=set)
    """Tasks that were asked after."""
    _seen: int = 0

    def look(self) -> None:
        """Read what came since the last look."""
        entries = self.server.log(since=self._seen)
        if entries:
            assert entries[0]["number"] == self._seen + 1, "the log has forgotten requests: look more often"
            self._seen = entries[-1]["number"]
        self.paid.update(entry["content"] for entry in entries if entry["paid"])
        self.polled.update(entry["path"].rpartition("/")[2] for entry in entries if entry["kind"] == "poll")


def chat_order(prompt: str) -> str:
    """The digest by which the simulator knows the order of this prompt."""
    turns: list[Json] = [{"role": "user", "content": prompt}]
    return f"{content_of(token_hash(CANARY), {'model': CHAT_MODEL, 'messages': turns}):016x}"


def image_order(prompt: str) -> str:
    """The same for a picture."""
    size = f"{IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}"
    return f"{content_of(token_hash(CANARY), {'model': IMAGE_MODEL, 'prompt': prompt, 'size': size}):016x}"


def every_row_reports_its_own_doubts(out: Path, till: Till, orders: Sequence[str]) -> None:
    """Asserts that an item was paid no oftener than once and one more time for each doubtful send in its own row."""
    found = json_lines(out / "results.jsonl")
    assert set(till.paid) <= set(orders), "something was paid that nobody ordered"
    for row in found:
        assert till.paid[orders[row["index"] - 1]] <= 1 + row["ambiguous"], row


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What came of a job, counted against what its provider saw."""

    lost: int
    """Items without an outcome, and items that were sent again after their outcome was in the ledger."""
    repeated: int
    """Rows beyond one an item."""
    paid_twice: int
    reported: int
    """Sends that the program calls possible duplicates."""
    submitted_again: int
    """Intents of items whose accepted task had not come to its end."""
    unrecorded: int
    """Sends that the provider saw and the ledger does not."""

    @property
    def silent(self) -> int:
        """Paid twice and not told."""
        return max(0, self.paid_twice - self.reported)


def account_of(out: Path, stats: dict[str, Any], *, items: int) -> Account:
    """Count everything; asserts nothing."""
    ids = Counter(row["id"] for name in ("results.jsonl", "failures.jsonl") for row in json_lines(out / name))
    records = ledger_records(out)
    after_end, submitted_again = _second_sends(records)
    sends = batchrunner.status(str(out)).sends
    return Account(
        lost=items - len(ids) + after_end,
        repeated=ids.total() - len(ids),
        paid_twice=stats["paid_twice"],
        reported=sends.possible_duplicates,
        submitted_again=submitted_again,
        unrecorded=max(0, stats["sends"] - sum(record["e"] == "intent" for record in records)),
    )


def nothing_is_wrong(account: Account) -> None:
    """Asserts what the first page promises."""
    assert account.lost == 0, account
    assert account.repeated == 0, account
    assert account.silent == 0, account
    assert account.submitted_again == 0, account
    assert account.unrecorded == 0, account


def ledger_records(out: Path) -> list[dict[str, Any]]:
    """The sound lines of all segments in order; a last line without its end is left out."""
    segments = sorted((out / "ledger").glob("*.jsonl")) if (out / "ledger").exists() else []
    lines = (line for segment in segments for line in segment.read_bytes().split(b"\n")[:-1])
    return [json.loads(line) for line in lines]


def in_flight(out: Path) -> Counter[str]:
    """Keys of items that were sent and have no answer on the disk: what was under way when the process died."""
    last = {record["k"]: record["e"] for record in ledger_records(out) if "k" in record}
    rows = {json.loads(line)["key"] for line in (out / "results.jsonl").read_bytes().split(b"\n")[:-1]}
    return Counter(key for key, event in last.items() if event == "intent" and key not in rows)


def open_tasks(records: Iterable[dict[str, Any]]) -> int:
    """Remote tasks that were accepted and have no end."""
    under_way: set[str] = set()
    for record in records:
        if record["e"] == "accepted":
            under_way.add(record["k"])
        elif record["e"] in _ENDS:
            under_way.discard(record["k"])
    return len(under_way)


def polled_tasks_were_recorded(records: Iterable[dict[str, Any]], till: Till) -> None:
    """Asserts that no task was asked after before its id was in the ledger."""
    assert till.polled <= {record["task"] for record in records if record["e"] == "accepted"}


def is_intact(out: Path) -> None:
    """Asserts that the program's own audit finds no damage, and nothing that it would not have done."""
    if not (out / "run.json").exists():
        assert not ledger_records(out), "a ledger without run.json"
        return
    audit = batchrunner.verify(str(out))
    assert audit.exit_status is ExitStatus.DONE, audit
    assert [finding for finding in audit.findings if finding.level != "note"] == []


def texts_are_what_was_sent(out: Path, prompts: Sequence[str]) -> None:
    """Asserts that every item is done, once, with the text that the simulator makes of its prompt."""
    found = json_lines(out / "results.jsonl")
    assert sorted(row["index"] for row in found) == list(range(1, len(prompts) + 1))
    for row in found:
        prompt = prompts[row["index"] - 1]
        assert (row["id"], row["prompt"]) == (f"q{row['index']}", prompt)
        assert row["output"]["text"] == expected_text(CHAT_MODEL, prompt)


def pictures_are_what_was_sent(out: Path, prompts: Sequence[str]) -> None:
    """Asserts that every item is done, once, with a file of the stated bytes and the pixels that were drawn for it."""
    found = json_lines(out / "results.jsonl")
    assert sorted(row["index"] for row in found) == list(range(1, len(prompts) + 1))
    for row in found:
        prompt = prompts[row["index"] - 1]
        (picture,) = row["output"]["images"]
        kept = (out / picture["path"]).read_bytes()
        assert (len(kept), hashlib.sha256(kept).hexdigest()) == (picture["bytes"], picture["sha256"])
        assert _pixels(kept) == _pixels(draw(prompt, IMAGE_SIZE, 0)), row["id"]


def _pixels(picture: bytes) -> tuple[tuple[int, int], bytes]:
    with Image.open(BytesIO(picture)) as opened:
        return opened.size, opened.convert("RGB").tobytes()


def _second_sends(records: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """(sends after an item's outcome, submits while its task was under way)."""
    ended: set[str] = set()
    under_way: set[str] = set()
    after_end = submitted_again = 0
    for record in records:
        event, key = record["e"], record.get("k", "")
        if event == "intent":
            after_end += key in ended
            submitted_again += key in under_way
        elif event == "accepted":
            under_way.add(key)
        if event in _ENDS:
            under_way.discard(key)
        if event in {"done", "failed"}:
            ended.add(key)
    return after_end, submitted_again
