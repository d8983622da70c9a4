"""Whole runs against a field server: a job as a mapping or YAML, loaded, run in virtual time, and what it left.

`Field.run` is one run; `Case` is a row of a table of them, and `check_case` what each row must come to.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from batchrunner import api
from batchrunner.core.status import Report
from batchrunner.engine.work_queue import LoopClock
from tests.field.server import HELLO, Answer, Asked, Cut, FieldServer, Reply, Script, once, serving
from tests.support.json_lines import json_lines
from tests.support.virtual_time import run_virtual

KEY_ENV: Final = "FIELD_KEY"
KEY: Final = "sk-field-0123456789abcdefghij"
"""The account's key: no file of a run may hold it, which `Field.run` looks after."""
_BEGAN: Final = 1_795_000_000.0
"""Wall clock of the first run: Monday evening."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a run came to."""

    report: Report
    server: FieldServer
    out: Path
    said: tuple[str, ...]
    """What a person was told while it ran."""
    took_s: float
    """Virtual seconds."""

    @property
    def exit_status(self) -> int:
        return int(self.report.exit_status)

    @property
    def asked(self) -> list[Asked]:
        return self.server.asked

    def lines(self, name: str) -> list[dict[str, Any]]:
        return json_lines(self.out / name)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.lines("results.jsonl")

    @property
    def failures(self) -> list[dict[str, Any]]:
        return self.lines("failures.jsonl")

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The ledger's records, those of these names only if any is given."""
        segments = sorted((self.out / "ledger").glob("*.jsonl"))
        records = [json.loads(line) for path in segments for line in path.read_text("ascii").splitlines()]
        return [record for record in records if not names or record["e"] in names]

    def output(self) -> dict[str, Any]:
        """Of the one row there is."""
        assert len(self.rows) == 1, (self.rows, self.failures, self.said)
        output: dict[str, Any] = self.rows[0]["output"]
        return output


@dataclass
class Field:
    """A folder for one job, over as many runs as a test wants."""

    folder: Path
    began: float = _BEGAN
    runs: list[Ran] = field(default_factory=list)

    def run(
        self,
        script: Script,
        job: Mapping[str, Any] | str | None = None,
        *,
        seed: int = 0,
        overrides: tuple[str, ...] = (),
        **options: Any,
    ) -> Ran:
        """Run a job against a server that answers by the script.

        `job` is a mapping laid over `job_with()`, or the text of a whole YAML file, in which `{base}` is the server's
        address; the port is another in every run, which changes no item's key.
        """
        path = self.folder / "job.yaml"
        said: list[str] = []

        async def main() -> Ran:
            async with serving(script, seed=seed) as server:
                text = job if isinstance(job, str) else json.dumps(job_with(**(job or {})), indent=1)
                path.write_text(text.replace("{base}", server.base), "utf-8")
                loaded = api.load_job(str(path), out=str(self.folder / "out"), overrides=overrides)
                clock = LoopClock(wall_at_zero=self.began)
                report = await api.run(loaded, clock=clock, say=said.append, **options)
                took_s = clock.monotonic()
                self.began = clock.wall() + 1.0
            return Ran(report=report, server=server, out=self.folder / "out", said=tuple(said), took_s=took_s)

        ran = run_virtual(main)
        self.runs.append(ran)
        for file in ran.out.rglob("*"):
            assert not file.is_file() or KEY.encode() not in file.read_bytes(), f"{file} holds the key"
        assert KEY not in " ".join(said)
        return ran


def job_with(**changes: Any) -> dict[str, Any]:
    """A job of one prompt for a chat server, with these keys instead; `provider` is laid over, not replaced."""
    provider = {"base_url": "{base}/v1", "api_key_env": KEY_ENV, **changes.pop("provider", {})}
    return {"name": "job", "provider": provider, "model": "m", "prompts": ["p0"], **changes}


@pytest.fixture(name="field")
def _field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Field:
    monkeypatch.setenv(KEY_ENV, KEY)
    return Field(tmp_path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row of a table: a reply seen in the field, who gets it, and what is right.

    Without a `script` the `reply` goes to the first `times` requests (None: to all) and later ones get `good`.
    """

    name: str
    reply: Answer = b""
    times: int | None = None
    good: Answer = HELLO
    script: Script | None = None
    job: Mapping[str, Any] = field(default_factory=dict)
    requests: int | None = 1
    """None: not counted."""
    exit_status: int = 0
    done: int = 1
    failed: int = 0
    text: str | None = None
    """Of the one row."""
    output: Mapping[str, Any] = field(default_factory=dict)
    """Values at dotted paths of the one row's output, such as `tool_calls.0.name`; a function is asked instead."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The same of the row itself."""
    failure: Mapping[str, Any] = field(default_factory=dict)
    """The same of the first failure's row."""
    not_before_s: float | None = None
    """Virtual seconds between the first request and the second, at least."""
    not_after_s: float | None = None
    """The same, at most."""
    reference: str = ""
    """Where such a reply was reported; it stands in docs/field-replies.md."""

    def __str__(self) -> str:
        return self.name

    def answering(self, cut: Cut = "whole") -> Script:
        """The script, with replies cut into such pieces."""
        script = self.script
        if script is None:
            script = once(self.reply, self.good, times=self.times if self.times is not None else 1 << 60)
        if cut == "whole":
            return script

        def in_pieces(asked: Asked) -> Answer:
            reply = script(asked)
            return replace(reply, cut=cut) if isinstance(reply, Reply) else Reply(data=reply, cut=cut)

        return in_pieces


def check_case(field: Field, case: Case, *, cut: Cut = "whole", seed: int = 0, **options: Any) -> Ran:
    """Run the case and hold what came of it against the row; the value is for further questions."""
    ran = field.run(case.answering(cut), case.job, seed=seed, **options)
    told = (ran.rows, ran.failures, ran.said, ran.report.status)
    if case.requests is not None:
        assert len(ran.asked) == case.requests, told
    assert (ran.exit_status, len(ran.rows), len(ran.failures)) == (case.exit_status, case.done, case.failed), told
    if case.text is not None:
        assert ran.output()["text"] == case.text
    for place, expected in case.output.items():
        _expect(ran.output(), place, expected)
    for place, expected in case.row.items():
        _expect(ran.rows[0], place, expected)
    for place, expected in case.failure.items():
        _expect(ran.failures[0], place, expected)
    if case.not_before_s is not None:
        assert ran.asked[1].at_s - ran.asked[0].at_s >= case.not_before_s
    if case.not_after_s is not None:
        assert ran.asked[1].at_s - ran.asked[0].at_s <= case.not_after_s
    return ran


def _expect(value: Any, place: str, expected: Any) -> None:
    found = at_path(value, place)
    if callable(expected):
        assert expected(found), (place, found)
    else:
        assert found == expected, (place, found)


def at_path(value: Any, place: str) -> Any:
    """The value at a dotted path; None where a step is missing."""
    for step in place.split("."):
        if isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value


def case_ids(cases: tuple[Case, ...]) -> list[str]:
    """Ids for `parametrize`; a name that stands twice is a mistake."""
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return names


__all__ = ["KEY", "KEY_ENV", "Case", "Field", "Ran", "at_path", "case_ids", "check_case", "job_with"]
