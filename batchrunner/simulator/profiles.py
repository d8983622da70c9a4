"""What a rehearsal supposes of a provider: how long things take, how much it lets through, what goes wrong.

One profile for each preset and kind of job, from docs/providers/ and from what providers publish for small accounts:
guesses; correct them with `NAME=FIGURE,…` or a small YAML file of the same
names. Refuses unknown names and figures, all of them at once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Job, Json, Kind, PresetName
from batchrunner.core.pacing import day_of
from batchrunner.core.plan import PlanningPass
from batchrunner.core.plan_costs import requests_of
from batchrunner.core.presets import PRESETS
from batchrunner.core.rehearsal_report import Forecast, LaneLoad, end_of
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass, field_names, replace
from batchrunner.engine.run_status import shown_time
from batchrunner.simulator.quotas import NO_LIMITS, Quota, RateLimits
from batchrunner.simulator.script import RandomSource

# What goes wrong by chance, and how long things take: two small settings, each readable from a command line.
#
# Refuses unknown names and rates outside 0 to 1 with a mistake that lists what exists.


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """Rates per call, 0 to 1. Those of `POST_FAULTS` exclude each other, so their sum is at most 1."""

    throttle: float = 0.0
    """429, ModelScope's throttle of bursts, with `Retry-After`."""
    server_error: float = 0.0
    reset: float = 0.0
    """Aborted before the head; executed and paid in half of the cases."""
    cut: float = 0.0
    """The answer ends in its middle; paid."""
    shell: float = 0.0
    """The 200 that holds nothing; not paid."""
    hang: float = 0.0
    """No head ever; executed and paid in half of the cases."""
    task_fail: float = 0.0
    task_slow: float = 0.0
    """Ten times the usual duration."""
    poll_throttle: float = 0.0
    poll_error: float = 0.0
    download_html: float = 0.0
    download_truncated: float = 0.0
    download_missing: float = 0.0
    schema_break: float = 0.0
    """The first answer to a request for structured output breaks its schema; paid. Later answers fit."""
    retry_after_s: float | None = 1.0
    """What a throttle asks to wait; None sends no such header."""

    @classmethod
    def parse(cls, text: str) -> "FaultRates":
        """`throttle=0.1,5xx=0.05,retry_after=2` and so on; see FAULT_NAMES. An empty text is no faults.

        Raises:
            JobMistakesError: an unknown name, a bad number, or rates that add up to more than 1.
        """
        faults = cls(**_numbers(text, names=FAULT_NAMES, what="faults"))
        wrong = [name for name in field_names(cls) if name != "retry_after_s" and not 0 <= getattr(faults, name) <= 1]
        total = sum(getattr(faults, name) for name in POST_FAULTS)
        if wrong or total > 1.0 + 1e-9:
            problem = f"rates out of range: {', '.join(wrong)}" if wrong else f"the rates of a send add up to {total}"
            raise JobMistakesError((Mistake(key="faults", problem=problem, expected="rates from 0 to 1"),))
        if faults.retry_after_s is not None and faults.retry_after_s < 0:
            return replace(faults, retry_after_s=None)
        return faults

    def shown(self) -> str:
        """As `parse` would take it, with `+` for commas; empty without faults."""
        rates = [(name, getattr(self, field)) for name, field in FAULT_NAMES.items() if field != "retry_after_s"]
        parts = [f"{name}={rate:g}" for name, rate in rates if rate]
        if parts and self.throttle:
            parts.append(f"retry_after={-1 if self.retry_after_s is None else self.retry_after_s:g}")
        return "+".join(parts)

    def pick(self, random_source: RandomSource, among: tuple[str, ...]) -> str | None:
        """Which of these faults befalls this call, if any."""
        chance = [(name, rate) for name in among if (rate := getattr(self, name))]
        if not chance:
            return None
        # A throw of its own for each group: a task that is to fail must not be the one whose polls fail
        rest = random_source.roll(f"fault of {among[0]}")
        for name, rate in chance:
            if rest < rate:
                return name
            rest -= rate
        return None


POST_FAULTS = ("throttle", "server_error", "reset", "cut", "shell", "hang")
TASK_FAULTS = ("task_fail", "task_slow")
POLL_FAULTS = ("poll_throttle", "poll_error")
DOWNLOAD_FAULTS = ("download_html", "download_truncated", "download_missing")
ANSWER_FAULTS = ("schema_break",)

FAULT_NAMES = {
    "throttle": "throttle",
    "5xx": "server_error",
    "reset": "reset",
    "cut": "cut",
    "shell": "shell",
    "hang": "hang",
    "task-fail": "task_fail",
    "task-slow": "task_slow",
    "poll-429": "poll_throttle",
    "poll-5xx": "poll_error",
    "dl-html": "download_html",
    "dl-truncated": "download_truncated",
    "dl-404": "download_missing",
    "schema-break": "schema_break",
    "retry_after": "retry_after_s",
}
"""Names on the command line; a negative `retry_after` sends no such header."""

NO_FAULTS = FaultRates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long things take, in seconds, each spread by `spread` (0.3: more or less by 30 %)."""

    first_byte_s: float = 0.0
    chunk_s: float = 0.0
    """Between two pieces of a streamed answer."""
    task_s: float = 0.2
    """From accepting an image task to its end."""
    poll_s: float = 0.0
    download_s: float = 0.0
    refusal_s: float = 0.0
    """Until a refusal is said."""
    spread: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Latency":
        """`first=0.5,chunk=0.02,task=14,poll=0.1,download=0.5,spread=0.3`; what is not named keeps its default.

        Raises:
            JobMistakesError: an unknown name or a bad number.
        """
        return cls(**_numbers(text, names=LATENCY_NAMES, what="latency"))


LATENCY_NAMES = {
    "first": "first_byte_s",
    "chunk": "chunk_s",
    "task": "task_s",
    "poll": "poll_s",
    "download": "download_s",
    "refusal": "refusal_s",
    "spread": "spread",
}
INSTANT = Latency()
LIFELIKE = Latency(first_byte_s=0.8, chunk_s=0.04, task_s=14.0, poll_s=0.1, download_s=0.6, spread=0.4)
"""Of the order of what users report of the real service: what a rehearsal reckons with."""


def _numbers(text: str, *, names: dict[str, str], what: str) -> dict[str, float]:
    numbers: dict[str, float] = {}
    mistakes: list[Mistake] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, figure = (piece.strip() for piece in part.partition("="))
        try:
            numbers[names[name]] = finite(figure)
        except KeyError:
            mistakes.append(Mistake(key=what, problem=f"unknown name {name!r}", expected=f"one of {', '.join(names)}"))
        except ValueError:
            mistakes.append(Mistake(key=f"{what}.{name}", problem=f"{figure!r} is not a number", expected="like 0.1"))
    if mistakes:
        raise JobMistakesError(tuple(mistakes))
    return numbers


def finite(text: str) -> float:
    """The number that a text spells.

    Raises:
        ValueError: it spells none, or one that is not finite or beyond a thousand million.
    """
    figure = float(text)
    if not abs(figure) < 1e9:
        raise ValueError(text)
    return figure


_NO_QUOTA: Final = Quota(account_per_day=None, model_per_day=None)
_ENDINGS: Final = (".yaml", ".yml")
_MOST_BYTES: Final = 1 << 20
_KEY: Final = "--profile"
_YES_NO: Final = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A provider as a rehearsal supposes it."""

    latency: Latency = LIFELIKE
    limits: RateLimits = NO_LIMITS
    quota: Quota = _NO_QUOTA
    faults: FaultRates = NO_FAULTS
    answer_tokens: int | None = None
    """About how long answers are; None is the simulator's own short texts."""

    def shown(self) -> str:
        """All that it supposes, in the words that `--profile` takes; what is not named takes no time, has no limit."""
        parts = [f"{name}={said}" for name, setting in SETTINGS.items() if (said := setting.show(self))]
        return ",".join(parts) or "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """One name of a profile: how it is parsed and shown."""

    take: Callable[[Profile, str], Profile]
    show: Callable[[Profile], str]
    expected: str


def _latency(field: str) -> _Setting:
    def take(profile: Profile, text: str) -> Profile:
        figure = _least(text, 0.0)
        if field == "spread" and figure > 1.0:
            raise ValueError(text)
        return replace(profile, latency=replace(profile.latency, **{field: figure}))

    return _Setting(
        take=take,
        show=lambda profile: _figure(getattr(profile.latency, field) or None),
        expected="seconds" if field != "spread" else "a fraction from 0 to 1",
    )


def _limit(
    change: Callable[[RateLimits, str], RateLimits], show: Callable[[RateLimits], str], expected: str
) -> _Setting:
    return _Setting(
        take=lambda profile, text: replace(profile, limits=change(profile.limits, text)),
        show=lambda profile: show(profile.limits),
        expected=expected,
    )


def _quota(change: Callable[[Quota, str], Quota], show: Callable[[Quota], str]) -> _Setting:
    return _Setting(
        take=lambda profile, text: replace(profile, quota=change(profile.quota, text)),
        show=lambda profile: show(profile.quota),
        expected="calls, or `none`",
    )


def _schedule(text: str) -> tuple[tuple[float, float], ...]:
    pairs = [part.partition(":") for part in filter(None, text.split("+"))]
    return tuple((_least(start, 0.0), finite(factor)) for start, _, factor in pairs)


def _take_faults(profile: Profile, text: str) -> Profile:
    return replace(profile, faults=NO_FAULTS if text == "none" else FaultRates.parse(text.replace("+", ",")))


def _take_tokens(profile: Profile, text: str) -> Profile:
    return replace(profile, answer_tokens=_count(text))


SETTINGS: Final[dict[str, _Setting]] = {
    **{name: _latency(field) for name, field in LATENCY_NAMES.items()},
    "rpm": _limit(
        lambda limits, text: replace(limits, per_minute=_optional(text)),
        lambda limits: _figure(limits.per_minute),
        "requests a minute, above 0, or `none`",
    ),
    "burst": _limit(
        lambda limits, text: replace(limits, burst=_optional(text)),
        lambda limits: _figure(limits.burst),
        "requests at once, above 0, or `none`",
    ),
    "concurrent": _limit(
        lambda limits, text: replace(limits, concurrent=_count(text)),
        lambda limits: _figure(limits.concurrent),
        "a whole number above 0, or `none`",
    ),
    "schedule": _limit(
        lambda limits, text: replace(limits, schedule=_schedule(text)),
        lambda limits: "+".join(f"{start:g}:{factor:g}" for start, factor in limits.schedule),
        "SECONDS:FACTOR+SECONDS:FACTOR, in order",
    ),
    "hint": _limit(
        lambda limits, text: replace(limits, hint=_YES_NO[text.lower()]),
        lambda limits: "yes" if limits.hint else "",
        "yes or no",
    ),
    "per_day": _quota(
        lambda quota, text: replace(quota, model_per_day=_count(text)), lambda quota: _figure(quota.model_per_day)
    ),
    "account_per_day": _quota(
        lambda quota, text: replace(quota, account_per_day=_count(text)), lambda quota: _figure(quota.account_per_day)
    ),
    "tokens": _Setting(take=_take_tokens, show=lambda p: _figure(p.answer_tokens), expected="tokens, or `none`"),
    "faults": _Setting(take=_take_faults, show=lambda p: p.faults.shown(), expected="like throttle=0.02+5xx=0.01"),
}
"""Names of a profile. `per_day` is of each model, `account_per_day` of all; a chat answer has about ten chunks."""

_CHAT: Final = Latency(first_byte_s=1.0, chunk_s=0.8, refusal_s=0.1, spread=0.4)
_AT_ONCE: Final = Latency(first_byte_s=0.5, task_s=20.0, download_s=0.6, refusal_s=0.1, spread=0.4)
_VECTORS: Final = Latency(first_byte_s=0.3, refusal_s=0.1, spread=0.4)
_TASKS: Final = replace(LIFELIKE, refusal_s=0.1)
_SMALL: Final = Quota(account_per_day=2000, model_per_day=200)
_FREE: Final = RateLimits(per_minute=60.0, burst=10.0, concurrent=2)
_FREE_CHAT: Final = Profile(latency=_CHAT, limits=_FREE, quota=_SMALL, answer_tokens=400)

PROFILES: Final[dict[tuple[PresetName, Kind], Profile]] = {
    ("modelscope", "chat"): _FREE_CHAT,
    ("modelscope", "image"): Profile(latency=_TASKS, limits=_FREE, quota=_SMALL),
    ("modelscope-anthropic", "chat"): _FREE_CHAT,
    ("openai", "chat"): Profile(latency=_CHAT, limits=RateLimits(per_minute=500.0, hint=True), answer_tokens=400),
    ("openai", "image"): Profile(latency=_AT_ONCE, limits=RateLimits(per_minute=5.0, hint=True)),
    ("anthropic", "chat"): Profile(latency=_CHAT, limits=RateLimits(per_minute=50.0, hint=True), answer_tokens=400),
    ("modelscope", "embedding"): Profile(latency=_VECTORS, limits=_FREE, quota=_SMALL),
    ("openai", "embedding"): Profile(latency=_VECTORS, limits=RateLimits(per_minute=3000.0, hint=True)),
    ("openai", "transcription"): Profile(latency=_VECTORS, limits=RateLimits(per_minute=50.0, hint=True)),
    ("azure", "chat"): Profile(latency=_CHAT, limits=RateLimits(per_minute=300.0, hint=True), answer_tokens=400),
    ("azure", "image"): Profile(latency=_AT_ONCE, limits=RateLimits(per_minute=5.0, hint=True)),
    ("azure", "embedding"): Profile(latency=_VECTORS, limits=RateLimits(per_minute=300.0, hint=True)),
    ("azure", "transcription"): Profile(latency=_VECTORS, limits=RateLimits(per_minute=3.0, hint=True)),
    ("gemini", "chat"): Profile(latency=_CHAT, limits=RateLimits(per_minute=10.0), answer_tokens=400),
    ("gemini", "image"): Profile(latency=_AT_ONCE, limits=RateLimits(per_minute=10.0)),
    ("gemini", "embedding"): Profile(latency=_VECTORS, limits=RateLimits(per_minute=100.0)),
    ("simulator", "transcription"): Profile(latency=_VECTORS),
    ("simulator", "embedding"): Profile(latency=_VECTORS),
    ("simulator", "chat"): Profile(latency=_CHAT),
    ("simulator", "image"): Profile(latency=_TASKS),
}
"""ModelScope: 200 calls a model and 2,000 an account a day, two at once, ten in a row. OpenAI and
Anthropic: requests a minute of a first tier. Chat answers take about nine seconds."""


def profile_of(job: Job, said: str = "") -> Profile:
    """The profile of the job's preset, with what somebody said of it: `rpm=60,per_day=200`, or a YAML file.

    Raises:
        JobMistakesError: unknown names, figures that are none, a file that cannot be read.
    """
    profile = PROFILES.get((job.provider.preset, job.kind), Profile())
    file = said.strip() if said.strip().endswith(_ENDINGS) else None
    settings, mistakes = _of_file(file) if file is not None else _of_text(said)
    for name, text in settings:
        setting = SETTINGS.get(name)
        if setting is None:
            known = f"one of {', '.join(SETTINGS)}"
            mistakes.append(Mistake(file=file, key=_KEY, problem=f"unknown name {name!r}", expected=known))
            continue
        key = f"{_KEY} {name}"
        try:
            profile = setting.take(profile, text)
        except JobMistakesError as error:
            mistakes += [replace(mistake, file=file, key=key) for mistake in error.mistakes]
        except (KeyError, ValueError):
            mistakes.append(Mistake(file=file, key=key, problem=f"cannot be {text!r}", expected=setting.expected))
    if mistakes:
        raise JobMistakesError(tuple(mistakes))
    return profile


def _of_text(said: str) -> tuple[list[tuple[str, str]], list[Mistake]]:
    parts = [part.partition("=") for part in filter(None, (part.strip() for part in said.split(",")))]
    return [(name.strip(), text.strip()) for name, _, text in parts], []


def _of_file(path: str) -> tuple[list[tuple[str, str]], list[Mistake]]:
    from batchrunner.spec.reader import read_yaml  # noqa: PLC0415 - for files only

    try:
        with Path(path).open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "is not UTF-8"
        return [], [Mistake(file=path, problem=f"cannot be read: {why}", expected="a YAML file of a profile's names")]
    reading = read_yaml(text)
    if reading.faults:
        return [], [
            Mistake(file=path, line=fault.line, problem=fault.problem, expected=fault.expected, hint=fault.hint)
            for fault in reading.faults
        ]
    if not isinstance(reading.tree, dict):
        return [], [Mistake(file=path, problem="is not a mapping", expected="lines like `rpm: 60`")]
    return [(name, _as_text(value)) for name, value in reading.tree.items()], []


def _as_text(value: Json) -> str:
    """A value of the file as it would stand on the command line."""
    if isinstance(value, Mapping):
        return "+".join(f"{name}={_as_text(figure)}" for name, figure in value.items())
    if isinstance(value, list):
        return "+".join(":".join(map(_as_text, pair)) if isinstance(pair, list) else _as_text(pair) for pair in value)
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)


def _least(text: str, least: float) -> float:
    figure = finite(text)
    if figure < least:
        raise ValueError(text)
    return figure


def _optional(text: str) -> float | None:
    return None if text.lower() == "none" else _least(text, 0.0)


def _count(text: str) -> int | None:
    return None if text.lower() == "none" else int(_least(str(int(text)), 0.0))


def _figure(number: float | None) -> str:
    return "" if number is None else f"{number:g}"


# When a job would end if its provider is as its profile supposes: the figures of `core/forecast` for one job.

N = TypeVar("N", int, float)
_CHUNKS: Final = 10
"""Pieces of a chat answer, as profiles count them."""
_LAST_MOMENT: Final = 253_370_764_800.0
"""The last year that has a date, 9999, begins."""
_WIDE: Final = 64
"""Concurrent calls that `concurrency: auto` is assumed to reach without a limit."""


def forecast(job: Job, found: PlanningPass, state: LedgerState, *, now: float) -> Forecast | None:
    """About the end of a run that begins now and meets no trouble.

    None when nothing is left to send, or its limits make it longer than the calendar is.
    """
    if not found.to_send:
        return None
    profile = profile_of(job)
    offset_s = PRESETS[job.provider.preset].day_offset_s
    accounts = job.provider.accounts or ("",)
    today = day_of(wall=now, offset_s=offset_s)
    lanes = [
        LaneLoad(
            calls=-(-requests_of(job, ahead.calls) // len(accounts)),
            call_s=_call_s(job, profile),
            at_once=_at_once(job, profile),
            per_minute=_smallest(job.limits.requests_per_minute, profile.limits.per_minute),
            per_day=_smallest(job.limits.requests_per_day, profile.quota.model_per_day),
            sent_today=state.sent_today(account, model, day=today),
        )
        for model, ahead in found.ahead.items()
        for account in accounts
    ]
    at, days = end_of(lanes, now=now, offset_s=offset_s)
    if at > _LAST_MOMENT:
        return None
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
    return _smallest(job.limits.concurrency, profile.limits.concurrent) or _WIDE


def _smallest(*limits: N | None) -> N | None:
    return min((limit for limit in limits if limit is not None), default=None)
