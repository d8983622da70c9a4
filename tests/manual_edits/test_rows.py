"""Rows, pictures and answers that hands changed between two lives: noticed before anything is paid or called done."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus, StoreBrokenError
from tests.manual_edits.cases import ANOTHER_FORM, CHAT, EACH, IMAGE, ROWS_LOST, TWINS, Fields, Hand, lines

FORMS = [(job, form) for form in ANOTHER_FORM for job in (CHAT, TWINS if "twice" in form else IMAGE)]
LOSSES = [*((CHAT, case) for case in ROWS_LOST), (EACH, "deleted"), (IMAGE, "deleted"), (IMAGE, "middle removed")]


@pytest.mark.parametrize(("job", "form"), FORMS)
def test_rows_in_another_form_are_taken_and_put_right(fields: Fields, job: str, form: str) -> None:
    run = fields(job)
    ids, sends = sorted(json.loads(row)["id"] for row in lines(run.folder)), run.sends
    ANOTHER_FORM[form](run.folder)
    assert run.status().items.done == 5
    assert run.status().items.lost == 0
    assert run.verify().exit_status in {ExitStatus.DONE, ExitStatus.STOPPED}
    ended = run.run()
    assert ended.exit_status is ExitStatus.DONE
    assert run.sends == sends
    assert not list(run.folder.glob("*.torn"))
    assert sorted(json.loads(row)["id"] for row in lines(run.folder)) == ids
    assert b"\r" not in b"".join(lines(run.folder))
    assert run.run().exit_status is ExitStatus.DONE
    assert run.said == []


@pytest.mark.parametrize("form", sorted(set(ANOTHER_FORM) - {"saved by another program", "each row twice"}))
def test_verify_calls_another_form_no_damage(fields: Fields, form: str) -> None:
    run = fields(CHAT)
    ANOTHER_FORM[form](run.folder)
    assert run.verify().exit_status is ExitStatus.DONE


@pytest.mark.parametrize(("job", "case"), LOSSES)
def test_a_done_item_without_its_row_is_lost_in_every_command_and_paid_again_only_when_asked(
    fields: Fields, job: str, case: str
) -> None:
    run = fields(job)
    sends = run.sends
    hand, lost = ROWS_LOST[case]
    hand(run.folder)
    item_state = run.status()
    assert (item_state.items.lost, item_state.items.done, item_state.state) == (lost, 5 - lost, "stopped")
    planned = asyncio.run(api.plan(run.job))
    assert (planned.items.lost, planned.to_send) == (lost, 0)
    assert run.verify().exit_status is ExitStatus.STOPPED
    for _ in range(2):
        ended = run.run()
        assert ended.exit_status is ExitStatus.STOPPED
        assert (ended.status.items.lost, ended.status.items.done) == (lost, 5 - lost)
        assert ended.status.next_command == "RUN --resend-lost"
        assert "--resend-lost" in (ended.status.message or "")
    assert run.sends == sends
    assert not list(run.folder.glob("*.torn"))
    again = run.run(resend_lost=True)
    assert again.exit_status is ExitStatus.DONE
    assert run.sends == sends + lost
    assert run.verify().exit_status is ExitStatus.DONE
    assert run.run().exit_status is ExitStatus.DONE
    assert run.sends == sends + lost


def test_a_half_finished_run_does_the_rest_and_then_states_what_is_lost(fields: Fields) -> None:
    run = fields(CHAT, limit=3)
    ROWS_LOST["first removed"][0](run.folder)
    ended = run.run()
    assert ended.exit_status is ExitStatus.STOPPED
    assert (ended.status.items.done, ended.status.items.lost, ended.status.sends.total) == (4, 1, 5)


@pytest.mark.parametrize("hand", ["removed", "replaced", "emptied", "same size", "linked", "a folder now", "folder"])
def test_a_done_item_without_its_picture_is_lost_and_paid_again_only_when_asked(fields: Fields, hand: str) -> None:
    run = fields(IMAGE)
    pictures = sorted((run.folder / "images").iterdir())
    for picture in pictures if hand == "folder" else pictures[:1]:
        text = picture.read_bytes()
        picture.unlink()
        if hand in {"replaced", "emptied", "same size"}:
            picture.write_bytes({"replaced": b"no picture", "emptied": b"", "same size": text[::-1]}[hand])
        elif hand == "linked":
            picture.symlink_to(run.folder.parent / "elsewhere.png")
        elif hand == "a folder now":
            picture.mkdir()
    lost = 5 if hand == "folder" else 1
    if hand == "folder":
        (run.folder / "images").rmdir()
    assert run.status().items.lost == lost
    exported = api.export(str(run.folder), to="jsonl", out=str(run.folder.parent / "rows.jsonl"))
    assert (exported.lost, exported.missing, exported.vanished) == (lost, lost, 0)
    assert exported.exit_status is ExitStatus.STOPPED
    assert run.verify().exit_status is ExitStatus.STOPPED
    assert run.run().exit_status is ExitStatus.STOPPED
    assert run.sends == 5
    assert run.run(resend_lost=True).exit_status is ExitStatus.DONE
    assert run.sends == 5 + lost
    assert len(lines(run.folder)) == 5
    assert run.verify().exit_status is ExitStatus.DONE
    assert run.run().exit_status is ExitStatus.DONE


def test_answers_own_files_that_were_removed_are_written_again_from_their_rows(fields: Fields) -> None:
    run = fields(EACH)
    answers = {path: path.read_bytes() for path in (run.folder / "answers").iterdir()}
    for path in answers:
        path.unlink()
    (run.folder / "answers").rmdir()
    assert run.run().exit_status is ExitStatus.DONE
    assert {path: path.read_bytes() for path in (run.folder / "answers").iterdir()} == answers
    assert run.sends == 5


def test_what_was_removed_and_is_put_back_is_lost_no_more(fields: Fields) -> None:
    run = fields(CHAT)
    text = (run.folder / "results.jsonl").read_bytes()
    (run.folder / "results.jsonl").unlink()
    assert run.run().exit_status is ExitStatus.STOPPED
    (run.folder / "results.jsonl").write_bytes(text)
    assert run.status().items.lost == 0
    assert run.run().exit_status is ExitStatus.DONE
    assert run.sends == 5


def test_an_edited_row_counts_and_is_reported(fields: Fields) -> None:
    run = fields(CHAT)
    rows = lines(run.folder)
    rows[1] = json.dumps(json.loads(rows[1]) | {"note": "mine"}).encode() + b"\n"
    (run.folder / "results.jsonl").write_bytes(b"".join(rows))
    assert any("1 row edited since the last run" in note for note in run.status().notes)
    assert run.run().exit_status is ExitStatus.DONE
    assert any("1 row edited since the last run" in line for line in run.said)
    assert any(json.loads(row).get("note") == "mine" for row in lines(run.folder))


def test_a_run_that_nobody_touched_is_trusted_without_reading_its_rows(
    fields: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fields(CHAT)

    def read(*_: object) -> None:
        raise AssertionError("the rows were read")

    monkeypatch.setattr("batchrunner.stores.takeover.inspect", read)
    monkeypatch.setattr("batchrunner.stores.ledger_replay.inspect", read)
    assert run.run().exit_status is ExitStatus.DONE
    assert run.status().items.done == 5
    (run.folder / "results.jsonl").touch()
    with pytest.raises(AssertionError, match="were read"):
        run.run()


@pytest.mark.parametrize("name", ["results.jsonl", "ledger/000002.jsonl", "images", ".", "results.jsonl replaced"])
def test_what_is_removed_while_a_run_works_ends_it_before_it_is_called_done(fields: Fields, name: str) -> None:
    run = fields(IMAGE, limit=2)
    target = run.folder / name.removesuffix(" replaced")

    async def hands(_: object) -> None:
        before = (run.folder / "results.jsonl").stat().st_size
        for _ in range(3000):
            if (run.folder / "results.jsonl").stat().st_size != before:
                break
            await asyncio.sleep(0.01)
        if name.endswith("replaced"):
            text = target.read_bytes()
            target.unlink()
            target.write_bytes(text)
        elif target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()

    ended = asyncio.run(api.run(run.job, say=run.said.append, progress=hands))
    assert ended.exit_status is ExitStatus.STOPPED


def test_files_of_the_program_are_no_strays_and_others_are_named(fields: Fields) -> None:
    run = fields(CHAT)
    shutil.copytree(run.folder, run.folder.parent / "judge" / "x")
    (run.folder.parent / "judge").rename(run.folder / "judge")
    for name in ("thumbs/a.png", "report/index.html", "control/pause", "batches/1", "shards/l.json"):
        path = run.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", "utf-8")
    for name in ("report.html", "scores.jsonl", "README.md", "ledger/000001.checkpoint"):
        path = run.folder / name
        path.write_text("x", "utf-8")
        path.chmod(0o600)
    assert run.found() == {}
    (run.folder / "notes.txt").write_text("mine", "utf-8")
    assert run.found() == {"stray": 1}


def test_a_damaged_run_of_a_judge_is_a_finding_beside_those_of_its_run(fields: Fields) -> None:
    run = fields(CHAT)
    (run.folder / "judge/x").mkdir(parents=True)
    (run.folder / "judge/x/run.json").write_text("x", "utf-8")
    (run.folder / "notes.txt").write_text("mine", "utf-8")
    assert run.found() == {"judge": 1, "stray": 1}
    assert not run.verify().sound


@pytest.mark.parametrize("limit", [3, None])
def test_rows_of_another_run_mixed_in_change_no_count_and_are_set_aside(fields: Fields, limit: int | None) -> None:
    run = fields(CHAT, limit=limit)
    foreign = json.loads(lines(run.folder)[0]) | {"id": "foreign", "key": "ab" * 16}
    with (run.folder / "results.jsonl").open("ab") as file:
        file.write(json.dumps(foreign).encode() + b"\n")
    ended = run.run()
    assert (ended.exit_status, ended.status.state) == (ExitStatus.DONE, "done")
    assert (ended.status.items.done, ended.status.items.pending, ended.status.next_command) == (5, 0, None)
    assert len(lines(run.folder)) == 5
    assert b"foreign" in (run.folder / "superseded.jsonl").read_bytes()
    assert (run.status().items.done, run.verify().exit_status) == (5, ExitStatus.DONE)
    assert run.run().exit_status is ExitStatus.DONE
    assert run.sends == 5


ASIDE: dict[str, Hand] = {
    "their pictures removed": lambda folder: remove(folder, "superseded.jsonl"),
    "their rows removed": lambda folder: (folder / "superseded.jsonl").unlink(),
    "both removed": lambda folder: remove(folder, "superseded.jsonl", all_rows=True),
    "some of both removed": lambda folder: remove(folder, "superseded.jsonl", most=2),
}


def remove(folder: Path, name: str, *, most: int = 100, all_rows: bool = False) -> None:
    rows = (folder / name).read_bytes().splitlines(keepends=True)
    for row in rows[:most]:
        for picture in json.loads(row)["output"]["images"]:
            (folder / picture["path"]).unlink()
    if all_rows:
        (folder / name).unlink()
    elif most < len(rows):
        (folder / name).write_bytes(b"".join(rows[1:]))


@pytest.mark.parametrize("hand", ASIDE)
def test_what_the_job_has_no_more_may_be_removed_and_verify_notes_it_without_damage(fields: Fields, hand: str) -> None:
    run = fields(IMAGE)
    run = fields(IMAGE.replace("one, two, three", "six"))
    assert len(lines(run.folder)) == 3
    ASIDE[hand](run.folder)
    audit = run.verify()
    assert (audit.exit_status, set(run.found())) == (ExitStatus.DONE, {"superseded_missing"})
    ended = run.run()
    assert (ended.exit_status, ended.status.items.lost) == (ExitStatus.DONE, 0)
    assert run.verify().exit_status is ExitStatus.DONE


@pytest.mark.parametrize("name", ["results.jsonl", "images"])
def test_what_the_job_has_is_missed_although_it_has_other_items_no_more(fields: Fields, name: str) -> None:
    fields(IMAGE)
    run = fields(IMAGE.replace("one, two, three", "six"))
    (run.folder / "superseded.jsonl").unlink()
    if name == "images":
        remove(run.folder, "results.jsonl", most=1)
    else:
        (run.folder / name).write_bytes(b"".join(lines(run.folder)[1:]))
    assert run.verify().exit_status is ExitStatus.STOPPED
    assert run.run().exit_status is ExitStatus.STOPPED
    assert run.status().items.lost == 1


FILES = ("run.json", "results.jsonl", "failures.jsonl", "superseded.jsonl", "ledger/000001.jsonl", "lock")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_folder_or_a_pipe_in_a_files_place_is_called_that_with_the_way_on(
    fields: Fields, name: str, kind: str
) -> None:
    """A pipe would keep whoever opens it waiting for a writer."""
    run = fields(CHAT, limit=3)
    path = run.folder / name
    kept = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(StoreBrokenError) as caught:
        run.run()
    assert str(path) in str(caught.value)
    assert ("is a directory" if kind == "folder" else "is a pipe, socket or device") in str(caught.value)
    assert "move it away" in str(caught.value).lower()
    assert "Mend the disk" not in str(caught.value)
    if name in FILES[:2]:
        for call in (run.status, run.verify):
            with pytest.raises(StoreBrokenError, match=name):
                call()
    path.rmdir() if kind == "folder" else path.unlink()
    if kept is not None:
        path.write_bytes(kept)
    assert run.run().exit_status is ExitStatus.DONE
    assert run.sends == 5


def test_a_file_in_the_place_of_the_ledgers_folder_is_called_that(fields: Fields) -> None:
    run = fields(CHAT, limit=3)
    shutil.move(run.folder / "ledger", run.folder.parent / "kept")
    (run.folder / "ledger").write_text("x", "utf-8")
    with pytest.raises(StoreBrokenError, match=r"ledger: is a file, .*expected a directory"):
        run.run()
    (run.folder / "ledger").unlink()
    shutil.move(run.folder.parent / "kept", run.folder / "ledger")
    assert run.run().exit_status is ExitStatus.DONE
