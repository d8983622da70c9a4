"""`verify` finds every kind of damage, names it, and changes nothing; `--salvage` saves what is sound."""

import hashlib
import random
import shutil
from pathlib import Path

import pytest

from batchrunner import api
from batchrunner.core.errors import ExitStatus, LockHeldError, WrongDirectoryError
from batchrunner.core.events import Done, Intent, Open, Refused
from batchrunner.core.status import Audit
from batchrunner.report.audit_files import fault_of
from batchrunner.report.audit_ledger import KINDS, FindingList, LedgerAudit
from batchrunner.report.wording import audit_words
from batchrunner.stores.files import DISK
from batchrunner.stores.ledger_line import Record
from batchrunner.stores.lock import Quiet, RunLock
from tests.report.damage import ANSWERS, FAILURES, PICTURES, ROWS, Damage, segment, tree
from tests.support.engine import RunHarness, World, chat, image
from tests.support.json_lines import json_lines

FOUR = ("one", "two", "three", "four")
JOBS = {
    "chat": chat(*FOUR),
    "each": chat(*FOUR, more='output: {each: "answers/{{ id }}.md"}'),
    "image": image(*FOUR),
    "failures": chat(*FOUR, model="sim/chat#noprovider", more="breaker: 1000"),
}
DAMAGES = [
    *(("chat", damage) for damage in ROWS),
    *(("each", damage) for damage in ANSWERS),
    *(("image", damage) for damage in (*ROWS, *PICTURES)),
    *(("failures", damage) for damage in FAILURES),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One finished run of each job."""
    made = {}
    for name, job in JOBS.items():
        harness = RunHarness(tmp_path_factory.mktemp(name), World())
        harness.run(job)
        made[name] = harness.folder
    return made


def copy_of(finished: dict[str, Path], name: str, harness: RunHarness) -> Path:
    shutil.copytree(finished[name], harness.folder, dirs_exist_ok=True)
    return harness.out


def kinds(audit: Audit) -> set[str]:
    return {finding.kind for finding in audit.findings}


@pytest.mark.parametrize("name", JOBS)
def test_a_finished_run_is_intact_and_nothing_is_noted(finished: dict[str, Path], name: str) -> None:
    out = finished[name] / "out"
    before = tree(out)
    audit = api.verify(str(out))
    assert audit.findings == ()
    assert audit.exit_status is ExitStatus.DONE
    assert tree(out) == before
    assert audit_words(audit).startswith(f"{out} (job): no damage found\n  checked ")


def test_everything_is_looked_at(finished: dict[str, Path]) -> None:
    images, each = (api.verify(str(finished[name] / "out")).checked for name in ("image", "each"))
    assert (images.done, images.rows, images.pictures, images.segments) == (4, 4, 4, 1)
    assert images.picture_bytes == sum(path.stat().st_size for path in (finished["image"] / "out" / "images").iterdir())
    assert (each.done, each.answer_files) == (4, 4)
    failures = api.verify(str(finished["failures"] / "out")).checked
    assert (failures.failed, failures.failures, failures.done) == (4, 4, 0)


@pytest.mark.parametrize(("name", "damage"), DAMAGES, ids=lambda value: getattr(value, "name", value))
def test_damage_is_found_named_salvaged_and_only_what_is_lost_is_paid_again(
    finished: dict[str, Path], harness: RunHarness, name: str, damage: Damage
) -> None:
    """Invariant 5: every way to lose what `done` promised."""
    out = copy_of(finished, name, harness)
    damage.happens(out)
    before = tree(out)
    new = harness.folder / "new"
    audit = api.verify(str(out), salvage=str(new))
    assert kinds(audit) & damage.found
    assert not audit.sound
    assert audit.exit_status is ExitStatus.STOPPED
    assert "DAMAGE" in audit_words(audit)
    assert tree(out) == before, "an audit changed the directory"
    salvaged = audit.salvaged
    assert salvaged is not None
    assert salvaged.sound
    again = api.verify(str(new))
    assert kinds(again) <= {"failure_missing"}  # such rows are made again from the ledger by the next run
    lost = 4 - again.checked.done - again.checked.failed
    shutil.rmtree(out)
    new.rename(out)
    report = harness.run(JOBS[name])
    assert harness.stats.sends <= lost
    assert report.exit_status is ExitStatus.DONE or name == "failures"
    assert report.status.items.done + report.status.items.failed == 4
    assert api.verify(str(out)).findings == ()


def test_a_lost_picture_whose_task_is_known_is_fetched_again_and_not_paid_again(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World())
    harness.run(JOBS["image"])
    sends = harness.stats.sends
    victim = min((harness.out / "images").iterdir())
    data = victim.read_bytes()
    victim.unlink()
    audit = api.verify(str(harness.out), salvage=str(tmp_path / "new"))
    assert audit.salvaged is not None
    assert (audit.salvaged.fetched_again, audit.salvaged.rows_lost, audit.salvaged.rows) == (1, 0, 3)
    shutil.rmtree(harness.out)
    (tmp_path / "new").rename(harness.out)
    assert harness.run(JOBS["image"]).exit_status is ExitStatus.DONE
    assert harness.stats.sends == sends
    assert victim.read_bytes() == data


def test_an_answer_that_was_paid_and_lost_counts_as_a_possible_duplicate(
    finished: dict[str, Path], harness: RunHarness
) -> None:
    out = copy_of(finished, "chat", harness)
    lines = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(b"".join(lines[1:]))
    api.verify(str(out), salvage=str(harness.folder / "new"))
    assert api.status(str(harness.folder / "new")).sends.possible_duplicates == 1


MADE_AGAIN = ("report.html", "README.md", "metadata.jsonl")
"""What is made from the rows at the end of each run, and nothing is read from."""


def is_audited(path: Path) -> bool:
    return path.name not in ("run.json", *MADE_AGAIN) and path.parent.parent.name != "thumbs"


@pytest.mark.parametrize("what", ["removed", "damaged", "left over"])
def test_thumbnails_are_a_cache_of_which_no_finding_is_made(
    finished: dict[str, Path], harness: RunHarness, what: str
) -> None:
    thumbs = copy_of(finished, "image", harness) / "thumbs"
    path = min(thumbs.glob("*/*.webp"))
    match what:
        case "removed":
            shutil.rmtree(thumbs)
        case "damaged":
            path.write_bytes(b"")
        case _:
            path.rename(path.with_name(".1-1.tmp"))
    assert api.verify(str(thumbs.parent)).findings == ()


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_anywhere_is_either_found_or_harmless(
    finished: dict[str, Path], harness: RunHarness, seed: int
) -> None:
    """A bit, a hole or a cut in any file: what is not found changed nothing that was recorded."""
    rng = random.Random(seed)
    name = rng.choice(["chat", "each", "image"])
    out = copy_of(finished, name, harness)
    path = rng.choice([path for path in sorted(out.rglob("*")) if path.is_file() and is_audited(path)])
    text = bytearray(path.read_bytes())
    if not text:
        return
    place = rng.randrange(len(text))
    match rng.choice(["bit", "hole", "cut"]):
        case "bit":
            text[place] ^= 1 << rng.randrange(8)
        case "hole":
            text[place : place + 64] = bytes(len(text[place : place + 64]))
        case _:
            del text[place:]
    path.write_bytes(bytes(text))
    audit = api.verify(str(out), salvage=str(harness.folder / "new"))
    assert audit.findings, f"{path.name} at {place}"
    assert audit.salvaged is not None
    assert audit.salvaged.sound
    assert api.verify(str(harness.folder / "new")).findings == ()


def test_what_is_no_damage_is_reported_and_ends_with_0(finished: dict[str, Path], harness: RunHarness) -> None:
    out = copy_of(finished, "image", harness)
    (out / "notes.txt").write_text("mine", "utf-8")
    (out / "images" / ".123-4.tmp").write_bytes(b"half")
    (out / "images" / "link.png").symlink_to("/etc/passwd")
    (out / "run.json").chmod(0o644)
    with segment(out).open("ab") as file:
        file.write(b'{"s":')
    audit = api.verify(str(out))
    assert kinds(audit) == {"stray", "leftover", "not_plain", "mode_open", "torn_tail"}
    assert audit.sound
    assert (out / "notes.txt").exists()
    assert (out / "images" / ".123-4.tmp").exists()
    text = audit_words(audit)
    for word in ("notes.txt", ".123-4.tmp", "images/link.png", "mode 0644", "000001.jsonl"):
        assert word in text


def test_a_record_that_does_not_follow_from_what_stood_before_is_reported(harness: RunHarness) -> None:

    def intent(n: int) -> Intent:
        return Intent(i="x", k="0" * 32, n=n, a=0, model="m", account="")

    done = Done(i="x", k="0" * 32, n=1, a=1, crc="00000000", length=1)
    told = Open(version=1, run="r", segment=1, job="j", program="p")
    refused = Refused(i="x", k="0" * 32, n=2, a=0, kind="throttle")
    events = [told, intent(1), intent(2), refused, intent(4), done, done, intent(5)]
    finding_list = FindingList()
    ledger = LedgerAudit(finding_list=finding_list, look_at=lambda _id, _key, _files: None)

    class Reading(list[Record]):
        left_out = ()

    ledger.read(Reading(Record(event, 1.0, 1, number) for number, event in enumerate(events)))  # type: ignore[arg-type] # what it asks of a reading
    (finding,) = finding_list.findings()
    assert (finding.kind, finding.level, finding.count) == ("odd_record", "odd", 4)
    assert "`intent` while `x` is sending" in finding.examples[0]
    assert "send 4 of `x` follows send 2" in finding.examples[1]
    assert "while `x` is done" in finding.examples[2]


def test_a_directory_at_work_is_refused_with_the_name_of_who_works_there(
    finished: dict[str, Path], harness: RunHarness
) -> None:
    out = copy_of(finished, "chat", harness)
    with RunLock(out), pytest.raises(LockHeldError, match="already running"):
        api.verify(str(out))
    assert api.verify(str(out)).sound


def test_no_run_can_begin_while_an_audit_looks(finished: dict[str, Path], harness: RunHarness) -> None:

    out = copy_of(finished, "chat", harness)
    with Quiet(out), Quiet(out), pytest.raises(LockHeldError):
        RunLock(out).acquire()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongDirectoryError, match=r"run\.json"):
        api.verify(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("taken", ["file", "full"])
def test_a_salvage_goes_into_nothing_that_holds_something(
    finished: dict[str, Path], tmp_path: Path, taken: str
) -> None:
    new = tmp_path / "new"
    if taken == "file":
        new.write_text("x", "utf-8")
    else:
        new.mkdir()
        (new / "mine").write_text("x", "utf-8")
    before = tree(tmp_path)
    with pytest.raises(WrongDirectoryError):
        api.verify(str(finished["chat"] / "out"), salvage=str(new))
    assert tree(tmp_path) == before


def test_an_intact_run_can_be_salvaged_too_and_stays_the_same(finished: dict[str, Path], tmp_path: Path) -> None:
    new = tmp_path / "new"
    audit = api.verify(str(finished["image"] / "out"), salvage=str(new))
    assert audit.sound
    assert json_lines(new / "results.jsonl") == json_lines(finished["image"] / "out" / "results.jsonl")
    assert (new / "run.json").stat().st_mode & 0o777 == 0o600
    assert (new / "ledger").stat().st_mode & 0o777 == 0o700


def test_what_a_changed_job_has_no_more_is_kept_with_its_pictures(harness: RunHarness) -> None:
    """Other steps give other pictures of the same prompts, under the same ids: the old ones are paid for, too."""
    harness.run(image("a boat", "a barn", more="matrix: {steps: [20]}"))
    pictures = tree(harness.out / "images")
    harness.run(image("a boat", "a barn", more='matrix: {steps: [30]}\noutput: {name: "{{ id }}"}'))
    harness.run(image("a boat", "a barn"))
    harness.run(image("a boat", "a barn", more="retry: {attempts: 2}").replace("64x64", "128x64"))
    assert pictures.items() <= tree(harness.out / "images").items()
    audit = api.verify(str(harness.out))
    assert audit.findings == ()
    assert (audit.checked.done, audit.checked.rows, audit.checked.superseded, audit.checked.pictures) == (8, 2, 6, 8)


def test_every_kind_of_damage_has_a_test() -> None:
    tested = {kind for _, damage in DAMAGES for kind in damage.found}
    untested = {kind for kind, line in KINDS.items() if line.level == "damage"} - tested
    assert untested == {"picture_broken", "checkpoint_wrong"}, "they have tests of their own"


def test_a_picture_that_was_recorded_as_it_is_and_cannot_be_decoded_is_reported(
    finished: dict[str, Path], harness: RunHarness
) -> None:

    out = copy_of(finished, "image", harness)
    (out / "images" / "x.png").write_bytes(b"no picture")
    sha256 = hashlib.sha256(b"no picture").hexdigest()
    fault = fault_of(DISK, out, ("images/x.png", 10, sha256))
    assert fault is not None
    assert fault[0] == "picture_broken"
    for outside in ("../x.png", "/etc/passwd", "images/../../x.png", ""):
        assert fault_of(DISK, out, (outside, 10, sha256)) == ("file_missing", outside)


def test_pictures_of_an_item_that_is_not_done_yet_are_expected(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path, World())
    harness.run(image("a boat", model="Qwen/Qwen-Image#dl-404"))
    (name,) = {record["i"] for record in harness.events("accepted")}
    folder = harness.out / "images"
    folder.mkdir(exist_ok=True)
    for stem in (f"{name}-1", f"{name}-0123abcd-2", "another-1"):
        (folder / f"{stem}.png").write_bytes(b"half of them")
    (finding,) = [found for found in api.verify(str(harness.out)).findings if found.kind == "stray"]
    assert finding.count == 1
    assert "another-1.png" in str(finding)
