"""What a job may use up, over all its runs: calls, tokens, points, money. Arithmetic only; counts come from the ledger.

A rejected call costs nothing. One without a reported usage counts as the mean of those with one,
and as a guess while there are none: a budget errs towards stopping too early.
"""

from collections.abc import Callable, Iterator, Mapping
from math import floor, log10
from typing import Final

from batchrunner.core.values import dataclass, replace

_MILLION: Final = 1_000_000.0
_NOTHING: Final = 1e-9
_SMALL: Final = 0.001
_MOST_DECIMALS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs, in the budget's currency."""

    input_per_million: float = 0.0
    output_per_million: float = 0.0
    per_picture: float = 0.0
    per_call: float = 0.0
    batch: float = 0.5
    """What a call in a batch costs, as a share of this."""
    batch_output: float | None = None
    """The same of output, where that is another share."""
    cache_read_per_million: float | None = None
    """Of input that came from a cache; None: the price of input."""
    cache_write_per_million: float | None = None
    """Of input that went into a cache; None: the price of input."""

    def input_cost(self, tokens: float, cache_read: float, cache_write: float) -> float:
        """Of so many tokens of input, of which some came from a cache and some went into one."""
        whole, read, write = self.input_per_million, self.cache_read_per_million, self.cache_write_per_million
        cost = tokens * whole
        if cache_read and read is not None:
            cost += cache_read * (read - whole)
        if cache_write and write is not None:
            cost += cache_write * (write - whole)
        return max(0.0, cost) / _MILLION

    def in_batches(self) -> "Price":
        """Of the same call in a batch."""
        output = self.batch if self.batch_output is None else self.batch_output
        return Price(
            input_per_million=self.input_per_million * self.batch,
            output_per_million=self.output_per_million * output,
            per_picture=self.per_picture * self.batch,
            per_call=self.per_call * self.batch,
            batch=1.0,
            cache_read_per_million=_times(self.cache_read_per_million, self.batch),
            cache_write_per_million=_times(self.cache_write_per_million, self.batch),
        )


def _times(price: float | None, share: float) -> float | None:
    return None if price is None else price * share


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What must not be exceeded; None is no limit. `prices` are by model and what `money` is counted by."""

    source: str = ""
    """The table that prices were taken from, with its version or date; empty where the job has them all."""
    price_notes: tuple[str, ...] = ()
    """What that table does not know, in words."""

    calls: int | None = None
    tokens: int | None = None
    points: float | None = None
    money: float | None = None
    currency: str = ""
    prices: Mapping[str, Price]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usages:
    """What a call uses up, known or guessed."""

    input_tokens: float = 0.0
    output_tokens: float = 0.0
    pictures: float = 0.0
    cache_read: float = 0.0
    """Of the input: what came from a cache."""
    cache_write: float = 0.0
    """Of the input: what went into one."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was sent to one model over all runs, according to the ledger."""

    calls: int = 0
    """Sends that were not turned away, those under way included."""
    done: int = 0
    """Calls that came to an answer or to pictures."""
    measured: int = 0
    """Calls for which the server reported tokens."""
    without_work: int = 0
    """Calls for which the server did nothing."""
    input_tokens: int = 0
    output_tokens: int = 0
    pictures: int = 0
    cache_read: int = 0
    """Of the input: what came from a cache. Checkpoints of earlier programs do not say."""
    cache_write: int = 0
    batched: "Tally | None" = None
    """Of all these, what went in batches; None while nothing did."""

    def in_batches(self) -> "Tally":
        """What went in batches, to be counted."""
        if self.batched is None:
            self.batched = Tally()
        return self.batched

    def mean(self, unreported: Usages) -> Usages:
        """Tokens of a call on average, `unreported` while none is known."""
        if not self.measured:
            return unreported
        return Usages(
            input_tokens=self.input_tokens / self.measured,
            output_tokens=self.output_tokens / self.measured,
            pictures=unreported.pictures,
            cache_read=self.cache_read / self.measured,
            cache_write=self.cache_write / self.measured,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What is counted against a budget. `tokens` are input and output together."""

    calls: float = 0.0
    tokens: float = 0.0
    points: float = 0.0
    money: float = 0.0

    def plus(self, other: "Amounts", *, times: float = 1.0) -> "Amounts":
        """Both together; `times=-1.0` takes the other away."""
        return Amounts(
            calls=self.calls + times * other.calls,
            tokens=self.tokens + times * other.tokens,
            points=self.points + times * other.points,
            money=self.money + times * other.money,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What calls of one model are counted as."""

    price: Price
    points_per_call: float
    unreported: Usages
    """What a call is assumed to use until a server reports usage."""

    def amounts(self, used: Usages, *, calls: float = 1.0) -> Amounts:
        """Of so many calls that used this together."""
        price = self.price
        return Amounts(
            calls=calls,
            tokens=used.input_tokens + used.output_tokens,
            points=calls * self.points_per_call,
            money=calls * price.per_call
            + price.input_cost(used.input_tokens, used.cache_read, used.cache_write)
            + used.output_tokens * price.output_per_million / _MILLION
            + used.pictures * price.per_picture,
        )

    def spent(self, tally: Tally) -> Amounts:
        """All that was sent to the model so far."""
        mean = tally.mean(self.unreported)
        unmeasured = max(0, tally.calls - tally.measured - tally.without_work)
        unfinished = max(0, tally.calls - tally.done - tally.without_work)
        used = Usages(
            input_tokens=tally.input_tokens + unmeasured * mean.input_tokens,
            output_tokens=tally.output_tokens + unmeasured * mean.output_tokens,
            pictures=tally.pictures + unfinished * self.unreported.pictures,
            cache_read=tally.cache_read + unmeasured * mean.cache_read,
            cache_write=tally.cache_write + unmeasured * mean.cache_write,
        )
        spent = self.amounts(used, calls=tally.calls)
        if tally.batched is None:
            return spent
        at_once = replace(self, unreported=mean)
        batched = at_once.in_batches().spent(tally.batched).money
        return replace(spent, money=spent.money - at_once.spent(tally.batched).money + batched)

    def in_batches(self) -> "Tariff":
        """Of the same calls in batches."""
        return replace(self, price=self.price.in_batches())


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLine:
    """One limit of a budget and how much of it is gone, over all runs."""

    unit: str
    """`calls`, `tokens`, `points`, or `money`."""
    limit: float | None
    """None: counted only, as money is when there are prices and no limit."""
    spent: float
    in_flight: float = 0.0
    """Set aside for calls whose answers have not come."""
    currency: str | None = None


_UNITS: Final[tuple[tuple[str, Callable[[Budget], float | None], Callable[[Amounts], float]], ...]] = (
    ("calls", lambda budget: budget.calls, lambda amounts: amounts.calls),
    ("tokens", lambda budget: budget.tokens, lambda amounts: amounts.tokens),
    ("points", lambda budget: budget.points, lambda amounts: amounts.points),
    ("money", lambda budget: budget.money, lambda amounts: amounts.money),
)


def budget_lines(budget: Budget, spent: Amounts, in_flight: Amounts) -> Iterator[BudgetLine]:
    """Every limit, and money also without one when there are prices."""
    for unit, limit_of, amount_of in _UNITS:
        limit = limit_of(budget)
        if limit is None and not (unit == "money" and budget.prices):
            continue
        yield BudgetLine(
            unit=unit,
            limit=limit,
            spent=round(amount_of(spent), _MOST_DECIMALS),
            in_flight=round(amount_of(in_flight), _MOST_DECIMALS),
            currency=(budget.currency or None) if unit == "money" else None,
        )


def exceeded_by(budget: Budget, spent: Amounts, more: Amounts) -> str | None:
    """The first unit that `more` would exceed, None when it fits."""
    for unit, limit_of, amount_of in _UNITS:
        limit = limit_of(budget)
        if limit is not None and amount_of(spent) + amount_of(more) > limit + _NOTHING * min(1.0, limit):
            return unit
    return None


def unlimited(budget: Budget) -> bool:
    """True when it only counts."""
    return all(limit_of(budget) is None for _, limit_of, _ in _UNITS)


def figure(amount: float) -> str:
    """`1,234,567`, `0.125`: at most four decimals; of what is smaller than a thousandth, the first two digits."""
    small = 0.0 < abs(amount) < _SMALL
    shown = f"{amount:,.{min(_MOST_DECIMALS, 1 - floor(log10(abs(amount))))}f}" if small else f"{amount:,.4f}"
    return shown.rstrip("0").rstrip(".")


def answers_of(params: Mapping[str, object]) -> int:
    """How many answers or pictures a call with these parameters asks for."""
    several = params.get("n")
    return several if isinstance(several, int) and several > 1 else 1


def output_limit(params: Mapping[str, object]) -> int | None:
    """The most tokens that these parameters allow an answer; None when they set no limit."""
    limits = (params.get(key) for key in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)
