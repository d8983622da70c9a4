"""The job's budget: a send is admitted only if it fits, with everything that is under way set aside at its estimate.

Real usage corrects the estimate as soon as it is reported; rejected calls are given back. When not even the next send
alone fits, the budget is spent: no send leaves any more, and what is in flight is kept.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from batchrunner.core.budget import (
    Amounts,
    Budget,
    BudgetLine,
    Price,
    Tally,
    Tariff,
    Usages,
    answers_of,
    budget_lines,
    exceeded_by,
    figure,
    output_limit,
    unlimited,
)
from batchrunner.core.error_policy import POLICY
from batchrunner.core.item import Item
from batchrunner.core.job import Job, Kind
from batchrunner.core.outcome import Answer, Pictures, Problem, SendOutcome, TaskAccepted, Usage
from batchrunner.core.pacing import estimate_tokens
from batchrunner.core.ports import Clock
from batchrunner.core.rate_limiter import Ticket
from batchrunner.core.state import LedgerState
from batchrunner.core.values import replace
from batchrunner.engine.shutdown import Shutdown, SteppedOutError
from batchrunner.engine.work_queue import Condition

if TYPE_CHECKING:
    from batchrunner.core.coordination_messages import Left, Spent
    from batchrunner.engine.lanes import Lane

_BYTES_PER_TOKEN: Final = 3
"""Of UTF-8: one token for a Chinese character, a little more than is true for English."""
_ASSUMED_CHAT: Final = Usages(input_tokens=256.0, output_tokens=1024.0)
_ASSUMED_PICTURE: Final = Usages(pictures=1.0)
_ASSUMED: Final[dict[Kind, Usages]] = {
    "chat": _ASSUMED_CHAT,
    "embedding": Usages(input_tokens=256.0),
    "transcription": _ASSUMED_CHAT,
}
_NOTHING: Final = Amounts()


def tariff(*, kind: Kind, price: Price, points_per_call: float) -> Tariff:
    """What calls of a model are counted as."""
    return Tariff(price=price, points_per_call=points_per_call, unreported=_ASSUMED.get(kind, _ASSUMED_PICTURE))


def spent_so_far(
    tallies: Mapping[str, Tally], *, kind: Kind, prices: Mapping[str, Price], points_per_call: Mapping[str, float]
) -> Amounts:
    """Over all runs; of models that the job has no more, too."""
    total = _NOTHING
    for model, tally in tallies.items():
        its = tariff(kind=kind, price=prices.get(model, Price()), points_per_call=points_per_call.get(model, 0.0))
        total = total.plus(its.spent(tally))
    return total


def budget_so_far(job: Job, state: LedgerState) -> tuple[BudgetLine, ...]:
    """Each limit and what is used of it when nothing runs; empty without a budget."""
    if job.budget is None:
        return ()
    spent = spent_so_far(
        state.tallies, kind=job.kind, prices=job.budget.prices, points_per_call=job.provider.points_per_call
    )
    return tuple(budget_lines(job.budget, spent, _NOTHING))


class BudgetGuard:
    """One for a run. `reserve` before a send, `commit` after it; `on_spent` is called once, with the reason.

    Both are for jobs with a budget (`counts`).
    """

    def __init__(
        self, job: Job, state: LedgerState, *, on_spent: Callable[[str], None], clock: Clock, shutdown: Shutdown
    ) -> None:
        self._clock, self._shutdown = clock, shutdown
        budget, points = job.budget or Budget(prices={}), job.provider.points_per_call
        self.spent = spent_so_far(state.tallies, kind=job.kind, prices=budget.prices, points_per_call=points)
        self.set_aside = _NOTHING
        self.spent_out: str | None = None
        """Why nothing more is sent, once that is so."""
        self._budget = budget
        self.counts = job.budget is not None
        """If False, no send has to be admitted or settled."""
        self._is_limited = not unlimited(budget)
        self._tariffs = {
            model: tariff(
                kind=job.kind, price=budget.prices.get(model, Price()), points_per_call=points.get(model, 0.0)
            )
            for model in job.models
        }
        self._batch_tariffs = {model: its.in_batches() for model, its in self._tariffs.items()}
        self._tallies: dict[str, Tally] = state.tallies
        self._longest: dict[str, float] = {}
        self._on_spent = on_spent
        self._under_way = 0
        self._closed = False
        self.is_leased = False
        """A coordinator has the budget, and says what this process may spend of it."""
        self.need: Amounts | None = None
        """What a send waits for that does not fit into that."""
        self._is_counted = True
        self._changed = Condition()

    def __repr__(self) -> str:
        return f"<BudgetGuard: {self.spent} spent, {self.set_aside} set aside for {self._under_way} sends>"

    def change(self, job: Job) -> None:
        """Other limits, from the next send on; who waits for room looks again. Prices are what they were.

        Where nothing was counted before, sends wait for `count`.
        """
        self._is_counted = self._is_counted and (self.counts or job.budget is None)
        self._budget = job.budget or Budget(prices={})
        self.counts = job.budget is not None
        self._is_limited = not unlimited(self._budget)
        self._changed.notify()

    def leased(self, spent: "Spent", left: "Left") -> None:
        """What may be spent beyond what had been spent when it was asked for."""
        self._budget = replace(
            self._budget,
            calls=None if left.calls is None else int(spent.calls + left.calls),
            tokens=None if left.tokens is None else int(spent.tokens + left.tokens),
            points=None if left.points is None else spent.points + left.points,
            money=None if left.money is None else spent.money + left.money,
        )
        self._changed.notify()

    def used_up(self) -> None:
        """The coordinator says that the budget of all is used up."""
        if not self._closed:
            self.spent_out = "the job's budget is used up by all workers together; raise `budget` to continue"
            self.close()
            self._on_spent(self.spent_out)

    def count(self, job: Job) -> None:
        """Count what was spent before the job had a budget, once all intents of before are in the ledger."""
        if not self._is_counted:
            prices = job.budget.prices if job.budget is not None else {}
            self.spent = spent_so_far(
                self._tallies, kind=job.kind, prices=prices, points_per_call=job.provider.points_per_call
            )
            self._is_counted = True
            self._changed.notify()

    def lines(self) -> tuple[BudgetLine, ...]:
        """Each limit and what is gone of it."""
        return tuple(budget_lines(self._budget, self.spent, self.set_aside))

    def reserve_now(self, item: Item, *, rides: bool = False, in_batch: bool = False) -> Amounts | None:
        """Set a send's estimate aside; None where `reserve` must be asked: it has to wait, or nothing may leave.

        `rides`: it goes with the request of another item, and is no call of its own.
        """
        if self._closed or not self._is_counted:
            return None
        estimate = self._estimate(item, calls=0.0 if rides else 1.0, in_batch=in_batch)
        if self._is_limited and exceeded_by(self._budget, self.spent.plus(self.set_aside), estimate) is not None:
            return None
        self._under_way += 1
        self.set_aside = self.set_aside.plus(estimate)
        return estimate

    async def reserve(self, item: Item) -> Amounts | None:
        """Set a send's estimate aside; None when it must not leave. Waits while answers under way may make room."""
        await self._changed.until(lambda: self._is_counted or self._closed)
        estimate = self._estimate(item)
        while self._is_limited and not self._closed:
            unit = exceeded_by(self._budget, self.spent.plus(self.set_aside), estimate)
            if unit is None:
                break
            if not self._under_way and not self.is_leased:
                self._is_spent(unit, estimate)
                break
            self.need = estimate
            await self._changed.until(lambda: self._may_decide(estimate))
            self.need = None
        if self._closed:
            return None
        self._under_way += 1
        self.set_aside = self.set_aside.plus(estimate)
        return estimate

    def commit(self, item: Item, estimate: Amounts, outcome: SendOutcome | None, *, in_batch: bool = False) -> None:
        """The send has come to this; None: it never left. `in_batch` as it was reserved."""
        self._under_way -= 1
        self.set_aside = self.set_aside.plus(estimate, times=-1.0) if self._under_way else _NOTHING
        self.spent = self.spent.plus(self._real(item, estimate, outcome, in_batch=in_batch))
        self._changed.notify()

    def give_back(self, estimate: Amounts) -> None:
        """What was set aside for a send that never leaves."""
        self._under_way -= 1
        self.set_aside = self.set_aside.plus(estimate, times=-1.0) if self._under_way else _NOTHING
        self._changed.notify()

    async def admitted(self, item: Item, lane: "Lane", ticket: Ticket) -> tuple[int, Amounts | None]:
        """Tokens a minute and room in the budget, where the job limits them: what was taken of each.

        Raises:
            SteppedOutError: nothing may leave any more.
        """
        tokens = 0
        if lane.counts_tokens:
            tokens = estimate_tokens(sum(len(turn.content) for turn in item.turns))
            await self.may_spend(lane, ticket, tokens)
        if not self.counts:
            return tokens, None
        set_aside = self.reserve_now(item) or await self.reserve(item)
        if set_aside is None:
            raise SteppedOutError
        return tokens, set_aside

    async def may_spend(self, lane: "Lane", ticket: Ticket, tokens: int) -> None:
        """Wait for tokens a minute. Requests a minute are then counted when the send leaves, not when its slot came.

        Raises:
            SteppedOutError: the run drains, or the lane stopped meanwhile. No tokens were taken.
        """
        if lane.tokens_wait_s(tokens) <= 0:
            lane.take_tokens(tokens)
            return
        clock, pace = self._clock, lane.pace
        if pace is not None:
            pace.take(clock.monotonic(), -1.0)
        try:
            while (
                wait_s := max(lane.tokens_wait_s(tokens), pace.wait_s(clock.monotonic()) if pace is not None else 0.0)
            ) > 0:
                await self._shutdown.sleep(wait_s)
                if not lane.still_usable(ticket):
                    raise SteppedOutError
        finally:
            if pace is not None:
                pace.take(clock.monotonic())
        lane.take_tokens(tokens)

    def close(self) -> None:
        """The run ends for another reason: wake all that wait here."""
        self._closed = True
        self._changed.notify()

    def _may_decide(self, estimate: Amounts) -> bool:
        """Whether waiting any longer could change nothing."""
        if self._closed or not (self._under_way or self.is_leased):
            return True
        return exceeded_by(self._budget, self.spent.plus(self.set_aside), estimate) is None

    def _is_spent(self, unit: str, estimate: Amounts) -> None:
        limit = next(line for line in self.lines() if line.unit == unit)
        self.spent_out = spent_message(limit, needs=float(getattr(estimate, unit)))
        self.close()
        self._on_spent(self.spent_out)

    def _estimate(self, item: Item, *, calls: float = 1.0, in_batch: bool = False) -> Amounts:
        its = (self._batch_tariffs if in_batch else self._tariffs)[item.model]
        times = answers_of(item.params)
        if its.unreported.pictures:
            return its.amounts(Usages(pictures=its.unreported.pictures * times))
        asked_bytes = sum(len(turn.content.encode("utf-8", "surrogatepass")) for turn in item.turns)
        return its.amounts(
            Usages(
                input_tokens=asked_bytes // _BYTES_PER_TOKEN + 1,
                output_tokens=self._most_output(item, its) * times,
            ),
            calls=calls,
        )

    def _most_output(self, item: Item, its: Tariff) -> float:
        """What the job allows an answer, else the longest one of this run, else the mean of earlier ones."""
        limit = output_limit(item.params)
        if limit is not None:
            return float(limit)
        tally = self._tallies.get(item.model)
        mean = tally.mean(its.unreported) if tally is not None else its.unreported
        return max(self._longest.get(item.model, 0.0), mean.output_tokens)

    def _real(self, item: Item, estimate: Amounts, outcome: SendOutcome | None, *, in_batch: bool) -> Amounts:
        its, calls = (self._batch_tariffs if in_batch else self._tariffs)[item.model], estimate.calls
        match outcome:
            case None:
                return _NOTHING
            case Answer():
                return self._amounts_of(item.model, its, outcome.usage, calls) or estimate
            case TaskAccepted():
                return estimate
            case Pictures():
                usage = outcome.usage or Usage()
                used = Usages(
                    input_tokens=usage.input_tokens or 0,
                    output_tokens=usage.output_tokens or 0,
                    pictures=len(outcome.refs),
                )
                return its.amounts(used)
            case Problem() if POLICY[outcome.kind].refusal and not outcome.under_way:
                return _NOTHING
            case Problem() if POLICY[outcome.kind].no_work:
                return its.amounts(Usages(), calls=calls)
            case Problem():
                return self._amounts_of(item.model, its, outcome.usage, calls) or estimate

    def _amounts_of(self, model: str, its: Tariff, usage: Usage | None, calls: float) -> Amounts | None:
        if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
            return None
        output_tokens = float(usage.output_tokens or 0)
        self._longest[model] = max(self._longest.get(model, 0.0), output_tokens)
        used = Usages(
            input_tokens=usage.input_tokens or 0,
            output_tokens=output_tokens,
            cache_read=usage.cache_read_tokens or 0,
            cache_write=usage.cache_write_tokens or 0,
        )
        return its.amounts(used, calls=calls)


def spent_message(line: BudgetLine, *, needs: float) -> str:
    """Why nothing more is sent, in a person's words."""
    unit = line.unit if line.unit != "money" else (line.currency or "money")
    limit, spent = line.limit or 0.0, figure(line.spent)
    budget = f"the budget of {figure(limit)} {unit}"
    if line.spent >= limit:
        return f"{budget} is used up: {spent} across all runs; raise `budget.{line.unit}` to continue"
    return (
        f"{budget} is too small for the next request, which may need {figure(needs)}: {spent} used across all "
        f"runs; raise `budget.{line.unit}` to continue"
    )
