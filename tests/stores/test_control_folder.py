"""The files in `control/`: what is a command, in which order, and what becomes of everything else."""

import asyncio
import json
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from batchrunner.core.control import Command, ControlState, Reply
from batchrunner.core.errors import StoreBrokenError
from batchrunner.core.job import Job
from batchrunner.stores.control_folder import ControlFolder, give, reply_to, state_in, take_back


def resolve(_: object) -> Job:
    raise AssertionError("no command here sets anything")


def begun(folder: Path) -> ControlFolder:
    control = ControlFolder(folder, resolve=resolve)
    control.begin()
    return control


def put(folder: Path, name: str, text: str | bytes) -> Path:
    (folder / "control").mkdir(parents=True, exist_ok=True)
    path = folder / "control" / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "control").iterdir())


PAUSE = Command(id="", action="pause")
RESUME = Command(id="", action="resume")


def test_commands_come_in_the_order_in_which_they_were_given_whatever_the_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_800_000_000_000_000_000
    given = []
    for step in (0, 1, 1_000_000, -3_600_000_000_000, 5):
        now += step
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        given.append(give(tmp_path, PAUSE).id)
    assert given == sorted(given) == [command.id for command in begun(tmp_path).early]


def test_a_command_is_private_and_whole(tmp_path: Path) -> None:
    given = give(tmp_path, Command(id="", action="retry", items=("通义", "b")))
    path = tmp_path / "control" / f"{given.id}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert names(tmp_path) == [path.name]
    assert begun(tmp_path).early == (given,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not valid JSON"),
        ('{"action": "pau', "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", "is not a JSON object"),
        ("{}", "has the action None; expected one of pause, resume, stop, set, skip, retry"),
        ('{"action": "delete"}', "has the action 'delete'"),
        ('{"action": "pause", "version": 2}', "has the version 2; this batchrunner reads 1"),
        ('{"action": "pause", "until": "07:00"}', "has the unknown key 'until'"),
        ('{"action": "set"}', "needs a key and a value"),
        ('{"action": "set", "settings": {"model": "other"}}', "'model' cannot be set while a run works"),
        ('{"action": "set", "settings": {"limits.concurrency": [2]}}', "expected a number or text"),
        ('{"action": "set", "settings": [], "reset": "window"}', "`settings` is not a mapping"),
        ('{"action": "set", "reset": "window"}', "`reset` is not a list of texts"),
        ('{"action": "set", "settings": {"window": "1-2"}, "reset": ["window"]}', "is both set and reset"),
        ('{"action": "skip"}', "`skip` needs a lane"),
        ('{"action": "retry", "items": []}', "`retry` needs the ids"),
        ('{"action": "pause"}' + " " * (1 << 20), "is larger than"),
    ],
)
def test_a_file_that_is_no_command_is_answered_with_the_reason(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = put(tmp_path, "by-hand.json", text)
    assert begun(tmp_path).early == ()
    said = json.loads(path.with_name("by-hand.done.json").read_bytes())
    assert (said["ok"], said["id"]) == (False, "by-hand")
    assert words in said["message"]
    assert state_in(tmp_path) == ControlState()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_command_of_another_user_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "other.json", '{"action": "stop"}')
    os.chown(path, 12_345, 12_345)
    assert begun(tmp_path).early == ()
    assert "belongs to another user (uid 12345)" in path.with_name("other.done.json").read_text()


def test_a_file_that_is_being_written_is_looked_at_again_before_it_is_refused(tmp_path: Path) -> None:
    control = begun(tmp_path)
    path = put(tmp_path, "slow.json", '{"action":')
    assert control._look(patient=True) == []
    path.write_text('{"action": "pause"}')
    assert [command.action for command in control._look(patient=True)] == ["pause"]
    put(tmp_path, "torn.json", '{"action":')
    assert control._look(patient=True) == control._look(patient=True) == []
    assert path.with_name("torn.done.json").exists()


def test_a_command_does_not_wait_until_thousands_of_other_files_are_answered(tmp_path: Path) -> None:
    for number in range(250):
        put(tmp_path, f"0{number:03}.json", "{}")
    given = give(tmp_path, PAUSE)
    control = begun(tmp_path)
    assert control.early == (given,)
    answered = [len(list((tmp_path / "control").glob("0*.done.json")))]
    for _ in range(2):
        assert control._look(patient=True) == []
        answered.append(len(list((tmp_path / "control").glob("0*.done.json"))))
    assert answered == [100, 200, 250]


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_of_the_folder_is_no_command(tmp_path: Path, kind: str) -> None:
    elsewhere, run = put(tmp_path, "a.json", '{"action": "stop"}'), tmp_path / "run"
    (run / "control").mkdir(parents=True)
    path = run / "control" / "a.json"
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert begun(run).early == ()
    assert state_in(run) == ControlState()


def test_a_link_in_place_of_the_folder_is_reported_and_not_followed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    put(tmp_path / "other", "state.json", json.dumps(ControlState(paused=True).as_json()))
    (run / "control").symlink_to(tmp_path / "other" / "control")
    for look in (begun, state_in, lambda folder: give(folder, PAUSE)):
        with pytest.raises(StoreBrokenError, match=r"control: is .*link"):
            look(run)


def test_what_is_in_force_is_written_again_where_somebody_removed_the_folder(tmp_path: Path) -> None:
    control = begun(tmp_path)
    given = give(tmp_path, PAUSE)
    paused = ControlState().after(given)
    asyncio.run(control.acknowledge(given, Reply(ok=True, message="paused"), paused))
    shutil.rmtree(tmp_path / "control")
    assert control._look(patient=True) == []
    assert state_in(tmp_path) == paused
    asyncio.run(control.acknowledge(give(tmp_path, RESUME), Reply(ok=True, message="resumed"), ControlState()))
    shutil.rmtree(tmp_path / "control")
    assert control._look(patient=True) == []
    assert not (tmp_path / "control").exists()


def test_what_is_in_force_is_kept_and_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    control = begun(tmp_path)
    given = give(tmp_path, PAUSE)
    paused = ControlState().after(given)
    assert state_in(tmp_path).noted == 1
    asyncio.run(control.acknowledge(given, Reply(ok=True, message="paused"), paused))
    assert state_in(tmp_path) == begun(tmp_path).state == paused
    assert reply_to(tmp_path, given) == Reply(ok=True, message="paused")
    for damaged in ("{", "[" * 100_000):
        put(tmp_path, "state.json", damaged)
        with pytest.raises(StoreBrokenError, match="remove it"):
            begun(tmp_path)


def test_a_command_that_cannot_be_given_states_nothing_of_what_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "control").write_text("")
    with pytest.raises(StoreBrokenError, match="move it away") as told:
        give(tmp_path, PAUSE)
    assert "stopped sending" not in str(told.value)  # the run goes on
    (tmp_path / "control").unlink()
    put(tmp_path, "a.json", "{}")

    def refuse(_: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(tmp_path / "control"))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(StoreBrokenError, match="Permission denied; fix the disk"):
        state_in(tmp_path)


def test_commands_that_were_answered_long_ago_are_removed(tmp_path: Path) -> None:
    control = begun(tmp_path)
    old, new = give(tmp_path, PAUSE), give(tmp_path, PAUSE)
    for command in (old, new):
        asyncio.run(control.acknowledge(command, Reply(ok=True, message=""), ControlState()))
    os.utime(tmp_path / "control" / f"{old.id}.done.json", (1e9, 1e9))
    begun(tmp_path)
    assert names(tmp_path) == [f"{new.id}.done.json", f"{new.id}.json"]


def test_a_command_that_was_taken_back_is_not_followed(tmp_path: Path) -> None:
    given = give(tmp_path, PAUSE)
    assert take_back(tmp_path, given)
    assert begun(tmp_path).early == ()
