"""`notify`: what happened to a run is told to a command of the user's own, and through Apprise to a phone.

A command runs without a shell and without API keys, for 30 s at most. It gets the JSON of `status` on its stdin, and
BATCHRUNNER_STATE and BATCHRUNNER_EVENT in its environment, from which the variables of the providers' keys are removed.
Apprise is run in the same way, in a process of its own: it costs the run neither its import nor its time. What either
prints is shown only when it fails; a failure is told once and changes nothing.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from batchrunner.core.job import NOTIFY_EVENTS, Job, NotifyEvent
from batchrunner.core.presets import PRESETS
from batchrunner.core.status import LaneStatus, Status
from batchrunner.core.values import dataclass, field, replace
from batchrunner.report.summary import items_line
from batchrunner.report.wording import jsonable, printable

TIME_LIMIT_S: Final = 30.0
_LOOK_EVERY_S: Final = 2.0
_GRACE_S: Final = 5.0
"""How long what is under way when the run ends may take: it may be the only message of a short run."""
_ENDED_EVERY_S: Final = 0.1
_SHOWN_BYTES: Final = 2000
_SHOWN_CHARS: Final = 200
_AT_WORK: Final = frozenset({"working", "retrying"})


async def notify(
    job: Job, status: Status, *, event: NotifyEvent = "ended", time_limit_s: float = TIME_LIMIT_S
) -> str | None:
    """Tell the job's command and addresses, unless the user interrupted the run; what went wrong, if anything."""
    wanted = event in job.notify_on or (event == "ended" and status.state == "paused" and "paused" in job.notify_on)
    if not wanted or status.state == "interrupted":
        return None
    text = json.dumps(jsonable(status), allow_nan=False) + "\n"
    environment = run_environment(os.environ, keys=job.provider.key_env, state=status.state, event=event)
    troubles: list[str] = []
    for name, command, given in _commands(job, status, text, event, environment):
        given_up = threading.Event()
        try:
            trouble = await asyncio.get_running_loop().run_in_executor(
                None, _run, command, given.encode(), environment, time_limit_s, given_up
            )
        except asyncio.CancelledError:
            given_up.set()  # the thread ends the command: else the process would wait for both
            raise
        troubles += [f"notify: {printable(name)} {trouble}"] if trouble else []
    return "; ".join(troubles) or None


def _commands(
    job: Job, status: Status, text: str, event: NotifyEvent, environment: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(name, command, stdin) of everything that is to be told."""
    if job.notify:
        yield job.notify[0], job.notify, text
    if job.notify_apprise_env is not None:
        urls = environment.get(job.notify_apprise_env, "")
        message = {"urls": urls, "title": title(status, event), "body": body(status)}
        command = (sys.executable, "-P", "-m", "batchrunner.report.apprise_message")
        yield f"apprise ({job.notify_apprise_env})", command, json.dumps(message)


def title(status: Status, event: NotifyEvent) -> str:
    """One line for a phone."""
    words = {
        "ended": status.state,
        "paused": "paused",
        "all_parked": "waiting: every lane is parked",
        "first_failure": "has a first failed item",
    }
    return f"{printable(status.job)}: {words[event]}"


def body(status: Status) -> str:
    """A few lines for a phone: counts, why, and the first cause of failures."""
    lines = [items_line(status.items)]
    if status.message:
        lines.append(printable(status.message, most=_SHOWN_CHARS))
    if status.failures:
        group = status.failures[0]
        lines.append(f"{group.count:,} × {group.kind}: {printable(group.message, most=_SHOWN_CHARS)}")
    waits = [lane for lane in status.lanes if lane.activity == "parked" and lane.until]
    if waits:
        lines.append(f"next try {min(lane.until or '' for lane in waits)}")
    return "\n".join(lines)


@dataclass(slots=True, kw_only=True)
class Watcher:
    """Sees from one status to the next what a person wants to be told of."""

    failed: int
    """Failed items before the run."""
    _before: set[NotifyEvent] = field(default_factory=set)

    def news(self, status: Status) -> tuple[NotifyEvent, ...]:
        """What has begun since the last time; a first failure only once."""
        now: set[NotifyEvent] = {event for event in self._before if event == "first_failure"}
        if status.items.failed > self.failed:
            now.add("first_failure")
        if status.control.paused:
            now.add("paused")
        elif all_parked(status.lanes):
            now.add("all_parked")
        news = tuple(event for event in NOTIFY_EVENTS if event in now - self._before)
        self._before = now
        return news


def all_parked(lanes: Iterable[LaneStatus]) -> bool:
    """Whether nothing can be sent before a park ends, although there is something to send."""
    activities = {lane.activity for lane in lanes}
    return "parked" in activities and not activities & _AT_WORK


@asynccontextmanager
async def notifications(job: Job, snapshot: Callable[[], Status], say: Callable[[str], None]) -> AsyncIterator[None]:
    """Tell what happens while the run works, and never wait for it; a little for what is being told at the end."""
    if not {"paused", "all_parked", "first_failure"} & set(job.notify_on):
        yield
        return
    under_way: set[asyncio.Task[str | None]] = set()
    watching = asyncio.create_task(_watch(job, snapshot, say, under_way))
    try:
        yield
    finally:
        watching.cancel()
        if under_way:
            await asyncio.wait(under_way, timeout=_GRACE_S)
        for task in under_way:
            task.cancel()
        await asyncio.gather(watching, *under_way, return_exceptions=True)


async def _watch(
    job: Job, snapshot: Callable[[], Status], say: Callable[[str], None], under_way: set[asyncio.Task[str | None]]
) -> None:
    watcher = Watcher(failed=snapshot().items.failed)
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        status = snapshot()
        for event in watcher.news(status):
            task = asyncio.create_task(_send(job, status, event, say))
            under_way.add(task)
            task.add_done_callback(under_way.discard)


async def notified(job: Job, status: Status, say: Callable[[str], None]) -> Status:
    """Tell the end of a run; the status, with a note of what went wrong. Changes nothing else of the run."""
    trouble = await _send(job, status, "ended", say)
    return status if trouble is None else replace(status, notes=(*status.notes, trouble))


async def _send(job: Job, status: Status, event: NotifyEvent, say: Callable[[str], None]) -> str | None:
    try:
        trouble = await notify(job, status, event=event)
    except Exception as error:  # noqa: BLE001 - the run goes on, or has ended, whoever cannot be told
        trouble = f"notify: {error!r}"
    if trouble is not None:
        say(trouble)
    return trouble


def run_environment(
    environ: Mapping[str, str], *, keys: Iterable[str], state: str, event: NotifyEvent
) -> dict[str, str]:
    """The environment without any provider's key, and with the run's state and what happened."""
    secrets = {*keys, *(preset.key_env for preset in PRESETS.values())}
    kept = {name: value for name, value in environ.items() if name not in secrets}
    return {**kept, "BATCHRUNNER_STATE": state, "BATCHRUNNER_EVENT": event}


def _run(
    command: tuple[str, ...], text: bytes, environment: dict[str, str], time_limit_s: float, given_up: threading.Event
) -> str | None:
    """Runs in a thread. Files instead of pipes: no reader is needed, and a surviving grandchild blocks nothing."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
        given.write(text)
        given.seek(0)
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
                command, stdin=given, stdout=printed, stderr=printed, env=environment, start_new_session=True
            )
        except (OSError, ValueError) as error:
            return f"could not be started: {getattr(error, 'strerror', None) or error}"
        until_s = time.monotonic() + time_limit_s
        while (ended := process.poll()) is None:
            if given_up.wait(_ENDED_EVERY_S) or time.monotonic() >= until_s:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return f"was killed after {time_limit_s:g} s"
        if ended == 0:
            return None
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - _SHOWN_BYTES))
        lines = printed.read().decode(errors="replace").strip().splitlines()
        last = f": {printable(lines[-1], most=_SHOWN_CHARS)}" if lines else ""
        return f"exited with status {ended}{last}"
