"""`run --reformat`: what is there gets the job's present format, is paid for by nobody, and survives every crash."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchrunner import api
from batchrunner.core.errors import ExitStatus, JobMistakesError
from batchrunner.core.job import Job
from batchrunner.report.directory_status import format_notes
from batchrunner.stores import reformat as reformatting
from batchrunner.stores.directory_watch import DirectoryWatch
from batchrunner.stores.ledger import LedgerWriter
from tests.support.engine import RunHarness, image

PROMPTS = ("a cat", "a dog", "a cat", "an owl")
"""The third shares the answer of the first."""


def job(form: str | None) -> str:
    return image(*PROMPTS, more=f"output: {{format: {form}}}" if form else "")


def loaded(harness: RunHarness, form: str) -> Job:
    path = harness.folder / "job.yaml"
    path.write_text(job(form))
    return api.load_job(str(path), simulate=True, out=str(harness.out))


def pictures(harness: RunHarness) -> list[dict[str, Any]]:
    return [picture for row in harness.rows() for picture in row["output"]["images"]]


def is_intact(harness: RunHarness) -> bool:
    found = api.verify(str(harness.out))
    assert found.sound, found.findings
    return not [finding for finding in found.findings if finding.kind not in {"no_close", "file_extra"}]


@pytest.mark.parametrize(
    ("before", "after", "pillow"), [(None, "jpeg", "JPEG"), ("jpeg", "png", "PNG"), (None, "webp", "WEBP")]
)
def test_pictures_get_the_new_format_without_a_request(
    tmp_path: Path, before: str | None, after: str, pillow: str
) -> None:
    harness = RunHarness(tmp_path)
    assert harness.run(job(before)).exit_status is ExitStatus.DONE
    sent, old = harness.stats.sends, {picture["path"] for picture in pictures(harness)}
    assert harness.run(job(after)).exit_status is ExitStatus.DONE
    assert {picture["path"] for picture in pictures(harness)} == old
    report = harness.run(job(after), reformat=True)
    assert (report.exit_status, harness.stats.sends) == (ExitStatus.DONE, sent)
    assert {picture["format"] for picture in pictures(harness)} == {pillow}
    for picture in pictures(harness):
        data = (harness.out / picture["path"]).read_bytes()
        assert len(data) == picture["bytes"]
        with Image.open(harness.out / picture["path"]) as opened:
            assert (opened.format, opened.size) == (pillow, (picture["width"], picture["height"]))
            text = opened.info.get("parameters") or opened.getexif().get_ifd(0x8769)[0x9286][8:].decode("utf-16-be")
        assert text.partition("\n")[0] in PROMPTS, "the new file says where it comes from, too"
    assert not any((harness.out / path).exists() for path in old)
    assert len(harness.events("reformatted")) == 3
    assert is_intact(harness)
    assert harness.run(job(after)).exit_status is ExitStatus.DONE
    assert harness.stats.sends == sent
    assert len(harness.rows()) == len(PROMPTS)
    assert is_intact(harness)


def test_formats_may_change_more_than_once(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    harness.run(job(None))
    for form in ("jpeg", "webp", "png"):
        assert harness.run(job(form), reformat=True).exit_status is ExitStatus.DONE
        assert is_intact(harness)
    assert {Path(picture["path"]).suffix for picture in pictures(harness)} == {".png"}
    assert len(list((harness.out / "images").iterdir())) == 3


def test_plan_states_how_many_pictures_are_of_another_format(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    harness.run(job(None))
    (note,) = format_notes(loaded(harness, "jpeg"), harness.out)
    assert note.startswith("3 pictures not in the format jpeg; `run --reformat` converts")
    harness.run(job("jpeg"), reformat=True)
    assert format_notes(loaded(harness, "jpeg"), harness.out) == ()


def test_a_damaged_or_missing_picture_stays_and_is_named(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    harness.run(job(None))
    first, second = sorted({picture["path"] for picture in pictures(harness)})[:2]
    (harness.out / first).write_bytes((harness.out / first).read_bytes()[:-1] + b"!")
    (harness.out / second).unlink()
    report = harness.run(job("jpeg"), reformat=True)
    assert report.exit_status is ExitStatus.PAUSED
    assert any(f"{first}: is damaged" in line for line in harness.said)
    assert any(f"{second}: is missing" in line for line in harness.said)
    assert (harness.out / first).exists()
    assert {first, second} <= {picture["path"] for picture in pictures(harness)}


def test_a_run_states_once_that_its_pictures_are_of_another_format(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    harness.run(job("png"))
    assert not any("not in the format" in said for said in harness.said)
    harness.run(job("jpeg"))
    (told,) = [said for said in harness.said if "not in the format" in said]
    assert told.startswith("3 pictures not in the format jpeg; `run --reformat` converts")
    harness.run(job("jpeg"))
    harness.run(job("png"), reformat=True)
    assert sum("not in the format" in said for said in harness.said) == 1
    harness.run(job(None))
    assert sum("not in the format" in said for said in harness.said) == 1


def test_without_a_format_there_is_nothing_to_convert_to(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    harness.run(job(None))
    with pytest.raises(JobMistakesError, match=r"output\.format"):
        harness.run(job(None), reformat=True)


class KilledError(BaseException):
    """The process ends here."""


STEPS = {
    "before the first record": ("Reformatted", 1, False),
    "before the second record": ("Reformatted", 2, False),
    "before the rows are replaced": ("_replace_rows", 1, False),
    "after the rows are replaced": ("_replace_rows", 1, True),
    "before the originals are removed": ("_remove", 1, False),
    "after the originals are removed": ("_remove", 1, True),
}


@pytest.mark.parametrize("at", STEPS)
def test_a_kill_at_every_step_loses_no_picture_and_is_repaired_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    harness = RunHarness(tmp_path)
    harness.run(job(None))
    sent = harness.stats.sends
    name, left, is_after = STEPS[at]
    step = getattr(reformatting, name)

    def killing(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        result = step(*arguments, **more) if is_after or left else None
        if not left:
            raise KilledError
        return result

    with monkeypatch.context() as patched:
        patched.setattr(reformatting, name, killing)
        patched.setattr(DirectoryWatch, "close", _killed)
        with pytest.raises(KilledError):
            harness.run(job("jpeg"), reformat=True)
    for picture in pictures(harness):
        assert len((harness.out / picture["path"]).read_bytes()) == picture["bytes"]
    assert api.verify(str(harness.out)).sound, api.verify(str(harness.out)).findings
    assert harness.run(job("jpeg")).exit_status is ExitStatus.DONE
    assert api.verify(str(harness.out)).sound, api.verify(str(harness.out)).findings
    assert harness.run(job("jpeg"), reformat=True).exit_status is ExitStatus.DONE
    assert harness.stats.sends == sent
    assert {picture["format"] for picture in pictures(harness)} == {"JPEG"}
    assert {path.suffix for path in (harness.out / "images").iterdir()} == {".jpg"}
    assert is_intact(harness)


async def _killed(watch: DirectoryWatch, opened: list[LedgerWriter]) -> None:
    """A killed process closes nothing; its descriptors go with it."""
    for ledger in opened:
        await ledger._appender.close()


def test_what_is_intact_can_be_salvaged_from_a_run_with_converted_pictures(tmp_path: Path) -> None:
    harness = RunHarness(tmp_path)
    harness.run(job(None))
    harness.run(job("jpeg"), reformat=True)
    salvaged = api.verify(str(harness.out), salvage=str(tmp_path / "copy"))
    assert salvaged.sound
    assert api.verify(str(tmp_path / "copy")).sound
    assert len(list((tmp_path / "copy" / "images").iterdir())) == 3
