"""The keys of the schedule: when a run may send, what it may use up, batches, whom it notifies. Reads no clock.

Refuses windows that are empty or whole days, zones that this machine does not know, budgets that nothing could be
counted by, batches where there are none, and commands that only a shell would understand.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from batchrunner.core.budget import Budget, Price
from batchrunner.core.fallback import Fallback
from batchrunner.core.job import TASK_KINDS, BatchPolicy, NotifyEvent
from batchrunner.core.schedule import AfterDuration, AtDate, AtTimeOfDay, Deadline, Window
from batchrunner.spec.account_keys import SHELL_WORDS
from batchrunner.spec.fallback_keys import FallbackSpec, fallback_faults, fallback_of
from batchrunner.spec.job_errors import SpecError, names_variable, short
from batchrunner.spec.partial import PartialSpec
from batchrunner.spec.price_tables import FoundPrices, found_prices
from batchrunner.spec.provider import dialect_of, points_of
from batchrunner.spec.sending_keys import BudgetSpec, NotifySpec, PriceSpec
from batchrunner.spec.window_keys import TIME, window_faults, window_from

_TIME_OF_DAY = re.compile(TIME)
_DURATION = re.compile(r"(?:(\d{1,3})\s*d)?\s*(?:(\d{1,4})\s*h)?\s*(?:(\d{1,5})\s*m(?:in)?)?\s*(?:(\d{1,6})\s*s)?")
_UNIT_S: Final = (86_400.0, 3600.0, 60.0, 1.0)
_DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a calendar's time without a zone is what is counted here
_BATCHED: Final = ("openai-chat", "openai-responses", "openai-embeddings", "anthropic-messages")
"""Dialects with batches."""


def window_of(partial: PartialSpec) -> Window | None:
    """The window of a draft without faults."""
    return window_from(partial.spec.window)


def deadline_of(partial: PartialSpec) -> Deadline | None:
    """The deadline of a draft without faults."""
    return _deadline(partial.spec.deadline) if partial.spec.deadline else None


def notify_of(partial: PartialSpec) -> tuple[str, ...]:
    """The words of the command, none without one."""
    given = partial.spec.notify
    command = given.command if isinstance(given, NotifySpec) else given
    return tuple(shlex.split(command) if isinstance(command, str) else command or ())


def notify_env_of(partial: PartialSpec) -> str | None:
    """The name of the variable with the addresses for Apprise."""
    given = partial.spec.notify
    return given.apprise_env if isinstance(given, NotifySpec) else None


def notify_on_of(partial: PartialSpec) -> tuple[NotifyEvent, ...]:
    """What is told, nothing where nobody is."""
    given = partial.spec.notify
    if isinstance(given, NotifySpec):
        return tuple(dict.fromkeys(given.on))
    return ("ended",) if given else ()


def budget_of(partial: PartialSpec) -> Budget | None:
    """The budget of a draft without faults."""
    given = partial.spec.budget
    if given is None:
        return None
    found, own = found_prices(partial), given.prices if isinstance(given.prices, dict) else {}
    priced = {model: _price(price) for model, price in own.items()}
    return Budget(
        calls=given.calls,
        tokens=given.tokens,
        points=given.points,
        money=given.money,
        currency=given.currency or found.currency,
        prices={**found.prices, **priced},
        source=found.source,
        price_notes=(*found.notes, *_cache_notes(partial, {**found.prices, **priced})),
    )


def _cache_notes(partial: PartialSpec, prices: Mapping[str, Price]) -> Iterator[str]:
    """Said where a job asks for a cache: what it is counted at where no price of it is known."""
    if partial.spec.cache is None:
        return
    for model in partial.models:
        price = prices.get(model)
        if price is None or not price.input_per_million:
            continue
        kinds = ("read", price.cache_read_per_million), ("write", price.cache_write_per_million)
        if unknown := [f"`cache_{name}`" for name, known in kinds if known is None]:
            yield f"prices: {model} has no price of {' and '.join(unknown)}: counted at the full price of input"


def batch_of(partial: PartialSpec) -> BatchPolicy:
    """How a draft without faults uses batches."""
    given = partial.spec.batch
    if given is None:
        return BatchPolicy()
    return BatchPolicy(
        use=given.use,
        max_items=given.max_items,
        max_wait_s=_duration_s(given.max_wait) or BatchPolicy().max_wait_s,
        look_every_s=_duration_s(given.look_every or ""),
        rest=given.rest,
        on_lost=given.on_lost,
        give_up_s=_duration_s(given.give_up or ""),
    )


def fallback_policy_of(partial: PartialSpec) -> Fallback | None:
    """When a draft without faults asks its next model."""
    return fallback_of(partial.spec.models, after_s=_after_s(partial))


def _after_s(partial: PartialSpec) -> float | None:
    given = partial.spec.models
    return _duration_s(given.after) if isinstance(given, FallbackSpec) and given.after is not None else None


def _fallback_faults(partial: PartialSpec) -> Iterator[SpecError]:
    yield from fallback_faults(partial, after_s=_after_s(partial))


def _duration_s(text: str) -> float | None:
    """None for what is no duration, and for one of nothing."""
    duration = _DURATION.fullmatch(text.strip())
    if not duration:
        return None
    return sum(int(part or 0) * unit_s for part, unit_s in zip(duration.groups(), _UNIT_S, strict=True)) or None


def _batch_faults(partial: PartialSpec) -> Iterator[SpecError]:
    given = partial.spec.batch
    if given is None:
        return
    for key, text in (("max_wait", given.max_wait), ("look_every", given.look_every), ("give_up", given.give_up)):
        if text is not None and _duration_s(text) is None:
            yield SpecError(path=("batch", key), problem=f"is {short(text)}", expected="a duration like 24h, 2m or 30s")
    dialect = dialect_of(partial) if partial.knows("provider") and partial.knows("kind") else None
    if given.use != "never" and dialect is not None and dialect not in _BATCHED:
        problem = f"is for the dialect {', '.join(_BATCHED[:-1])} or {_BATCHED[-1]}; this job has {dialect}"
        yield SpecError(path=("batch",), problem=problem, hint="leave it out, or write `use: never`")


def _price(given: PriceSpec) -> Price:
    return Price(
        input_per_million=given.input or 0.0,
        output_per_million=given.output or 0.0,
        per_picture=given.picture or 0.0,
        per_call=given.call or 0.0,
        cache_read_per_million=given.cache_read,
        cache_write_per_million=given.cache_write,
        **({} if given.batch is None else {"batch": given.batch}),
    )


def _minute(hour: str, minute: str) -> int:
    return int(hour) * 60 + int(minute)


def _deadline(text: str) -> Deadline | None:
    text = text.strip()
    if time_of_day := _TIME_OF_DAY.fullmatch(text):
        return AtTimeOfDay(minute=_minute(*time_of_day.groups()), shown=text)
    if seconds := _duration_s(text):
        return AfterDuration(seconds=seconds, shown=text)
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    offset = moment.utcoffset()
    local_s = (moment.replace(tzinfo=None, microsecond=0) - _EPOCH).total_seconds()
    return AtDate(local_s=local_s, offset_s=offset.total_seconds() if offset is not None else None, shown=text)


def schedule_faults(partial: PartialSpec) -> Iterator[SpecError]:
    """Everything that is wrong with these keys beyond their types."""
    yield from window_faults(partial.spec.window, is_whole=_is_whole(partial, "window"))
    yield from _zone_faults(partial.spec.timezone)
    if partial.spec.deadline is not None and _deadline(partial.spec.deadline) is None:
        yield SpecError(
            path=("deadline",),
            problem=f"is {short(partial.spec.deadline)}",
            expected='a time like "07:00", a date like "2026-11-23T07:00", or a duration like 8h or 1h30m',
        )
    yield from _notify_faults(partial)
    yield from _batch_faults(partial)
    yield from _fallback_faults(partial)
    if partial.spec.budget is not None:
        yield from _budget_faults(partial, partial.spec.budget)


def _zone_faults(name: str | None) -> Iterator[SpecError]:
    if name is None:
        return
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # a path, a folder, an unknown name
        known = available_timezones()
        close = get_close_matches(name.replace(" ", "_"), known, n=1, cutoff=0.6) if known else []
        hint = f"did you mean `{close[0]}`?" if close else None
        if not known:
            hint = "this machine has no time zone database: `pip install tzdata`"
        problem = f"is {short(name)}, which is not a time zone known on this machine"
        yield SpecError(path=("timezone",), problem=problem, expected="a name like Asia/Shanghai or UTC", hint=hint)


def _notify_faults(partial: PartialSpec) -> Iterator[SpecError]:
    given = partial.spec.notify
    path: tuple[str, ...] = ("notify",)
    if isinstance(given, NotifySpec):
        if given.apprise_env is not None and not names_variable(given.apprise_env):
            yield SpecError(
                path=("notify", "apprise_env"),
                problem="is not the name of an environment variable",
                hint="addresses hold tokens: put them into an environment variable, and its name here",
            )
        if given.command is None and given.apprise_env is None and not partial.left_out:
            yield SpecError(path=path, problem="tells nobody", expected="`command` or `apprise_env`")
        given, path = given.command, ("notify", "command")
    if given is None:
        return
    try:
        words = notify_of(partial)
    except ValueError:
        yield SpecError(path=path, problem="has a quote that is not closed", hint="write the words as a list")
        return
    if not words or not words[0].strip():
        yield SpecError(path=path, problem="is empty", expected="a command, or a list of its words")
    elif any("\0" in word for word in words):
        yield SpecError(path=path, problem="contains a character that a command line cannot have")
    elif isinstance(given, str) and (SHELL_WORDS & set(words) or given.rstrip().endswith((";", "&"))):
        problem = "uses shell syntax, but no shell runs it"
        yield SpecError(path=path, problem=problem, hint='name the shell: [sh, -c, "…"], or put it into a script')


def _budget_faults(partial: PartialSpec, budget: BudgetSpec) -> Iterator[SpecError]:
    limits = ("calls", "tokens", "points", "money")
    if not any(partial.given("budget", key) for key in (*limits, "prices", "prices_from")) and _is_whole(
        partial, "budget"
    ):
        yield SpecError(path=("budget",), problem="has no limit", expected="calls, tokens, points or money")
    found = found_prices(partial)
    yield from found.faults
    own = budget.prices if isinstance(budget.prices, dict) else {}
    for model, price in own.items():
        path = ("budget", "prices", model)
        if not any(partial.given(*path, key) for key in _WHOLE_PRICES) and _is_whole(partial, *path):
            yield SpecError(path=path, problem="has no price", expected="input, output, picture or call")
        elif partial.knows("kind") and partial.kind != "image" and price.picture:
            yield SpecError(path=(*path, "picture"), problem="is for `kind: image` only")
    if budget.tokens is not None and partial.kind in TASK_KINDS and partial.knows("kind"):
        hint = "limit calls, points or money"
        yield SpecError(
            path=("budget", "tokens"), problem="is for `kind: chat` only: files are not counted in tokens", hint=hint
        )
    yield from _uncounted(partial, budget, found)


_WHOLE_PRICES = ("input", "output", "picture", "call")
"""What a call can be counted by; the other keys change what these come to."""


def _is_whole(partial: PartialSpec, *path: str) -> bool:
    """True when nothing below the path was wrong and left out."""
    return not any(gone[: len(path)] == path for gone in partial.left_out)


def _uncounted(partial: PartialSpec, budget: BudgetSpec, found: FoundPrices) -> Iterator[SpecError]:
    """Limits that could not be enforced, because the cost of a call is not given."""
    if budget.money is not None and partial.knows("budget", "prices") and not found.faults:
        for model in partial.models:
            if model not in budget.prices and model not in found.prices:
                nor = f", nor has {found.source}" if found.source else ""
                problem = f"has no price for {short(model)}, which `money` needs{nor}"
                yield SpecError(
                    path=("budget", "prices"), problem=problem, expected="a price for each model of the job"
                )
    if budget.points is not None and partial.knows("provider") and partial.knows("provider", "points_per_call"):
        costs = points_of(partial)
        for model in partial.models:
            if costs is not None and not costs.get(model):
                problem = f"cannot be counted: a call of {short(model)} costs no points"
                yield SpecError(path=("budget", "points"), problem=problem, hint="write `provider.points_per_call`")
