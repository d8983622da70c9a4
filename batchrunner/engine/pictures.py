"""Gets a finished task's pictures onto the disk: fetch, check, keep. A picture that was paid for is never given up.

What cannot be fetched or is no picture leaves its task accepted, with its URLs in the ledger: it is fetched again by
the next run, and never submitted again.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from batchrunner.core.job import PictureFormat
from batchrunner.core.outcome import PictureBytes, Pictures, PictureUrl, Problem
from batchrunner.core.ports import Downloads, Hold, PictureStore
from batchrunner.core.row import Picture
from batchrunner.engine.work_queue import Work

_AT_ONCE: Final = 8


@dataclass(slots=True, kw_only=True)
class PictureKeeper:
    """Fetches and keeps the pictures of one item at a time, few items at once (each may be 64 MB)."""

    downloads: Downloads
    store: PictureStore
    into: PictureFormat | None
    hold: Hold
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def keep(self, work: Work, pictures: Pictures) -> tuple[Picture, ...] | Problem:
        """All of them, or the first problem. Pictures kept before it are written again, under the same names."""
        kept = []
        for number, ref in enumerate(pictures.refs, start=1):
            stem = work.item.stem if len(pictures.refs) == 1 else f"{work.item.stem}-{number}"
            async with self._at_once:
                picture = await self._keep_one(work, ref, stem)
            if isinstance(picture, Problem):
                return picture
            kept.append(picture)
        return tuple(kept)

    async def _keep_one(self, work: Work, ref: PictureUrl | PictureBytes, stem: str) -> Picture | Problem:
        if isinstance(ref, PictureBytes):
            return await self.store.save(ref.data, stem=stem, into=self.into, text=_text_of(work))
        fetched = await self.downloads.fetch(ref.url)
        if isinstance(fetched, Problem):
            return fetched
        with self.hold(len(fetched)):
            return await self.store.save(fetched, stem=stem, into=self.into, text=_text_of(work))


def _text_of(work: Work) -> dict[str, str]:
    """What stands in a PNG's text chunks, so that a picture found alone still says where it comes from."""
    item = work.item
    lines = {"prompt": item.prompt, "model": item.model, "id": item.id, "key": item.key}
    return lines | {f"param:{name}": str(value) for name, value in item.params.items()}
