"""`run.json`, and whose directory a directory is."""

import json
import stat
from pathlib import Path

import pytest

from batchrunner.core.errors import StoreBrokenError, WrongDirectoryError
from batchrunner.stores.run_file import RunFile, check_claim, claim, make_run_folder, read_run_file, write_run_file


def take(
    folder: Path, *, name: str = "cats", simulated: bool = False, digest: str = "d1", created: str = "t1"
) -> RunFile:
    return claim(
        folder,
        job_name=name,
        simulated=simulated,
        digest=digest,
        job={"name": name, "limits": {"concurrency": None}, "weights": [0.5, True]},
        program="0.1",
        created=created,
    )


def test_a_fresh_directory_is_made_and_taken(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "cats"
    run = take(folder)
    assert read_run_file(folder) == run
    written = json.loads((folder / "run.json").read_bytes())
    assert (written["version"], written["job_name"], written["simulated"]) == (1, "cats", False)
    assert written["job"] == {"name": "cats", "limits": {"concurrency": None}, "weights": [0.5, True]}
    assert stat.S_IMODE((folder / "run.json").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_a_changed_job_goes_on_in_its_directory_and_its_beginning_stays(tmp_path: Path) -> None:
    take(tmp_path)
    run = take(tmp_path, digest="d2", created="t2")
    assert (run.digest, run.created) == ("d2", "t1")
    assert read_run_file(tmp_path) == run


def test_a_file_of_more_than_one_read_is_read_whole(tmp_path: Path) -> None:
    assert read_run_file(tmp_path) is None
    run = take(tmp_path, name="c" * 200_000)
    assert read_run_file(tmp_path) == run


def test_another_jobs_directory_is_refused_with_what_to_do(tmp_path: Path) -> None:
    take(tmp_path)
    with pytest.raises(WrongDirectoryError, match=r"belongs to the job `cats`, not to `dogs`.*--out"):
        take(tmp_path, name="dogs")
    assert json.loads((tmp_path / "run.json").read_bytes())["job_name"] == "cats"


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_is_never_mixed_with_real(tmp_path: Path, *, simulated: bool) -> None:
    take(tmp_path, simulated=simulated)
    with pytest.raises(WrongDirectoryError, match=r"run cannot use it.*--out"):
        take(tmp_path, simulated=not simulated)


def test_a_folder_with_somebodys_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    for name in ("thesis.tex", "a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(WrongDirectoryError, match=r"other files \(a.txt, b.txt, c.txt and more\)"):
        take(tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_hidden_files_and_the_rest_of_a_killed_start_are_no_strangers(tmp_path: Path) -> None:
    for name in (".gitkeep", "lock", ".12-1.tmp"):
        (tmp_path / name).write_text("")
    take(tmp_path)


def test_a_file_in_the_directorys_place_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises((WrongDirectoryError, StoreBrokenError), match="out"):
        take(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "[]", '{"version": "x"}'])
def test_a_damaged_run_file_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(WrongDirectoryError, match=r"run\.json: is not a run\.json of batchrunner"):
        take(tmp_path)
    assert (tmp_path / "run.json").read_text() == text


def test_a_later_formats_run_file_is_refused_by_its_version(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"version": 2, "job": {"name": "cats"}}')
    with pytest.raises(WrongDirectoryError, match="format version 2"):
        take(tmp_path)


def test_fields_that_a_later_program_added_do_not_disturb(tmp_path: Path) -> None:
    run = take(tmp_path)
    there = json.loads((tmp_path / "run.json").read_bytes())
    (tmp_path / "run.json").write_text(json.dumps({**there, "mood": "good"}))
    assert read_run_file(tmp_path) == run


def test_looking_changes_nothing(tmp_path: Path) -> None:
    assert check_claim(tmp_path / "none", job_name="cats", simulated=False) is None
    assert not (tmp_path / "none").exists()
    run = take(tmp_path)
    assert check_claim(tmp_path, job_name="cats", simulated=False) == run


def test_a_linked_run_file_is_refused(tmp_path: Path) -> None:
    run = take(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").symlink_to(tmp_path / "run.json")
    with pytest.raises(StoreBrokenError, match=r"run\.json"):
        read_run_file(tmp_path / "b")
    write_run_file(tmp_path / "b", run)
    assert not (tmp_path / "b" / "run.json").is_symlink()


def test_a_run_directory_that_is_a_link_to_nowhere_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(WrongDirectoryError, match="is a symbolic link to a folder that does not exist; create it"):
        make_run_folder(tmp_path / "out")
    (tmp_path / "nowhere").mkdir()
    make_run_folder(tmp_path / "out")
