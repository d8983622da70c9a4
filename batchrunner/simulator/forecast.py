"""When a job would end if its provider is as its profile supposes: the figures of `core/forecast` for one job."""

from typing import Final, TypeVar

from batchrunner.core.job import PRESETS, Job
from batchrunner.core.pacing import day_of
from batchrunner.core.plan import PlanningPass
from batchrunner.core.rehearsal_report import Forecast, LaneLoad, end_of
from batchrunner.core.state import LedgerState
from batchrunner.engine.run_status import shown_time
from batchrunner.simulator.profiles import Profile, profile_of

N = TypeVar("N", int, float)
_CHUNKS: Final = 10
"""Pieces of a chat answer, as profiles count them."""
_WIDE: Final = 64
"""Calls at once that `concurrency: auto` is supposed to reach where nobody sets a limit."""


def forecast(job: Job, found: PlanningPass, state: LedgerState, *, now: float) -> Forecast | None:
    """About the end of a run that begins now and meets no trouble; None when nothing is left to send."""
    if not found.to_send:
        return None
    profile = profile_of(job)
    offset_s = PRESETS[job.provider.preset].day_offset_s
    accounts = job.provider.key_env or ("",)
    today = day_of(wall=now, offset_s=offset_s)
    lanes = [
        LaneLoad(
            calls=-(-ahead.calls // len(accounts)),
            call_s=_call_s(job, profile),
            at_once=_at_once(job, profile),
            per_minute=_least(job.limits.requests_per_minute, profile.limits.per_minute),
            per_day=_least(job.limits.requests_per_day, profile.quota.model_per_day),
            sent_today=state.sent_today(account, model, day=today),
        )
        for model, ahead in found.ahead.items()
        for account in accounts
    ]
    at, days = end_of(lanes, now=now, offset_s=offset_s)
    return Forecast(at=shown_time(at, offset_s=offset_s), seconds=at - now, quota_days=days, supposed=profile.shown())


def _call_s(job: Job, profile: Profile) -> float:
    latency = profile.latency
    if job.kind == "image":
        return latency.first_byte_s + latency.task_s + latency.download_s
    return latency.first_byte_s + _CHUNKS * latency.chunk_s


def _at_once(job: Job, profile: Profile) -> int:
    """Remote tasks run side by side on the server; other calls are held by what is in flight."""
    tasks = job.limits.in_flight_tasks or PRESETS[job.provider.preset].in_flight_tasks
    if job.kind == "image" and tasks:
        return tasks
    return _least(job.limits.concurrency, profile.limits.concurrent) or _WIDE


def _least(*limits: N | None) -> N | None:
    return min((limit for limit in limits if limit is not None), default=None)
