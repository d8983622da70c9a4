"""A finished run that is run again looks at no item, unless anything changed: then it notices what changed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus
from batchrunner.engine.planning import run_planning_pass
from batchrunner.prompts import digest_of_items
from batchrunner.stores.run_directory import digest_of_job
from tests.manual_edits.cases import CHAT, IMAGE, TWINS, Field, Fields, lines

CSV = 'provider: simulator\nmodel: sim/chat\nprompts: {file: rows.csv, template: "{{ text }}"}\n'
BROKEN = "provider: simulator\nmodel: sim/chat\nscenario: moderated-403\nprompts: [one, two, three, four, five]\n"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each pass over the items."""
    found: list[int] = []

    async def counted(*args: object, **kwargs: object) -> object:
        found.append(1)
        return await run_planning_pass(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("batchrunner.engine.planning.run_planning_pass", counted)
    return found


@pytest.fixture
def csv(tmp_path: Path, fields: Fields) -> Field:
    (tmp_path / "rows.csv").write_text("text\n" + "".join(f"row {number}\n" for number in range(5)))
    return fields(CSV)


@pytest.mark.parametrize("job", [CHAT, TWINS, IMAGE], ids=["chat", "twins", "image"])
def test_a_finished_run_is_run_again_without_a_look_at_its_items(fields: Fields, job: str, passes: list[int]) -> None:
    run = fields(job)
    status, before = run.status(), len(passes)
    for _ in range(2):
        report = run.run()
        assert report.exit_status is ExitStatus.DONE
        assert report.status.items == status.items
        assert report.status.sends == status.sends
    assert len(passes) == before
    assert run.status() == status
    assert run.verify().findings == ()


def test_rows_of_a_file_that_did_not_change_are_not_looked_at(csv: Field, passes: list[int]) -> None:
    before = len(passes)
    assert csv.run().exit_status is ExitStatus.DONE
    assert len(passes) == before


CHANGES: dict[str, tuple[Callable[[Field], object], int, int]] = {
    "a row more": (lambda run: _rewritten(run, lambda text: text + "new\n"), 6, 6),
    "a row less": (lambda run: _rewritten(run, lambda text: text.replace("row 3\n", "")), 4, 5),
    "a letter": (lambda run: _rewritten(run, lambda text: text.replace("row 3", "now 3")), 5, 6),
    "another order": (lambda run: _rewritten(run, lambda text: text.replace("row 1\nrow 2", "row 2\nrow 1")), 5, 5),
    "another setting": (lambda run: _job(run, "params: {temperature: 0.5}\n"), 5, 10),
    "a row removed from the results": (
        lambda run: (run.folder / "results.jsonl").write_bytes(b"".join(lines(run.folder)[1:])),
        5,
        5,
    ),
    "touched results": (lambda run: (run.folder / "results.jsonl").touch(), 5, 5),
    "a touched ledger": (lambda run: (run.folder / "ledger/000001.jsonl").touch(), 5, 5),
}
"""What is changed -> (items, sends) after the next run."""


def _rewritten(run: Field, change: Callable[[str], str]) -> None:
    path = run.folder.parent / "rows.csv"
    path.write_text(change(path.read_text()))


def _job(run: Field, more: str) -> None:
    path = Path(run.job.file)
    path.write_text(path.read_text() + more)
    run.job = api.load_job(str(path), out=str(run.folder))


@pytest.mark.parametrize("case", CHANGES)
def test_what_changed_since_is_noticed(csv: Field, case: str) -> None:
    change, total, sends = CHANGES[case]
    change(csv)
    report = csv.run()
    assert report.status.items.total == total
    assert report.status.items.pending == 0
    assert csv.sends == sends
    lost = 1 if case == "a row removed from the results" else 0
    assert report.status.items.lost == lost
    assert report.exit_status is (ExitStatus.STOPPED if lost else ExitStatus.DONE)
    assert csv.run().exit_status is report.exit_status


def test_a_run_that_is_not_finished_looks_at_its_items(fields: Fields, passes: list[int]) -> None:
    run = fields(CHAT, limit=3)
    before = len(passes)
    assert run.run().exit_status is ExitStatus.DONE
    assert len(passes) == before + 1
    assert run.sends == 5


def test_failed_items_are_sent_again_on_demand(fields: Fields, passes: list[int]) -> None:
    run = fields(BROKEN)
    before, failed = len(passes), run.status().items.failed
    assert failed == 5
    assert run.run().status.items.failed == failed
    assert len(passes) == before
    run.run(retry_failed=True)
    assert len(passes) == before + 1


@pytest.mark.parametrize("where", ["below", "above", "elsewhere", "a link"])
@pytest.mark.parametrize(
    "more",
    ["", 'images_from: [pictures]\nprovider: {base_url: "http://127.0.0.1:9/v1"}\n'],
    ids=["plain", "folders of pictures"],
)
def test_a_finished_run_is_known_from_every_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int], where: str, more: str
) -> None:
    project = tmp_path / "project"
    for folder in (project / "jobs", project / "jobs" / "pictures", tmp_path / "other"):
        folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(project)
    (project / "jobs" / "rows.csv").write_text("text\none\ntwo\n")
    job = (CSV if not more else CSV.replace("provider: simulator\n", "")) + more
    (project / "jobs" / "job.yaml").write_text(job)
    place = {"below": project / "jobs", "above": tmp_path, "elsewhere": tmp_path / "other", "a link": tmp_path / "link"}
    digests = []
    for at, typed in (
        (project, "jobs/job.yaml"),
        (place[where], os.path.relpath(project / "jobs" / "job.yaml", place[where].resolve())),
    ):
        monkeypatch.chdir(at)
        run = api.load_job(typed, simulate=True)
        assert api.run_sync(run).exit_status is ExitStatus.DONE
        digests.append((digest_of_job(run), digest_of_items(run)))
    assert len(passes) == 1
    assert digests[0] == digests[1]
