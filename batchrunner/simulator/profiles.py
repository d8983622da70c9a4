"""What a rehearsal supposes of a provider: how long things take, how much it lets through, what goes wrong.

One profile for each preset and kind of job, from docs/providers/ and from what providers publish for small accounts:
guesses to be corrected by whoever knows better, with `NAME=FIGURE,…` or a small YAML file of the same
names. Refuses unknown names and figures, all of them at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Job, Json, Kind, PresetName
from batchrunner.simulator.accounts import Quota
from batchrunner.simulator.faults import LATENCY_NAMES, LIFELIKE, NO_FAULTS, Faults, Latency, finite
from batchrunner.simulator.limits import NO_LIMITS, Limits

_NO_QUOTA: Final = Quota(account_per_day=None, model_per_day=None)
_ENDINGS: Final = (".yaml", ".yml")
_MOST_BYTES: Final = 1 << 20
_KEY: Final = "--profile"
_YES_NO: Final = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A provider as a rehearsal supposes it."""

    latency: Latency = LIFELIKE
    limits: Limits = NO_LIMITS
    quota: Quota = _NO_QUOTA
    faults: Faults = NO_FAULTS
    answer_tokens: int | None = None
    """About how long answers are; None is the simulator's own short texts."""

    def shown(self) -> str:
        """All that it supposes, in the words that `--profile` takes; what is not named takes no time, has no limit."""
        parts = [f"{name}={said}" for name, setting in SETTINGS.items() if (said := setting.show(self))]
        return ",".join(parts) or "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """One name of a profile: how it is taken in, and told."""

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
        expected="seconds" if field != "spread" else "a share, from 0 to 1",
    )


def _limit(change: Callable[[Limits, str], Limits], show: Callable[[Limits], str], expected: str) -> _Setting:
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
    return replace(profile, faults=NO_FAULTS if text == "none" else Faults.parse(text.replace("+", ",")))


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
_TASKS: Final = replace(LIFELIKE, refusal_s=0.1)
_SMALL: Final = Quota(account_per_day=2000, model_per_day=200)
_FREE: Final = Limits(per_minute=60.0, burst=10.0, concurrent=2)
_FREE_CHAT: Final = Profile(latency=_CHAT, limits=_FREE, quota=_SMALL, answer_tokens=400)

PROFILES: Final[dict[tuple[PresetName, Kind], Profile]] = {
    ("modelscope", "chat"): _FREE_CHAT,
    ("modelscope", "image"): Profile(latency=_TASKS, limits=_FREE, quota=_SMALL),
    ("modelscope-anthropic", "chat"): _FREE_CHAT,
    ("openai", "chat"): Profile(latency=_CHAT, limits=Limits(per_minute=500.0, hint=True), answer_tokens=400),
    ("openai", "image"): Profile(latency=_AT_ONCE, limits=Limits(per_minute=5.0, hint=True)),
    ("anthropic", "chat"): Profile(latency=_CHAT, limits=Limits(per_minute=50.0, hint=True), answer_tokens=400),
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
