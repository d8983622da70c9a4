"""A fault of this program in one item's work fails that item, is paid for once, and is nobody else's trouble."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus, StoreBrokenError
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.core.row import result_row
from batchrunner.core.status import Report
from batchrunner.engine import recorder, send_records
from batchrunner.engine.image_tasks import ImageTasks, PictureSaver
from batchrunner.engine.recorder import Recorder
from batchrunner.engine.task_poller import TaskPoller
from batchrunner.engine.verdict import GivenUp
from batchrunner.providers.modelscope_images import ModelScopeImages
from batchrunner.providers.openai_chat import ChatDecoder, OpenAiChat
from batchrunner.report import summary
from batchrunner.stores import run_directory
from batchrunner.stores.artifacts import AnswerFolder
from tests.support.engine import Latency, RunHarness, World, chat, image

PROMPTS = [f"prompt {number}" for number in range(8)]
BAD = "prompt 3"
CANARY = "sk-canary-77e1c0ffee"
Patch = pytest.MonkeyPatch


def broken_encoder(patch: Patch, error: Exception) -> None:
    encode = OpenAiChat.encode

    def broken(self: OpenAiChat, item: Any, revision: Any) -> Any:
        if item.prompt == BAD:
            raise error
        return encode(self, item, revision)

    patch.setattr(OpenAiChat, "encode", broken)


def broken_decoder(patch: Patch, error: Exception, method: str = "end") -> None:
    """Of the bad item only, whose decoder is marked when it is made."""
    decoder, whole = OpenAiChat.decoder, getattr(ChatDecoder, method)
    bad: set[int] = set()

    def marking(self: OpenAiChat, item: Any) -> Any:
        made = decoder(self, item)
        if item.prompt == BAD:
            bad.add(id(made))
            kept.append(made)
        return made

    def broken(self: ChatDecoder, *given: Any) -> Any:
        if id(self) in bad:
            raise error
        return whole(self, *given)

    kept: list[Any] = []  # so that no other object gets its id
    patch.setattr(OpenAiChat, "decoder", marking)
    patch.setattr(ChatDecoder, method, broken)


def broken_feed(patch: Patch, error: Exception) -> None:
    broken_decoder(patch, error, "feed")


def broken_begin(patch: Patch, error: Exception) -> None:
    broken_decoder(patch, error, "begin")


def broken_row(patch: Patch, error: Exception) -> None:
    whole = result_row

    def broken(item: Any, *given: Any, **named: Any) -> Any:
        if item.prompt == BAD:
            raise error
        return whole(item, *given, **named)

    patch.setattr(send_records, "result_row", broken)


def broken_keeper(patch: Patch, error: Exception) -> None:
    keep = PictureSaver.keep

    async def broken(self: PictureSaver, work: Any, *given: Any, **named: Any) -> Any:
        if work.item.prompt == BAD:
            raise error
        return await keep(self, work, *given, **named)

    patch.setattr(PictureSaver, "keep", broken)


def broken_poller(patch: Patch, error: Exception) -> None:
    """The reader of the reply to the bad item's first poll.

    Not of whatever poll comes first: that depends on which thread's write ends first, so on the machine's load.
    """
    whole, follow = ModelScopeImages.poll_decoder, ImageTasks.follow
    bad: set[str] = set()

    async def noting(self: ImageTasks, work: Any, task: Any, **named: Any) -> Any:
        if work.item.prompt == BAD:
            bad.add(task.task_id)
        return await follow(self, work, task, **named)

    def broken(self: ModelScopeImages, task_id: str, *more: Any) -> Any:
        decoder = whole(self, task_id, *more)
        if task_id in bad:
            bad.clear()
            patch.setattr(ImageTasks, "follow", follow)

            def end(_: Any) -> Any:
                raise error

            class Broken:
                begin, feed = decoder.begin, decoder.feed

            Broken.end = staticmethod(end)  # type: ignore[attr-defined]  # a decoder with one broken method
            return Broken()
        return decoder

    patch.setattr(ImageTasks, "follow", noting)
    patch.setattr(ModelScopeImages, "poll_decoder", broken)


Break = Callable[[Patch, Exception], None]
KINDS: list[tuple[Break, int]] = [
    (broken_encoder, 0),
    (broken_begin, 1),
    (broken_feed, 1),
    (broken_decoder, 1),
    (broken_row, 1),
    (broken_keeper, 1),
    (broken_poller, 1),
]
ERRORS = [
    RecursionError("too deep"),
    KeyError("choices"),
    OSError("no disk of ours"),
    TimeoutError(),
    ValueError("\ud800"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("breaking", "left"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])
def test_the_item_fails_as_internal_is_sent_once_at_most_and_the_others_go_on(
    harness: RunHarness, monkeypatch: Patch, breaking: Break, left: int, error: Exception
) -> None:
    breaking(monkeypatch, error)
    pictures = breaking in {broken_keeper, broken_poller}
    report = harness.run((image if pictures else chat)(*PROMPTS, more="limits: {concurrency: 3}"))
    (failure,) = harness.rows("failures.jsonl")
    assert (failure["error"]["class"], report.exit_status, len(harness.rows())) == ("internal", 1, 7)
    assert harness.stats.sends == 7 + left
    assert failure["attempts"] == left
    assert report.status.sends.possible_duplicates == left
    log = harness.out / "errors.log"
    assert "Traceback (most recent call last)" in log.read_text()
    assert type(error).__name__ in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert api.verify(str(harness.out)).sound
    told = summary.summary(report.status)
    assert f"please report it and attach {log}" in told
    assert f"please report it and attach {log}" in summary.summary(api.status(str(harness.out)))
    again = harness.run((image if pictures else chat)(*PROMPTS, more="limits: {concurrency: 3}"))
    assert (again.exit_status, harness.stats.sends) == (1, 7 + left), "nothing is bought again"
    monkeypatch.undo()
    mended = harness.run((image if pictures else chat)(*PROMPTS, more="limits: {concurrency: 3}"), retry_failed=True)
    assert (mended.exit_status, len(harness.rows())) == (0, 8)
    assert harness.stats.sends == (8 if pictures else 8 + left), "what a server had accepted is not ordered again"
    assert mended.status.sends.possible_duplicates == (0 if pictures else left)


@pytest.mark.parametrize("breaking", [broken_keeper, broken_poller])
def test_an_accepted_task_outlives_every_fault_of_ours_and_is_not_ordered_again(
    harness: RunHarness, monkeypatch: Patch, breaking: Break
) -> None:
    """Over several lives, with `--limit`, and beside a plain run, its task is the one that was accepted first."""
    job = image(*PROMPTS)
    breaking(monkeypatch, KeyError("once"))
    harness.run(job)
    (failure,) = harness.rows("failures.jsonl")
    assert "without a new request" in failure["error"]["message"]
    harness.run(job, retry_failed=True, limit=1)
    monkeypatch.undo()
    breaking(monkeypatch, KeyError("twice"))
    assert harness.run(job, retry_failed=True).exit_status == 1
    monkeypatch.undo()
    mended = harness.run(job, retry_failed=True)
    assert (mended.exit_status, harness.stats.sends, mended.status.sends.possible_duplicates) == (0, 8, 0)
    assert failure["task_id"] in {row["task_id"] for row in harness.rows()}
    assert not harness.rows("superseded.jsonl")
    assert api.verify(str(harness.out)).sound


def test_a_task_that_comes_to_its_own_end_after_a_fault_of_ours_is_ordered_again(
    harness: RunHarness, monkeypatch: Patch
) -> None:
    broken_keeper(monkeypatch, KeyError("once"))
    harness.run(image(BAD))
    monkeypatch.undo()
    monkeypatch.setattr(ImageTasks, "follow", _task_failed)
    harness.run(image(BAD), retry_failed=True)
    monkeypatch.undo()
    assert harness.stats.sends == 1
    mended = harness.run(image(BAD), retry_failed=True)
    assert (mended.exit_status, harness.stats.sends) == (0, 2)


async def _task_failed(self: ImageTasks, *_given: Any, **_named: Any) -> GivenUp:
    problem = Problem(kind=ProblemKind.CONTENT_FILTER, message="no", of_task=True)
    return GivenUp(problem=problem, charged=1, ambiguous=False)


def test_an_answer_that_could_not_be_recorded_is_reported(harness: RunHarness, monkeypatch: Patch) -> None:
    broken_row(monkeypatch, KeyError("row"))
    harness.run(chat(BAD))
    assert any("could not save this answer" in said for said in harness.said)


def test_an_answer_whose_own_file_could_not_be_written_is_reported(harness: RunHarness, monkeypatch: Patch) -> None:
    async def broken(*_given: Any) -> str:
        raise KeyError("own file")

    monkeypatch.setattr(AnswerFolder, "save", broken)
    harness.run(chat(BAD, more='output: {each: "{{ id }}.md"}'))
    assert any("could not save this answer" in said for said in harness.said)


def test_an_answer_is_recorded_although_its_item_is_cancelled_while_its_own_file_is_written(
    harness: RunHarness, monkeypatch: Patch
) -> None:
    save = AnswerFolder.save

    async def cancelled_meanwhile(self: AnswerFolder, *given: Any) -> str:
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "") == "Attempts.pursue":
                task.cancel()
        await asyncio.sleep(0)
        return await save(self, *given)

    monkeypatch.setattr(AnswerFolder, "save", cancelled_meanwhile)
    harness.run(chat(BAD, more='output: {each: "{{ id }}.md"}'))
    assert (len(harness.rows()), harness.stats.sends) == (1, 1)


def test_a_failure_that_cannot_be_recorded_either_leaves_the_item_open_and_counted(
    harness: RunHarness, monkeypatch: Patch
) -> None:
    broken_row(monkeypatch, KeyError("row"))
    monkeypatch.setattr(recorder, "failure_row", lambda *_given, **_named: 1 / 0)
    report = harness.run(chat(*PROMPTS))
    assert (len(harness.rows()), report.exit_status) == (7, 3)
    monkeypatch.undo()
    again = harness.run(chat(*PROMPTS))
    assert (again.exit_status, harness.stats.sends, again.status.sends.possible_duplicates) == (0, 9, 1)


def test_a_fault_that_hits_every_item_stops_the_lane_like_any_other_trouble(
    harness: RunHarness, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(ChatDecoder, "end", lambda *_: 1 / 0)
    report = harness.run(chat(*(f"p{n}" for n in range(60)), more="breaker: 5\nlimits: {concurrency: 1}"))
    assert (report.exit_status, harness.stats.sends) == (3, 5)
    assert "internal" in str(report.status.message)


@pytest.mark.parametrize("job", [image, chat], ids=["pictures", "answers"])
def test_a_broken_disk_still_stops_everything(harness: RunHarness, monkeypatch: Patch, job: Callable[..., str]) -> None:
    def refused(*_given: Any, **_named: Any) -> None:
        raise StoreBrokenError("the disk is gone")

    monkeypatch.setattr(Recorder, "keep", refused)
    report = harness.run(job(*PROMPTS, more="limits: {concurrency: 1}"))
    assert (report.exit_status, report.status.message) == (4, "the disk is gone")
    assert not (harness.out / "errors.log").exists()


def test_the_log_holds_no_key_and_ends_at_its_bound(tmp_path: Path, harness: RunHarness, monkeypatch: Patch) -> None:
    harness.simulate = False
    monkeypatch.setenv("MY_KEY", CANARY)
    monkeypatch.setattr(run_directory, "LOG_BYTES_MAX", 5000)
    monkeypatch.setattr(ChatDecoder, "end", lambda *_: json.loads(f"{{{CANARY}"))
    monkeypatch.setattr(ChatDecoder, "begin", lambda *_: (_ for _ in ()).throw(KeyError(CANARY)))
    job = chat(*PROMPTS, more="limits: {concurrency: 1}").replace(
        "provider: simulator", "provider: {preset: openai, api_key_env: MY_KEY}"
    )
    harness.run(job)
    assert len(harness.rows("failures.jsonl")) == 8
    assert 0 < (harness.out / "errors.log").stat().st_size <= 5000
    for path in harness.out.rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path


# -- what stands beside the run


async def broken_progress(_: Any) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("no screen")


async def stubborn_progress(_: Any) -> None:
    """Its first cancellation is swallowed; the second one is the loop's own, at its end."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(10_000)
    await asyncio.sleep(10_000)


def at_once(_: Any) -> Any:
    raise SystemExit(9)


@pytest.mark.parametrize("progress", [broken_progress, stubborn_progress, at_once])
def test_a_progress_callback_that_breaks_changes_nothing(harness: RunHarness, progress: Any) -> None:
    report = harness.run(chat(*PROMPTS), progress=progress)
    assert (report.exit_status, len(harness.rows())) == (0, 8)
    told = [said for said in harness.said if "progress" in said]
    assert len(told) == (progress is not stubborn_progress)


def test_a_voice_that_breaks_changes_nothing(
    harness: RunHarness, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deaf(_: str) -> None:
        raise UnicodeError("no such letter")

    harness.said = type("Deaf", (), {"append": staticmethod(deaf)})()
    report = harness.run(chat(*PROMPTS), progress=broken_progress)
    assert (report.exit_status, len(harness.rows())) == (0, 8)
    assert capsys.readouterr().err.count("no screen") == 1


def test_a_notify_command_that_breaks_changes_nothing(harness: RunHarness, monkeypatch: Patch) -> None:
    async def broken(*_: Any, **__: Any) -> str:
        raise OSError("no room for a temporary file")

    monkeypatch.setattr("batchrunner.report.notify.notify", broken)
    report = harness.run(chat(*PROMPTS))
    assert (report.exit_status, len(harness.rows())) == (0, 8)
    assert any("no room for a temporary file" in said for said in harness.said)


def test_a_disk_that_refuses_the_totals_is_paid_for_nothing(harness: RunHarness, monkeypatch: Patch) -> None:
    """Invariant 16: no POST after the first error of the disk, whatever it was about to keep."""

    def refused(*_given: Any, **_named: Any) -> None:
        raise StoreBrokenError("run.json: read-only")

    monkeypatch.setattr("batchrunner.wiring.remember_totals", refused)
    report: Report = harness.run(chat(*PROMPTS))
    assert (report.exit_status, harness.stats.sends) == (4, 0)


def test_totals_that_cannot_be_kept_are_reported_once_and_change_nothing(
    harness: RunHarness, monkeypatch: Patch
) -> None:
    def refused(*_given: Any, **_named: Any) -> None:
        raise AssertionError("gone")

    monkeypatch.setattr("batchrunner.wiring.remember_totals", refused)
    report: Report = harness.run(chat(*PROMPTS))
    assert (report.exit_status, len(harness.rows())) == (0, 8)
    assert sum("could not save the totals" in said for said in harness.said) == 1


def test_a_watch_beside_the_work_that_breaks_is_reported_and_pauses_the_run(
    harness: RunHarness, monkeypatch: Patch
) -> None:
    async def broken(*_: Any) -> None:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    monkeypatch.setattr("batchrunner.engine.run_schedule.RunSchedule.watch", broken)
    report = harness.run(chat(*PROMPTS, more="limits: {concurrency: 1, requests_per_minute: 1}"))
    assert (report.exit_status, report.status.state) == (3, "paused")
    assert "internal error while watching for the deadline" in str(report.status.message)
    assert "ZeroDivisionError" in (harness.out / "errors.log").read_text()
    assert len(harness.rows()) < 8


def test_what_a_poll_states_of_one_task_does_not_end_the_others(harness: RunHarness, monkeypatch: Patch) -> None:
    ask = TaskPoller._ask
    asked: list[str] = []

    async def broken(self: TaskPoller, followed: Any) -> None:
        asked.append(followed.task_id)
        if followed.task_id == asked[0]:
            raise IndexError("pop from an empty heap")
        await ask(self, followed)

    monkeypatch.setattr(TaskPoller, "_ask", broken)
    report = harness.run(image(*PROMPTS))
    assert (report.exit_status, len(harness.rows()), len(harness.rows("failures.jsonl"))) == (1, 7, 1)
    assert harness.rows("failures.jsonl")[0]["task_id"] == asked[0]


def test_a_fault_while_prompts_are_read_cuts_no_answer_off(tmp_path: Path) -> None:
    read: list[int] = []

    def broken(index: int) -> float:
        read.append(index)
        if read.count(6) == 2:  # the first time is the planning pass
            raise RuntimeError("a bug in the source")
        return 0.1

    harness = RunHarness(tmp_path, World(latency=Latency(first_byte_s=30.0)), item_s=broken)
    job = chat(*(f"prompt {number}" for number in range(10)), more="limits: {concurrency: 10}")
    report = harness.run(job)
    assert report.exit_status is ExitStatus.PAUSED
    assert "internal error while reading the prompts" in str(report.status.message)
    assert (report.status.items.done, report.status.sends.possible_duplicates) == (harness.stats.sends, 0)
    assert harness.stats.sends >= 4
    assert "a bug in the source" in (harness.out / "errors.log").read_text()
    harness.item_s = lambda _: 0.0
    assert harness.run(job).exit_status is ExitStatus.DONE
    assert harness.stats.sends == 10
