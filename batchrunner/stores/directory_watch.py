"""A run's directory from its start to its clean end: what was written must still be there when the run is called done.

Refuses to vouch, in the ledger's `close`, for a directory from which something is missing.
"""

from contextlib import suppress
from pathlib import Path

from batchrunner.core.errors import StoreBrokenError, WrongDirectoryError
from batchrunner.core.events import CheckpointMark
from batchrunner.core.state import LedgerState
from batchrunner.stores.artifacts import Artifacts
from batchrunner.stores.checkpoint import remove_checkpoints, segment_mark, write_checkpoint
from batchrunner.stores.files import RESULTS, InspectedFiles, Marks, broken, count_files, marks_of
from batchrunner.stores.inspection import inspect
from batchrunner.stores.ledger import LedgerWriter
from batchrunner.stores.results import ResultsFile
from batchrunner.stores.run_directory import remember_ledger, segment_left
from batchrunner.stores.threads import Threads


class DirectoryWatch:
    """One process's."""

    def __init__(
        self,
        *,
        folder: Path,
        files: InspectedFiles,
        state: LedgerState,
        results: ResultsFile,
        artifacts: Artifacts,
        outputs: frozenset[str],
    ) -> None:
        """For a directory that was looked at; `outputs` are the folders of pictures and answers at its top."""
        self._folder = folder
        self._files = files
        self._state = state
        self._results = results
        self._artifacts = artifacts
        self._outputs = outputs
        self._began_with = 0
        self._events_before = 0
        self._threads = Threads("directory", count=1)

    def __repr__(self) -> str:
        return f"<DirectoryWatch {self._folder} began with {self._began_with} files>"

    def begin(self) -> None:
        """Count what is there, before anything is added. Blocks. Raises StoreBrokenError."""
        self._began_with = self._count(self._outputs)
        self._events_before = self._state.events

    async def confirm(self) -> None:
        """Report what was removed during the run: lost items are in the state afterwards.

        Raises:
            StoreBrokenError: results.jsonl is not the file that was written.
        """
        await self._threads.run(self._confirm)

    def _confirm(self) -> None:
        self._results.confirm()
        if self._count(self._all_outputs) < self._began_with + self._artifacts.added:
            known = frozenset(self._state.lost)
            inspect(self._files, self._folder, self._state)
            self._state.lost |= known

    async def close(self, opened: list[LedgerWriter]) -> None:
        """A clean end if the disk allows it; otherwise the next run checks every row."""
        marks: Marks | None = None
        torn = False
        with suppress(StoreBrokenError):
            await self._results.close()
            torn = await self._threads.run(self._is_torn)
            marks = None if torn else await self._threads.run(self._marks)
        torn = torn or self._results.refused
        for ledger in opened:
            with suppress(StoreBrokenError, WrongDirectoryError):
                await ledger.synced()
                checkpoint = await self._threads.run(self._checkpoint, ledger)
                await ledger.close(marks, torn=torn, checkpoint=checkpoint)
                await self._threads.run(self._remember, ledger, checkpointed=checkpoint is not None)
        self._threads.close()

    def _checkpoint(self, ledger: LedgerWriter) -> CheckpointMark | None:
        """What the state knows, if it took every record of the ledger, and nothing else."""
        state = self._state
        if ledger.records == 1 and state.begun_from:
            return None  # nothing happened since the last one
        if state.events - self._events_before != ledger.records:
            return None
        state.segment_ended()
        return write_checkpoint(
            self._files, ledger.path.parent, state, segment=ledger.number, intact_at=state.intact_at
        )

    def _remember(self, ledger: LedgerWriter, *, checkpointed: bool) -> None:
        found = segment_mark(self._files, ledger.path.parent, ledger.number)
        if found is not None:
            remember_ledger(
                self._folder,
                segment=ledger.number,
                size_bytes=found[2],
                left=segment_left(self._state),
                checkpointed=found if checkpointed else None,
                files=self._files,
            )
        if checkpointed:
            remove_checkpoints(self._files, ledger.path.parent, but=ledger.number)

    def _marks(self) -> Marks | None:
        if self._state.lost:
            return None
        self._results.confirm()
        if self._count(self._all_outputs) < self._began_with + self._artifacts.added:
            return None
        return marks_of(self._files, self._folder, self._all_outputs)

    def _is_torn(self) -> bool:
        """Whether a row has no `done`, because the disk refused one of them: the next run takes it over, or repairs it.

        While items are lost, what follows the recorded rows may be theirs, and is not taken for torn.
        """
        try:
            rows = self._files.look(self._folder / RESULTS)
        except OSError as error:
            raise broken(self._folder / RESULTS, error) from error
        return self._results.refused or (
            not self._state.lost and (rows.size_bytes if rows is not None else 0) > self._state.results_length
        )

    @property
    def _all_outputs(self) -> frozenset[str]:
        return self._outputs | self._artifacts.outputs

    def _count(self, outputs: frozenset[str]) -> int:
        try:
            return sum(
                count_files(self._files, self._folder / name)[0]
                for name in outputs
                if (found := self._files.look(self._folder / name)) is not None and found.kind == "folder"
            )
        except OSError as error:
            raise broken(self._folder, error) from error
