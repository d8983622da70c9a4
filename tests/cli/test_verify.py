"""`batchrunner verify` in a real process: its words, its JSON, its exit status."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.support.command_line import CommandLine
from tests.support.json_lines import json_lines_so_far
from tests.support.waiting import wait_until

IMAGES = "kind: image\nparams: {size: 64x64}\nprompts: [A boat, A barn]\n"
OUT = "outputs/pictures.simulated"


def finished(batchrunner: CommandLine) -> str:
    job = batchrunner.job("pictures", IMAGES)
    assert batchrunner("run", job, "--quiet").status == 0
    return job


def test_an_intact_run_ends_with_0_and_states_what_was_looked_at(batchrunner: CommandLine) -> None:
    finished(batchrunner)
    told = batchrunner("verify", OUT)
    assert (told.status, told.out) == (0, "")
    assert "no damage found" in told.err
    assert "2 pictures" in told.err
    shown = batchrunner("verify", OUT, "--json").json
    assert (shown["sound"], shown["findings"], shown["checked"]["done"]) == (True, [], 2)


def test_damage_ends_with_4_and_names_the_place_and_the_way_out(batchrunner: CommandLine) -> None:
    job = finished(batchrunner)
    picture = min((batchrunner.folder / OUT / "images").iterdir())
    picture.write_bytes(picture.read_bytes()[:-40])
    told = batchrunner("verify", OUT)
    assert told.status == 4
    assert f"images/{picture.name}" in told.err
    assert "--salvage NEW" in told.err
    saved = batchrunner("verify", OUT, "--salvage", "saved", "--json")
    assert saved.status == 4
    (finding,) = saved.json["findings"]
    assert (finding["kind"], finding["level"], finding["count"]) == ("file_changed", "damage", 1)
    assert saved.json["salvaged"]["rows"] == 1
    assert batchrunner("verify", "saved").status == 0
    assert batchrunner("run", job, "--out", "saved", "--quiet").status == 0
    assert batchrunner("verify", "saved").status == 0


def test_a_damaged_ledger_is_reported_and_salvaged(batchrunner: CommandLine) -> None:
    finished(batchrunner)
    (segment,) = (batchrunner.folder / OUT / "ledger").glob("*.jsonl")
    text = bytearray(segment.read_bytes())
    text[200] ^= 1
    segment.write_bytes(bytes(text))
    told = batchrunner("verify", OUT, "--salvage", "saved")
    assert told.status == 4
    assert "ledger damaged before its last durable byte" in told.err
    assert "salvaged into saved: 2 rows" in told.err
    assert batchrunner("verify", "saved", "--json").json["checked"]["done"] == 2


def test_what_is_no_run_is_an_error_in_words(batchrunner: CommandLine) -> None:
    told = batchrunner("verify", "nowhere", "--json")
    assert told.status == 2
    assert "nowhere" in told.err
    assert "error" in told.json


def test_a_run_at_work_is_not_disturbed(batchrunner: CommandLine) -> None:
    slow = "prompts: [A, B, C, D]\nlimits: {concurrency: 1, requests_per_minute: 1}\n"
    process = batchrunner.start("run", batchrunner.job("slow", slow))
    assert process.stderr is not None
    segment = batchrunner.folder / "outputs/slow.simulated/ledger/000001.jsonl"
    wait_until(lambda: json_lines_so_far(segment), "a whole record", process=process)
    told = batchrunner("verify", "outputs/slow.simulated", "--json")
    assert told.status == 4
    assert f"already running (pid {process.pid}" in told.json["error"]["message"]
    assert json.loads(segment.read_bytes().splitlines()[0])["e"] == "open"


def _pasted(batchrunner: CommandLine, told: str, flag: str, where: Path) -> int:
    command = next(piece for piece in told.split("`") if piece.endswith(flag))
    environment = getattr(batchrunner, "environment", None)
    return subprocess.run(shlex.split(command), cwd=where, env=environment, capture_output=True, check=False).returncode


def test_the_commands_that_advice_names_work_when_pasted_with_the_options_of_the_run(batchrunner: CommandLine) -> None:
    job = batchrunner.job("pictures", IMAGES)
    assert batchrunner("run", job, "--out", "mine", "--quiet").status == 0
    min((batchrunner.folder / "mine/images").iterdir()).unlink()
    told = batchrunner("verify", "mine")
    assert told.status == 4
    assert _pasted(batchrunner, told.err, "--resend-lost", batchrunner.folder) == 0
    shutil.rmtree(batchrunner.folder / "mine/ledger")
    for refused in (
        batchrunner("verify", "mine"),
        batchrunner("status", "mine"),
        batchrunner("run", job, "--out", "mine"),
    ):
        assert refused.status == 4
        assert "--out mine --adopt-rows`" in refused.err
    assert _pasted(batchrunner, refused.err, "--adopt-rows", batchrunner.folder) == 0
    assert batchrunner("verify", "mine").status == 0
