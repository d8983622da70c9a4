"""`run.json`: what was run, as resolved and without secrets, and whose directory this is.

Refuses: another job's directory, a simulated run in a real one's place and the other way round, a folder in which
somebody keeps other things, a file written by a later format.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batchrunner.core.errors import NoRunError, UnreadableRunFileError, WrongDirectoryError
from batchrunner.core.job import AuthScheme, DialectName, Json, PresetName, Provider, Timeouts
from batchrunner.stores.files import (
    DISK,
    PRIVATE_FILE,
    RESULTS,
    SHARED_FOLDER,
    SUPERSEDED,
    TEMPORARY,
    Files,
    broken,
    write_whole,
)
from batchrunner.stores.ledger_line import LEDGER
from batchrunner.stores.ledger_reader import newest_open
from batchrunner.stores.lock import LOCK
from batchrunner.stores.row_codec import UNREADABLE

RUN_FILE = "run.json"
RUN_FILE_VERSION = 1
SHARDS = "shards"
LAYOUT = "layout.json"
"""Of a job that is divided, see `stores.shards`; below `SHARDS`."""
ANY_RUN = "batchrunner run JOB"
"""Stands in advice where the command that began the run is not known."""

_PIECE_BYTES = 1 << 16


if TYPE_CHECKING:
    from batchrunner.core.task_table import TaskTable

    JsonObject = dict[str, Json]
else:
    JsonObject = dict[str, object]  # msgspec cannot follow an alias that names itself


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `run.json`."""

    version: int = RUN_FILE_VERSION
    """Of this format."""
    job_name: str
    simulated: bool
    digest: str
    """Of the job as resolved."""
    program: str
    """Version of the program that wrote it last."""
    created: str
    """UTC, RFC 3339: the directory's first run."""
    job: JsonObject
    """The job as resolved; the caller has left secrets out."""
    totals: JsonObject | None = None
    """What the last planning pass counted, for `status`; None until there was one."""
    command: str | None = None
    """The shell command that continues the last run; None if it was not started from a shell."""
    command_elsewhere: str | None = None
    """The same from any other folder, with absolute paths."""
    typed_in: str | None = None
    """The working directory in which `command` works."""
    job_path: str | None = None
    """The job file, absolute and without links; None in what earlier versions wrote."""
    ended: str | None = None
    """The state in which the last run ended; None while it runs, and after a kill."""
    segment: int | None = None
    """Number of the ledger's newest segment."""
    segment_bytes: int | None = None
    """Its length after a clean end; None before, and in what earlier versions wrote."""
    segment_left: dict[str, int] | None = None
    """How many items were in each state then; a truncated segment is compared with it."""
    checkpointed: tuple[int, int, int, int] | None = None
    """(number, inode, size in bytes, mtime in nanoseconds) of the segment of the newest checkpoint."""
    message: str | None = None
    """Why the last run ended before everything was done; None while it runs, and after a kill."""

    def command_here(self) -> str | None:
        """The command that continues the run, as it works in the current directory."""
        try:
            here = self.typed_in in (None, str(Path.cwd()))
        except OSError:  # the working directory was removed
            here = False
        return self.command if here else self.command_elsewhere or self.command

    def with_another_ledger(self) -> "RunFile":
        """For a directory whose ledger was written anew."""
        return msgspec.structs.replace(self, segment=None, segment_bytes=None, segment_left=None, checkpointed=None)


class _RunFileVersion(msgspec.Struct):
    version: int


def read_run_file(folder: Path, *, files: Files = DISK) -> RunFile | None:
    """What was run in this directory; None when there is no `run.json`.

    Raises:
        UnreadableRunFileError: the file is damaged.
        WrongDirectoryError: it is of a later format.
        StoreBrokenError: the disk refused.
    """
    path = folder / RUN_FILE
    try:
        if not files.exists(path):
            return None
        descriptor = files.open_read(path)
        try:
            text = b""
            while piece := files.read_at(descriptor, _PIECE_BYTES, len(text)):
                text += piece
        finally:
            files.close(descriptor)
    except OSError as error:
        raise broken(path, error, sending=False) from error
    try:
        version = msgspec.json.decode(text, type=_RunFileVersion).version
        if version != RUN_FILE_VERSION:
            raise WrongDirectoryError(
                f"{path}: has format version {version}; this batchrunner reads {RUN_FILE_VERSION}. Use a newer "
                "batchrunner, or another directory (--out)"
            )
        return msgspec.json.decode(text, type=RunFile)
    except UNREADABLE as error:
        raise UnreadableRunFileError(
            f"{path}: is not a run.json of batchrunner ({error}); restore the original, "
            "or use another directory (--out)"
        ) from error


def run_around(path: Path) -> Path | None:
    """The directory of the run that a file lies in, or would; for what must not replace its files. Follows links."""
    return next((folder for folder in path.resolve().parents if (folder / RUN_FILE).exists()), None)


def write_run_file(folder: Path, run: RunFile, *, files: Files = DISK) -> None:
    """Replace `run.json`, atomically and readable by its owner only. Raises StoreBrokenError."""
    path = folder / RUN_FILE
    try:
        text = msgspec.json.format(msgspec.json.encode(run), indent=2)
        write_whole(files, path, text + b"\n", PRIVATE_FILE)
    except OSError as error:
        raise broken(path, error) from error


def make_run_folder(folder: Path, *, files: Files = DISK) -> None:
    """The directory and those above it, as far as they are missing; its name is durable. Raises StoreBrokenError."""
    try:
        if files.exists(folder):
            if folder.is_symlink() and not folder.exists():
                words = "is a symbolic link to a folder that does not exist; create it"
                raise WrongDirectoryError(f"{folder}: {words}, or choose another directory with --out")
            with suppress(PermissionError):  # a folder that may be passed through and not be read
                files.fsync_folder(folder.parent)
            return
        missing = [folder]
        while not files.exists(missing[-1].parent) and missing[-1].parent != missing[-1]:
            missing.append(missing[-1].parent)
        for path in reversed(missing):
            files.make_folder(path, SHARED_FOLDER)
            files.fsync_folder(path.parent)
    except OSError as error:
        raise broken(folder, error, sending=False) from error


def run_file_of_ledger(folder: Path, *, files: Files = DISK) -> RunFile | None:
    """What the ledger records of a run whose run.json is missing; None without a ledger. Raises StoreBrokenError."""
    opened = newest_open(folder / LEDGER, files=files)
    if opened is None:
        return None
    return RunFile(
        job_name=opened.name or folder.name,
        simulated=bool(opened.simulated),
        digest=opened.job,
        program=opened.program,
        created="",
        job={},
    )


class _Server(msgspec.Struct):
    """What of a job's provider decides how its server is reached."""

    preset: PresetName
    dialect: DialectName
    base_url: str
    key_env: tuple[str, ...]
    auth: AuthScheme
    key_files: dict[str, str] = {}
    key_commands: dict[str, tuple[str, ...]] = {}
    headers: dict[str, str] = {}
    proxy: str | None = None
    proxy_auth_env: str | None = None
    api_version: str | None = None
    allow_http: bool = False
    ca_file: str | None = None
    key_header: str = ""
    key_prefix: str = ""


def server_of(folder: Path, there: RunFile) -> tuple[Provider, Timeouts]:
    """The server that the last run asked, without its task table; WrongDirectoryError when `run.json` does not say."""
    try:
        server = msgspec.convert(there.job.get("provider"), _Server)
        timeouts = msgspec.convert(there.job.get("timeouts"), Timeouts)
    except msgspec.ValidationError as error:
        raise WrongDirectoryError(
            f"{folder / RUN_FILE}: does not say which provider the run asked as this version writes it ({error}); the "
            "next `batchrunner run` writes it anew"
        ) from error
    return Provider(**msgspec.structs.asdict(server)), timeouts


def no_run(folder: Path, *, files: Files = DISK) -> WrongDirectoryError:
    """The error for a directory without a run: none was there, or its shards are not merged."""
    if not files.exists(folder / SHARDS / LAYOUT):
        return NoRunError(str(folder))
    return WrongDirectoryError(
        f"{folder}: the job is divided into shards, which are not merged; name the directory of one of them, below "
        f"{folder / SHARDS}, or join them with `batchrunner merge`"
    )


def task_table_of(there: RunFile) -> "TaskTable | None":
    """The table of the task server that the last run asked; None where it asked another one, or the file is of old."""
    from batchrunner.core.task_table import TaskTable  # noqa: PLC0415 - for the commands that ask for it only

    provider = there.job.get("provider")
    try:
        return msgspec.convert(provider.get("task"), TaskTable) if isinstance(provider, dict) else None
    except msgspec.ValidationError:
        return None


def run_file_or_refuse(folder: Path, *, files: Files = DISK) -> RunFile:
    """For commands that are given a directory and no job.

    Raises:
        NoRunError: not a run directory.
        WrongDirectoryError: run.json is gone or damaged.
        StoreBrokenError: the disk refused.
    """
    there = read_run_file(folder, files=files)
    if there is None and newest_open(folder / LEDGER, files=files) is not None:
        raise WrongDirectoryError(
            f"{folder}: run.json is missing, but the ledger is there; `batchrunner run JOB` recreates it"
        )
    if there is None:
        raise no_run(folder, files=files)
    return there


def check_claim(
    folder: Path,
    *,
    job_name: str,
    simulated: bool,
    digest: str | None = None,
    adopt_rows: bool = False,
    files: Files = DISK,
) -> RunFile | None:
    """Check that this job may run here, without changing anything; returns what run.json has of earlier runs.

    Where it cannot, the ledger says whose directory it is: by the job's name, in ledgers of earlier programs by the
    job's `digest`. `adopt_rows` lets rows without a ledger be taken for this job's.

    Raises:
        WrongDirectoryError: it may not; the message says why and what to do.
    """
    opened = newest_open(folder / LEDGER, files=files)
    if opened is not None and opened.simulated is not None:
        _refuse_other(folder, opened.name or job_name, was_simulated=opened.simulated, name=job_name, now=simulated)
    try:
        there = read_run_file(folder, files=files)
    except UnreadableRunFileError:
        if opened is None or not (opened.simulated is not None or opened.job == digest):
            raise
        return None  # it is made anew
    if there is not None:
        _refuse_other(folder, there.job_name, was_simulated=there.simulated, name=job_name, now=simulated)
    elif opened is None or not (opened.simulated is not None or opened.job == digest):
        _refuse_foreign(folder, files, adopt_rows=adopt_rows)
    return there


def _refuse_other(folder: Path, there: str, *, was_simulated: bool, name: str, now: bool) -> None:
    if there != name:
        raise WrongDirectoryError(
            f"{folder}: belongs to the job `{there}`, not to `{name}`; give this job its own directory "
            "(--out or output.dir), or its old name back"
        )
    if was_simulated != now:
        was, other = ("a simulated", "a real") if was_simulated else ("a real", "a simulated")
        raise WrongDirectoryError(
            f"{folder}: holds {was} run, {other} run cannot use it; choose another directory with --out"
        )


def claim(
    folder: Path,
    *,
    job_name: str,
    simulated: bool,
    digest: str,
    job: dict[str, Json],
    program: str,
    created: str,
    command: str | None = None,
    command_elsewhere: str | None = None,
    typed_in: str | None = None,
    job_path: str | None = None,
    adopt_rows: bool = False,
    files: Files = DISK,
) -> RunFile:
    """Take the directory for this job, or continue in it: writes `run.json`. Hold the lock.

    `created` counts for the first run only. Raises WrongDirectoryError and StoreBrokenError, see `check_claim`.
    """
    make_run_folder(folder, files=files)
    before = check_claim(
        folder, job_name=job_name, simulated=simulated, digest=digest, adopt_rows=adopt_rows, files=files
    )
    run = RunFile(
        job_name=job_name,
        simulated=simulated,
        digest=digest,
        program=program,
        created=created if before is None else before.created,
        job=job,
        totals=before.totals if before is not None else None,
        segment=before.segment if before is not None and not adopt_rows else None,
        segment_bytes=before.segment_bytes if before is not None and not adopt_rows else None,
        segment_left=before.segment_left if before is not None and not adopt_rows else None,
        checkpointed=before.checkpointed if before is not None and not adopt_rows else None,
        command=command,
        command_elsewhere=command_elsewhere,
        typed_in=typed_in,
        job_path=job_path,
    )
    if run != before:
        write_run_file(folder, run, files=files)
    return run


def _refuse_foreign(folder: Path, files: Files, *, adopt_rows: bool) -> None:
    """Hidden files and what a first start leaves behind when it is killed do not count."""
    if not files.exists(folder):
        return
    try:
        names = files.names(folder)
    except NotADirectoryError as error:
        raise WrongDirectoryError(f"{folder}: is a file; choose a directory with --out") from error
    except OSError as error:
        raise broken(folder, error, sending=False) from error
    foreign = sorted(name for name in names if not (name == LOCK or name.startswith(".") or name.endswith(TEMPORARY)))
    rows = sorted({RESULTS, SUPERSEDED} & set(names))
    if rows and adopt_rows:
        return
    if rows:
        raise WrongDirectoryError(
            f"{folder}: has {' and '.join(rows)}, but no run.json and no ledger; restore them, choose another "
            "directory with --out, or continue with `batchrunner run JOB --adopt-rows`, which counts items with a row "
            "as done"
        )
    if foreign:
        some = ", ".join(foreign[:3]) + (" and more" if foreign[3:] else "")
        raise WrongDirectoryError(
            f"{folder}: has other files ({some}) but no run.json; choose an empty directory with --out, "
            "or restore run.json"
        )
