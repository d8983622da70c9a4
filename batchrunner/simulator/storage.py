"""The storage host: pictures and videos by name, drawn when they are fetched, with faults of downloads."""

from collections.abc import Callable

from batchrunner.simulator.profiles import DOWNLOAD_FAULTS, FaultRates, Latency
from batchrunner.simulator.refusals import REFUSALS, refuse
from batchrunner.simulator.script import Cut, Delay, RandomSource, Script, Send, Step
from batchrunner.simulator.simulated_tasks import SimulatedTasks, Task

_MIB = 1024 * 1024
_HUGE_MIB = 65
_ANTI_LEECH = b"<!DOCTYPE html><html><head><title>Access denied</title></head><body>" + b"<p>anti-leech</p>" * 440
_DRIPS = 20


class Storage:
    """Answers downloads of the pictures of a task book."""

    def __init__(self, tasks: SimulatedTasks, *, seed: int, faults: FaultRates, latency: Latency) -> None:
        self._tasks = tasks
        self._seed = seed
        self._faults = faults
        self._latency = latency

    def __repr__(self) -> str:
        return f"Storage({self._tasks!r})"

    def fetch(self, path: str, query: str, *, now: float) -> Script:
        """The reply to `GET /files/NAME`."""
        task = self._tasks.find(path.removeprefix("/files/").partition("_")[0], now=now)
        if task is None or task.fails or not task.finished(now):
            return refuse(REFUSALS["no-file"], model="", request_id="")
        if "dl-redirect" in task.chosen and not query:
            return Script(status=302, headers={"location": f"{path}?moved=1", "content-type": "text/html"})
        task.downloads += 1
        random_source = RandomSource(seed=self._seed, content=task.content, nth=task.downloads)
        struck = self._faults.pick(random_source, DOWNLOAD_FAULTS)
        variant = next((DOWNLOADS[name] for name in (*task.chosen, struck or "") if name in DOWNLOADS), _plain)
        script = variant(task)
        wait_s = random_source.spread(self._latency.download_s, self._latency.spread, "download")
        early = (Delay(seconds=wait_s),) if wait_s else ()
        return Script(status=script.status, headers=script.headers, early=early, steps=script.steps)


def _of(*steps: Step, media_type: str = "image/png") -> Script:
    return Script(headers={"content-type": media_type}, steps=steps)


def _plain(task: Task) -> Script:
    return _of(Send(piece=task.result()), media_type=task.media_type)


def _html(_task: Task) -> Script:
    return _of(Send(piece=_ANTI_LEECH))


def _truncated(task: Task) -> Script:
    """Half a picture in a reply that is complete for HTTP."""
    body = task.result()
    return _of(Send(piece=body[: len(body) // 2]))


def _cut(task: Task) -> Script:
    body = task.result()
    headers = {"content-type": task.media_type, "content-length": str(len(body))}
    return Script(headers=headers, steps=(Send(piece=body[: len(body) // 2]), Cut()))


def _missing(_task: Task) -> Script:
    return refuse(REFUSALS["no-file"], model="", request_id="")


def _missing_once(task: Task) -> Script:
    return _missing(task) if task.downloads == 1 else _plain(task)


def _slow(task: Task) -> Script:
    body = task.result()
    said = task.chosen.get("dl-slow")
    pause_s = (30.0 if said is None else said) / _DRIPS
    size = -(-len(body) // _DRIPS)
    drips = [(Delay(seconds=pause_s), Send(piece=body[at : at + size])) for at in range(0, len(body), size)]
    return _of(*(step for drip in drips for step in drip))


def _wrong_ending(task: Task) -> Script:
    return _of(Send(piece=task.result()), media_type="image/jpeg")


def _huge(task: Task) -> Script:
    """One mebibyte sent again and again, so that it costs nothing to hold."""
    return _of(Send(piece=task.result()), *(Send(piece=_ZEROS) for _ in range(_HUGE_MIB)))


_ZEROS = bytes(_MIB)

DOWNLOADS: dict[str, Callable[[Task], Script]] = {
    "dl-html": _html,
    "dl-truncated": _truncated,
    "dl-cut": _cut,
    "dl-404-once": _missing_once,
    "dl-404": _missing,
    "dl-slow": _slow,
    "dl-wrong-ext": _wrong_ending,
    "dl-huge": _huge,
    "download_html": _html,
    "download_truncated": _truncated,
    "download_missing": _missing,
}
"""Scenarios of a model and faults by chance, by name. `dl-redirect` is answered before this table."""
