"""Gets a finished task's pictures onto the disk: fetch, check, keep. A picture that was paid for is never given up.

What cannot be fetched or is no picture leaves its task accepted, with its URLs in the ledger: it is fetched again by
the next run, and never submitted again.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from batchrunner.core.job import PictureFormat
from batchrunner.core.outcome import Answer, PictureBytes, Pictures, PictureUrl, Problem
from batchrunner.core.ports import Downloads, Hold, PictureStore
from batchrunner.core.row import Audio, KeptMedia, Missing, Picture
from batchrunner.engine.work_queue import Work

_AT_ONCE: Final = 8
_TRIES: Final = 3
"""Of a picture at an address in a chat answer, whose words wait for it."""
_MOST_WAIT_S: Final = 10.0


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

    async def keep_answer(self, work: Work, answer: Answer) -> KeptMedia:
        """The pictures and sounds of a chat answer. What cannot be had is told: its words are paid for, and kept."""
        images: list[Picture] = []
        audio: list[Audio] = []
        missing: list[Missing] = []
        for number, ref in enumerate(answer.pictures, start=1):
            stem = work.item.stem if len(answer.pictures) == 1 else f"{work.item.stem}-{number}"
            async with self._at_once:
                kept = await self._try(work, ref, stem)
            if isinstance(kept, Problem):
                missing.append(Missing(reason=kept.message, url=ref.url if isinstance(ref, PictureUrl) else None))
            else:
                images.append(kept)
        sounds = [sound for sound in answer.sounds if sound.data]
        for number, sound in enumerate(sounds, start=1):
            stem = work.item.stem if len(sounds) == 1 else f"{work.item.stem}-{number}"
            audio.append(await self.store.save_sound(sound, stem=stem))
        return KeptMedia(images=tuple(images), audio=tuple(audio), missing=tuple(missing))

    async def _try(self, work: Work, ref: PictureUrl | PictureBytes, stem: str) -> Picture | Problem:
        """A picture at an address gets a few tries; one that came with the answer is what it is."""
        kept = await self._keep_one(work, ref, stem)
        tries = 1
        while isinstance(kept, Problem) and isinstance(ref, PictureUrl) and tries < _TRIES:
            await asyncio.sleep(kept.wait_s if kept.wait_s is not None and kept.wait_s < _MOST_WAIT_S else float(tries))
            kept = await self._keep_one(work, ref, stem)
            tries += 1
        return kept

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
