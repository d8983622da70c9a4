"""An item whose pictures come from elsewhere: its accepted task is followed to its own end, its pictures are kept.

A picture that was paid for is not given up: what cannot be fetched, or is no picture, leaves the task accepted with
its URLs in the ledger. The next run fetches it again; nothing here submits anything. Only a file that is gone when a
provider may have swept it away has expired with its task.
"""

import asyncio
import random
from typing import Final

from batchrunner.core.job import Job, PictureFormat
from batchrunner.core.lifecycle import OpenTask
from batchrunner.core.outcome import (
    DAMAGED,
    Answer,
    PictureBytes,
    Pictures,
    PictureUrl,
    Problem,
    ProblemKind,
    TaskAccepted,
)
from batchrunner.core.pacing import backoff_s
from batchrunner.core.ports import Downloads, Hold, MediaStore, PictureStore, Write
from batchrunner.core.row import Audio, KeptMedia, MediaFile, Missing, Picture, PictureOrigin
from batchrunner.core.text import MASK
from batchrunner.core.values import dataclass, field, replace
from batchrunner.engine.lanes import Lane
from batchrunner.engine.recorder import Recorder, uncancellable
from batchrunner.engine.shutdown import Shutdown, SteppedOutError
from batchrunner.engine.task_poller import StillRunning, TaskEnd, TaskPoller
from batchrunner.engine.verdict import Finished, GivenUp, TaskEnded, Verdict, Waiting
from batchrunner.engine.work_queue import Work

# Gets a finished task's pictures onto the disk: fetch, check, keep. A picture that was paid for is never given up.
#
# What cannot be fetched or is no picture leaves its task accepted, with its URLs in the ledger: it is fetched again by
# the next run, and never submitted again.

_AT_ONCE: Final = 8
_TRIES: Final = 3
"""Of a picture at an address in a chat answer, whose words wait for it."""
_MOST_WAIT_S: Final = 10.0


@dataclass(slots=True, kw_only=True)
class PictureSaver:
    """Fetches and keeps the pictures of one item at a time, few items at once (each may be 64 MB)."""

    downloads: Downloads
    store: PictureStore
    media: MediaStore | None
    """Where files of any type go, with `kind: media`; None for pictures."""
    into: PictureFormat | None
    hold: Hold
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def keep(
        self, work: Work, pictures: Pictures, *, account: str = ""
    ) -> tuple[Picture | MediaFile, ...] | Problem:
        """All of them, or the first problem. Pictures kept before it are written again, under the same names.

        `account`: whose key fetches those that lie at the API itself.
        """
        kept: list[Picture | MediaFile] = []
        for number, ref in enumerate(pictures.refs, start=1):
            stem = work.item.stem if len(pictures.refs) == 1 else f"{work.item.stem}-{number}"
            async with self._at_once:
                if self.media is None:
                    file: Picture | MediaFile | Problem = await self._keep_one(work, ref, stem, account=account)
                else:
                    file = await self._stream(self.media, ref, stem, account=account)
            if isinstance(file, Problem):
                return file
            kept.append(file)
        return tuple(kept)

    async def _stream(
        self, media: MediaStore, ref: PictureUrl | PictureBytes, stem: str, *, account: str
    ) -> MediaFile | Problem:
        """From its address to the disk, never whole in memory."""

        async def fill(write: Write) -> Problem | None:
            if isinstance(ref, PictureUrl):
                return await self.downloads.fetch_into(ref.url, write, account=account)
            await write(ref.data)
            return None

        return await media.save(fill, stem=stem)

    async def keep_answer(self, work: Work, answer: Answer) -> KeptMedia:
        """The pictures and sounds of a chat answer. What cannot be fetched is reported; the text is kept."""
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
        sounds = [recording for recording in answer.sounds if recording.data]
        for number, recording in enumerate(sounds, start=1):
            stem = work.item.stem if len(sounds) == 1 else f"{work.item.stem}-{number}"
            audio.append(await self.store.save_audio(recording, stem=stem))
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

    async def _keep_one(
        self, work: Work, ref: PictureUrl | PictureBytes, stem: str, *, account: str = ""
    ) -> Picture | Problem:
        if isinstance(ref, PictureBytes):
            return await self.store.save(ref.data, stem=stem, into=self.into, origin=_origin_of(work))
        fetched = await self.downloads.fetch(ref.url, account=account)
        if isinstance(fetched, Problem):
            return fetched
        with self.hold(len(fetched)):
            return await self.store.save(fetched, stem=stem, into=self.into, origin=_origin_of(work))


def _origin_of(work: Work) -> PictureOrigin:
    """What stands in the file, so that a picture found alone still says where it comes from."""
    item = work.item
    return PictureOrigin(prompt=item.prompt, model=item.model, id=item.id, key=item.key, params=item.params)


_FETCHES: Final = 4
_FETCHES_BEFORE_ASKING_AGAIN: Final = 2
_KEPT_FOR_S: Final = 86_400.0
"""Servers keep results for a day at least, unless a table says otherwise."""
_TRIED_FOR_S: Final = 7 * 86_400.0
"""A picture that no run could fetch for so long will not come any more."""
_SHOWN_CHARS: Final = 500
_NUMBERS: Final = ("n", "num_images", "num_outputs", "batch_size")
"""Parameters that ask for so many pictures."""
_CAUSES: Final = 50
_CAUSE_CHARS: Final = 120
_REPORTED_COUNTS: Final = frozenset(10**power for power in range(9))
_GONE: Final = frozenset({404, 410})


@dataclass(slots=True, kw_only=True)
class ImageTasks:
    """What following needs; one for a run."""

    job: Job
    recorder: Recorder
    tasks: TaskPoller | None
    saver: PictureSaver
    shutdown: Shutdown
    random_source: random.Random
    _missing: dict[tuple[str, int | None, str], int] = field(default_factory=dict)
    """(kind, status, host) -> how often a picture could not be kept for it."""

    async def follow(
        self,
        work: Work,
        task: OpenTask,
        *,
        resumed: bool,
        may_ask: bool = True,
        found: Pictures | None = None,
    ) -> Verdict | TaskEnded:
        """An accepted task, to its own end. The caller counts it as open in its lane.

        `may_ask` False: its server is not the job's, only pictures at known addresses can be fetched. `found` are
        pictures that came already, some of which may not lie at any address.
        """
        missing: Problem | None = None
        try:
            for round_ in range(_FETCHES):
                asked_again = round_ >= _FETCHES_BEFORE_ASKING_AGAIN
                ask = not task.urls or (asked_again and bool(task.task_id) and may_ask)
                end = found if found is not None and not ask else await self._end_of(task, resumed=resumed, ask=ask)
                if isinstance(end, StillRunning):
                    return Waiting(why=end.why, message=end.message)
                if isinstance(end, Problem) and task.urls:
                    break  # it was finished, and what the server says of it now is no reason to pay again
                if isinstance(end, Problem):
                    return TaskEnded(problem=_as_guessed(end) if task.guess or MASK in task.task_id else end)
                found = end
                missing = await self._keep(work, end, task)
                if missing is None:
                    return Finished()
                self._report_missing(missing, end)
                await self.shutdown.sleep(
                    backoff_s(first_s=1.0, cap_s=30.0, tries=round_, random_source=self.random_source.random())
                )
            return self._without(work, task, missing)
        except SteppedOutError:
            return Waiting(why="draining")

    def _without(self, work: Work, task: OpenTask, missing: Problem | None) -> Verdict | TaskEnded:
        """What becomes of a finished task whose pictures could not be had this time."""
        if missing is None:
            return Waiting(why="download_failed")
        if missing.code == DAMAGED:  # fetching it once more would give the same
            return self._given_up(work, missing)
        if self._has_expired(task, missing):
            expired = Problem(
                kind=ProblemKind.TASK_EXPIRED, message=missing.message, status=missing.status, of_task=True
            )
            return TaskEnded(problem=expired)
        age_s = self.recorder.clock.wall() - task.accepted_at
        if age_s > _TRIED_FOR_S:
            days = int(age_s // 86_400)
            why = f"{missing.message}; given up after {days} days: {', '.join(task.urls)[:_SHOWN_CHARS]}"
            return self._given_up(work, replace(missing, message=why))
        return Waiting(why="download_failed", message=missing.message)

    def _given_up(self, work: Work, problem: Problem) -> GivenUp:
        """Failed, and not ordered again: it is paid for."""
        return GivenUp(problem=problem, charged=self.recorder.state.record(work.key).attempts + 1, ambiguous=True)

    def _report_missing(self, missing: Problem, pictures: Pictures) -> None:
        """Pictures that cannot be kept: the first of each cause at once, then how many, at every tenfold number."""
        url = next((ref.url for ref in pictures.refs if isinstance(ref, PictureUrl)), "")
        address = url.partition("?")[0].partition("://")[2]  # what follows may be a signature
        host, slash, path = address.partition("/")
        host = host.rpartition("@")[2]  # what stands before may be a password
        address = f"{host}{slash}{path}"[:_CAUSE_CHARS]
        cause = missing.kind.value, missing.status, host
        if cause not in self._missing and len(self._missing) >= _CAUSES:
            return
        count = self._missing[cause] = self._missing.get(cause, 0) + 1
        if count in _REPORTED_COUNTS:
            where = f" ({address})" if host not in missing.message else ""
            often = f", {count:,} times so far" if count > 1 else ""
            what = "picture" if self.saver.media is None else "file"
            self.recorder.say(
                f"{what} not saved yet: {missing.message}{where}{often}; downloading it again (no new request)"
            )

    def _has_expired(self, task: OpenTask, missing: Problem) -> bool:
        if any(MASK in url for url in task.urls):  # the address held the key: the file lies elsewhere
            return False
        table = self.job.provider.task
        kept_for_s = _KEPT_FOR_S if table is None else table.result.keep_s or _KEPT_FOR_S
        return missing.status in _GONE and self.recorder.clock.wall() - task.accepted_at > kept_for_s

    async def _end_of(self, task: OpenTask, *, resumed: bool, ask: bool) -> TaskEnd:
        if not ask:
            return Pictures(refs=tuple(PictureUrl(url=url) for url in task.urls), usage=task.usage)
        if self.tasks is None or not task.task_id:
            words = "a remote task of another provider; run the job with that provider to fetch it"
            return StillRunning(why="timed_out", message=words)
        return await self.tasks.wait_for(
            task.task_id,
            account=task.account,
            model=task.model,
            accepted_at=task.accepted_at,
            resumed=resumed,
            addresses=task.addresses,
            sought=task.sought,
        )

    async def _keep(self, work: Work, pictures: Pictures, task: OpenTask) -> Problem | None:
        urls = tuple(ref.url for ref in pictures.refs if isinstance(ref, PictureUrl))
        if urls and urls != task.urls:
            await self.recorder.ready(work, urls, usage=pictures.usage)
        kept = await self.saver.keep(work, pictures, account=task.account)
        if isinstance(kept, Problem):
            return kept
        await self.recorder.pictured(
            work,
            kept,
            usage=pictures.usage,
            task_id=task.task_id or None,
            flags=(*pictures.flags, *_flags_of(work, kept)),
        )
        return None

    async def keep_at_once(self, work: Work, lane: Lane, pictures: Pictures) -> Verdict | None:
        """A synchronous answer: pictures in it are kept now. URLs are remembered like those of a task.

        It gives None for URLs: `follow` fetches them.
        """
        if any(isinstance(ref, PictureUrl) for ref in pictures.refs):
            await uncancellable(self._remember_urls(work, lane, pictures))
            return None
        return await uncancellable(self._keep_bytes(work, pictures))

    async def _remember_urls(self, work: Work, lane: Lane, pictures: Pictures) -> None:
        """One step, not to be cancelled: between the two records the pictures' addresses would be unknown."""
        # an id that cannot be polled is none: what was cut off before its URLs were known is sent again
        task_id = pictures.task_id if self.tasks is not None else ""
        await self.recorder.accepted(work, lane, TaskAccepted(task_id=task_id))
        urls = tuple(ref.url for ref in pictures.refs if isinstance(ref, PictureUrl))
        await self.recorder.ready(work, urls, usage=pictures.usage)

    async def _keep_bytes(self, work: Work, pictures: Pictures) -> Verdict:
        with self.saver.hold(sum(len(ref.data) for ref in pictures.refs if isinstance(ref, PictureBytes))):
            kept = await self.saver.keep(work, pictures)
        if isinstance(kept, Problem):
            charged = self.recorder.state.record(work.key).attempts + 1
            return GivenUp(problem=kept, charged=charged, ambiguous=True)
        await self.recorder.pictured(
            work,
            kept,
            usage=pictures.usage,
            task_id=pictures.task_id or None,
            flags=(*pictures.flags, *_flags_of(work, kept)),
        )
        return Finished()


def _flags_of(work: Work, kept: tuple[Picture | MediaFile, ...]) -> tuple[str, ...]:
    """What a person should know of files that are kept: fewer came than were asked for."""
    wanted = next((asked for name in _NUMBERS if isinstance(asked := work.item.params.get(name), int)), 1)
    fewer = "fewer_files" if kept and isinstance(kept[0], MediaFile) else "fewer_pictures"
    return (fewer,) if len(kept) < wanted else ()


def _as_guessed(problem: Problem) -> Problem:
    """An unknown task whose id may have been none: it may have been billed, and is not requested again."""
    if problem.kind is not ProblemKind.TASK_EXPIRED:
        return problem
    message = f"the server does not know the task id that it returned: {problem.message}"
    return replace(problem, kind=ProblemKind.NOT_UNDERSTOOD, message=message)
