"""When the page is written, what stands in it, and what does not: without a browser."""

import base64
import errno
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

import batchrunner
from batchrunner.core.errors import ExitStatus, JobMistakesError, StoreBrokenError
from batchrunner.core.exports import ExportRow
from batchrunner.page import report_file
from batchrunner.page.row_chunks import CHUNK_ROWS, Axis, RowChunks, axes_of
from batchrunner.page.run_facts import hide_paths, shown_job
from tools.files_touched import _simulator

JOB = "name: small\nprovider: simulator\nmodels: [sim/a, sim/b]\nprompts: [what is a tide, what is a lock]\n"


def job_in(folder: Path, more: str = "") -> batchrunner.Job:
    (folder / "job.yaml").write_text(JOB + more, "utf-8")
    return batchrunner.load_job(str(folder / "job.yaml"))


def meta_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="meta">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def policy_of(page: Path) -> str:
    found = re.search(r'Content-Security-Policy" content="(.*?)"', page.read_text("utf-8"))
    assert found is not None
    return found[1].replace("&#39;", "'")


def lines_of(page: Path) -> list[tuple[list[Any], dict[str, Any]]]:
    """(head, rest) of every row in the page's chunks."""
    text = page.read_text("utf-8")
    chunks = re.findall(r'<script type="text/plain" id="c\d+">(.*?)</script>', text)
    lines = [line for chunk in chunks for line in gzip.decompress(base64.b64decode(chunk)).decode().split("\n")]
    return [(json.loads(head), json.loads(rest)) for head, _, rest in (line.partition("\t") for line in lines)]


def test_a_run_ends_with_its_page_in_which_every_row_stands_as_on_disk(tmp_path: Path) -> None:
    done = batchrunner.run_sync(job_in(tmp_path))
    page = Path(done.status.dir or "") / "report.html"
    rows = {row["id"]: row for row in batchrunner.results(done.status.dir or "")}
    for (item_id, prompt, answer, columns), rest in lines_of(page):
        row = {**rest, "id": item_id, "prompt": prompt, "vars": columns}
        row["output"]["text"] = answer
        assert row == rows.pop(item_id)
    assert rows == {}
    meta = meta_of(page)
    assert (meta["rows"], meta["groups"], meta["state"]) == (4, 2, "done")
    assert meta["axes"] == [{"name": "model", "values": ["sim/a", "sim/b"]}]


def test_a_run_with_output_report_false_writes_none(tmp_path: Path) -> None:
    done = batchrunner.run_sync(job_in(tmp_path, "output: {report: false}\n"))
    assert not (Path(done.status.dir or "") / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "copy", "words"),
    [
        ("index.html", False, "has an index.html that is no page of a run"),
        ("images/cat.png", True, "has pictures already, and no page of a run"),
        ("run.json", True, "is inside the directory of another run"),
        ("../run.json", False, "is inside the directory of another run"),
    ],
)
def test_a_page_in_another_folder_replaces_nothing_that_is_no_page(
    tmp_path: Path, *, name: str, copy: bool, words: str
) -> None:
    run = Path(batchrunner.run_sync(job_in(tmp_path)).status.dir or "")
    (tmp_path / "else/where").mkdir(parents=True)
    mine = tmp_path / "else/where" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(JobMistakesError, match=words):
        report_file.write_page(run, out=tmp_path / "else/where", copy=copy)
    assert mine.read_text() == "mine"
    mine.unlink()
    for _ in range(2):
        report_file.write_page(run, out=tmp_path / "else/where")  # the second one replaces the first


def test_a_run_in_which_nothing_happened_leaves_the_page_as_it_is(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    page = Path(batchrunner.run_sync(job, limit=2).status.dir or "") / "report.html"
    before = page.stat().st_mtime_ns
    batchrunner.run_sync(job, limit=2)
    assert page.stat().st_mtime_ns == before
    batchrunner.run_sync(job)
    assert page.stat().st_mtime_ns > before
    assert meta_of(page)["rows"] == 4


def test_a_page_whose_name_is_taken_is_reported_by_that_name_and_nothing_claims_that_sending_stopped(
    tmp_path: Path,
) -> None:
    out = Path(batchrunner.run_sync(job_in(tmp_path)).status.dir or "")
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    with pytest.raises(StoreBrokenError, match=r"report\.html: is a directory") as told:
        batchrunner.write_page(str(out))
    assert "sending" not in str(told.value)


def test_a_folder_that_cannot_be_written_is_named_and_not_the_file_that_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(batchrunner.run_sync(job_in(tmp_path)).status.dir or "")

    def write(files: object, path: Path, *_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path.parent / ".77-1.tmp"))

    monkeypatch.setattr(report_file, "write_pieces", write)
    with pytest.raises(StoreBrokenError, match=rf"^{re.escape(str(out))}: Read-only"):
        batchrunner.write_page(str(out))


def test_a_page_that_cannot_be_written_is_a_note_and_the_exit_status_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path)
    (Path(job.output.dir) / "report.html").mkdir(parents=True)
    said: list[str] = []
    monkeypatch.setattr(report_file, "_is_due", lambda _: True)
    (Path(job.output.dir) / "report.html").rmdir()
    monkeypatch.setattr(report_file, "write_pieces", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    done = batchrunner.run_sync(job, say=said.append)
    assert done.exit_status == ExitStatus.DONE
    assert [note for note in done.status.notes if "report.html could not be written" in note and "No space" in note]
    assert any("report.html could not be written" in line for line in said)


def test_a_very_long_run_states_the_command_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_file, "ROWS_UNASKED", 3)
    done = batchrunner.run_sync(job_in(tmp_path))
    assert not (Path(done.status.dir or "") / "report.html").exists()
    assert [note for note in done.status.notes if f"batchrunner report {done.status.dir}" in note]


def test_very_long_answers_are_read_for_the_page_only_when_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_file, "_MEAN_ROW_BYTES", 10)
    report = batchrunner.run_sync(job_in(tmp_path))
    out = Path(report.status.dir or "")
    assert not (out / "report.html").exists()
    assert any("the answers are very long" in note for note in report.status.notes)
    batchrunner.write_page(str(out))
    assert (out / "report.html").exists()


def test_the_page_cuts_a_row_of_more_than_a_megabyte_and_reports_it() -> None:
    chunks: list[bytes] = []
    rows = RowChunks(
        axes=[], since=0.0, log_of=lambda _: [], hide=lambda text: text, on_chunk=lambda _, data: chunks.append(data)
    )
    rows.add(ExportRow(line=b"", fields={"id": "a", "output": {"text": "x" * 2_000_000}}, outcome="done"))
    rows.add(ExportRow(line=b"", fields={"id": "b", "output": {"text": "y" * 200_000}}, outcome="done"))
    rows.finish()
    long, whole = gzip.decompress(chunks[0]).splitlines()
    assert b"cut here: results.jsonl has all of it" in long
    assert len(long) < 110_000
    assert whole.count(b"y") == 200_000


def test_many_rows_lie_in_scripts_beside_the_page_and_go_when_they_are_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(batchrunner.run_sync(job_in(tmp_path, "replicas: 200\n")).status.dir or "")
    assert not (folder / "report").exists()
    monkeypatch.setattr(report_file, "CHUNKS_IN_PAGE_BYTES", 1000)
    written = batchrunner.write_page(folder)
    assert written.chunk_files == 4  # of 800 rows
    assert sorted(path.name for path in (folder / "report").iterdir()) == [f"c000{n}.js" for n in range(4)]
    assert policy_of(folder / "report.html").count("'self'") == 3  # scripts, pictures, videos and sounds
    assert batchrunner.verify(str(folder)).sound
    monkeypatch.undo()
    batchrunner.write_page(folder)
    assert list((folder / "report").iterdir()) == []


def test_the_policy_allows_the_pages_own_script_and_nothing_else(tmp_path: Path) -> None:
    page = Path(batchrunner.run_sync(job_in(tmp_path)).status.dir or "") / "report.html"
    policy = policy_of(page)
    assert re.sub(r"sha256-[\w+/=]+", "sha256-", policy) == (
        "default-src 'none'; script-src 'sha256-'; style-src 'sha256-'; img-src 'self' data: blob:; "
        "media-src 'self'; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def test_what_only_the_owner_needs_is_left_out_of_the_shown_job() -> None:
    job: dict[str, Any] = {
        "name": "cats",
        "file": "/home/somebody/jobs/cats.yaml",
        "folder": "/home/somebody/jobs",
        "provider": {
            "base_url": "https://a.example/v1",
            "headers": {"x-secret": "s3cr3t-value"},
            "ca_file": "/etc/ca.pem",
        },
        "prompts": {"path": "/home/somebody/p.csv", "shown": "/home/somebody/p.csv"},
        "output": {"dir": "/data/cats", "former_dirs": ["/home/somebody/old"]},
        "images": ["/home/somebody/one.png", "two.png"],
        "notify": ["curl", "https://token@ntfy.example"],
    }
    shown = shown_job(job)
    assert "somebody" not in json.dumps(shown)
    assert "s3cr3t" not in json.dumps(shown)
    assert "token" not in json.dumps(shown)
    assert shown["provider"] == {"base_url": "https://a.example/v1", "ca_file": "ca.pem"}
    assert shown["images"] == ["one.png", "two.png"]


def test_paths_of_known_folders_are_cut_out_of_messages() -> None:
    hide = hide_paths(Path("/data/runs/cats"))
    assert hide("/data/runs/cats/results.jsonl: 3 rows") == "results.jsonl: 3 rows"
    assert hide("no page in /data/runs/cats") == "no page in cats"
    assert hide("nothing here") == "nothing here"


def test_rows_of_a_job_that_is_not_known_any_more_still_have_columns_of_their_own() -> None:
    rows = RowChunks(axes=axes_of({}), since=0.0, log_of=lambda _: [], hide=str, on_chunk=lambda *_: None)
    for model in ("a", "b"):
        fields: dict[str, Any] = {
            "id": model,
            "prompt_id": "p",
            "index": 1,
            "model": model,
            "prompt": "p",
            "output": {},
        }
        rows.add(ExportRow(line=b"", fields=fields, outcome="done"))
    assert [axis.values for axis in rows.axes] == [["a", "b"], [1]]


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = Path(batchrunner.run_sync(job_in(tmp_path)).status.dir or "")
    with pytest.raises(JobMistakesError, match="--copy needs --out"):
        batchrunner.write_page(folder, copy=True)
    with pytest.raises(JobMistakesError, match="inside the run directory"):
        batchrunner.write_page(folder, out=folder / "site")


def test_rows_that_are_added_later_change_the_last_chunk_only() -> None:
    chunks: dict[int, bytes] = {}
    rows = RowChunks(
        axes=[Axis(name="model", values=["a"])], since=0.0, log_of=lambda _: [], hide=str, on_chunk=chunks.__setitem__
    )

    def row(number: int) -> Any:
        fields: dict[str, Any] = {
            "id": f"i{number}",
            "prompt_id": f"p{number}",
            "index": number,
            "model": "a",
            "prompt": "p",
        }
        return ExportRow(line=b"", fields={**fields, "output": {"text": "x"}}, outcome="done")

    for number in range(CHUNK_ROWS + 2):
        rows.add(row(number))
    assert list(chunks) == [0]
    assert rows.chunks == 2
    assert gzip.decompress(rows.tail()).count(b"\n") == 1
    rows.add(row(CHUNK_ROWS + 2))
    assert list(chunks) == [0]
    assert gzip.decompress(rows.tail()).count(b"\n") == 2
    assert len(gzip.decompress(rows.index())) == 4 * rows.rows * len(rows.columns)


def test_a_key_that_a_server_sends_back_is_not_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "canary-0123456789-abcdef"
    monkeypatch.setenv("PAGE_KEY", key)
    with _simulator() as url:
        provider = {
            "preset": "modelscope",
            "base_url": url,
            "api_key_env": "PAGE_KEY",
            "headers": {"x-own": "own-value-77"},
        }
        job = {"provider": provider, "model": "sim/m#body-echo-key", "prompts": ["a", "b"]}
        (tmp_path / "job.yaml").write_text(json.dumps(job), "utf-8")
        done = batchrunner.run_sync(batchrunner.load_job(str(tmp_path / "job.yaml")))
    page = Path(done.status.dir or "") / "report.html"
    text = page.read_text("utf-8") + json.dumps(lines_of(page))
    assert meta_of(page)["rows"] == 2
    assert key not in text
    assert base64.b64encode(key.encode()).decode() not in text
    assert "own-value-77" not in text
