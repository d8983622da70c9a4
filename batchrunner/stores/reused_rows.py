"""Takes rows of other runs into this one's directory, with the files that they name.

A row whose picture, sound or file is missing or is not what the row says is not taken. Files are copied: what is done
to the other directory later changes nothing here.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from batchrunner.core.item import Item, safe_stem
from batchrunner.core.ports import AnswerFiles, TakenRow, Untaken
from batchrunner.core.upstream import ReusedRun
from batchrunner.stores.artifacts import Artifacts, pieces_of
from batchrunner.stores.files import Files
from batchrunner.stores.images import AUDIO_FOLDER, FOLDER
from batchrunner.stores.media import FOLDER as MEDIA_FOLDER
from batchrunner.stores.other_runs import FILES_DIFFER, OtherRuns
from batchrunner.stores.row_codec import NamedFile, RowFacts, label_of, taken_copy
from batchrunner.stores.threads import Threads


class ReusedRows:
    """Implements `core.ports.ReusableRows`: takes rows of other runs into this one's directory."""

    def __init__(self, others: OtherRuns, artifacts: Artifacts, *, each: AnswerFiles | None, disk: Threads) -> None:
        self._others = others
        self._artifacts = artifacts
        self._each = each
        self._disk = disk

    def __repr__(self) -> str:
        return f"<ReusedRows {self._others!r}>"

    def __contains__(self, key: object) -> bool:
        return key in self._others

    async def take(self, items: Sequence[Item], efforts: Sequence[tuple[int, int]]) -> list[TakenRow | Untaken]:
        """See `core.ports.ReusableRows`. Raises StoreBrokenError."""
        found = await self._disk.run(lambda: [self._others.row_of(bytes.fromhex(item.key)) for item in items])
        return [
            row if isinstance(row, Untaken) else await self._taken(item, *row, effort=effort)
            for item, row, effort in zip(items, found, efforts, strict=True)
        ]

    async def _taken(
        self, item: Item, run: ReusedRun, text: bytes, facts: RowFacts, *, effort: tuple[int, int]
    ) -> TakenRow | Untaken:
        paths: dict[str, str] = {}
        kinds = (FOLDER, facts.output.images), (AUDIO_FOLDER, facts.output.audio), (MEDIA_FOLDER, facts.output.media)
        for folder, named in kinds:
            for number, file in enumerate(named, start=1):
                stem = item.stem if len(named) == 1 else f"{item.stem}-{number}"
                kept = await self._copied(file, Path(run.path), f"{folder}/{safe_stem(stem)}")
                if kept is None:
                    return Untaken(FILES_DIFFER.format(run.shown), file.path)
                paths[file.path] = kept
        path = None
        if self._each is not None and (facts.output.text or facts.output.path is not None):
            path = await self._each.save(item, facts.output.text)
        attempts, ambiguous = effort
        line = taken_copy(
            text, label_of(item), run=run.shown, attempts=attempts, ambiguous=ambiguous, paths=paths, path=path
        )
        return TakenRow(line, tuple((paths[old], size, sha256) for old, size, sha256 in facts.files))

    async def _copied(self, file: NamedFile, folder: Path, target: str) -> str | None:
        """Where the file lies here now, under `target` and its ending; None where it is not there or is another one."""
        pure = PurePosixPath(file.path)
        if pure.is_absolute() or ".." in pure.parts:
            return None
        ending = pure.suffix if pure.suffix[1:].isascii() and pure.suffix[1:].isalnum() else ".bin"
        async with self._artifacts.receiving(target.partition("/")[0]) as received:
            source = _Source(self._artifacts.files, folder / file.path)
            try:
                while piece := await self._disk.run(source.next):
                    await received.write(piece)
                    if received.length > file.bytes:
                        return None
            except OSError:  # of the other directory: what this one refuses is a StoreBrokenError
                return None
            finally:
                await self._disk.run(source.close)
            if received.length != file.bytes or not file.bytes:
                return None
            await received.complete()
            return await received.keep(f"{target}{ending}") if received.sha256 == file.sha256 else None


class _Source:
    """A file of another directory, a megabyte at a time. All of it blocks."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files, self._path = files, path
        self._descriptor: int | None = None
        self._pieces: Iterator[bytes] = iter(())

    def next(self) -> bytes:
        """The next bytes; none at the end. Raises OSError."""
        if self._descriptor is None:
            self._descriptor = self._files.open_read(self._path)
            self._pieces = pieces_of(self._files, self._descriptor)
        return next(self._pieces, b"")

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor is not None:
            with suppress(OSError):
                self._files.close(self._descriptor)
