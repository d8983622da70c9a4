"""What the sends of a run would cost: tokens of answers, and money, one by one and in batches. Arithmetic only."""

from collections.abc import Mapping, Sequence
from typing import Final

from batchrunner.core.budget import Price, Tally, Tariff, Usages, answers_of, output_limit
from batchrunner.core.fallback import FallbackReason
from batchrunner.core.item import AlikeItems, Item
from batchrunner.core.job import TASK_KINDS, DialectName, Job, Json
from batchrunner.core.remote_batch import WORTH_A_BATCH
from batchrunner.core.values import dataclass, field, replace

CHARS_PER_TOKEN: Final = 4
"""A rule of thumb; the last token of a text is whole, however few characters are left."""


@dataclass(slots=True, kw_only=True)
class ToSend:
    """What is still to be sent to one model."""

    calls: int = 0
    chars: int = 0
    turns: int = 0
    whole_chars: int = 0
    """As `chars`, with each text filled up to whole tokens."""
    answers: int = 0
    """Pictures or answers: a call may ask for several (`n`)."""
    most_output_tokens: int = 0
    unlimited: int = 0
    """Calls whose answers have no limit."""
    _params: dict[str, Json] | None = field(default=None, compare=False)
    """Of the last item: most often all have the same."""
    _counts: tuple[int, int | None] = field(default=(1, None), compare=False)
    """Its answers, and their limit."""

    def take(self, item: Item) -> None:
        """One more item."""
        self._add_texts([len(turn.content) for turn in item.turns])
        self._add_calls(item.params, 1)

    def take_all(self, items: Sequence[Item]) -> None:
        """As `take` of each."""
        if isinstance(items, AlikeItems):
            self._add_texts(list(map(len, items.texts)))
            self._add_texts([len(turn.content) for turn in items.like.turns], times=len(items))
            self._add_calls(items.like.params, len(items))
            return
        self._add_texts([len(turn.content) for item in items for turn in item.turns])
        params = items[0].params
        if any([item.params is not params for item in items]):  # noqa: C419 - a generator takes longer
            for item in items:
                self._add_calls(item.params, 1)
        else:
            self._add_calls(params, len(items))

    def add(self, other: "ToSend") -> None:
        """As many more as `other` has."""
        self.calls += other.calls
        self.chars += other.chars
        self.turns += other.turns
        self.whole_chars += other.whole_chars
        self.answers += other.answers
        self.most_output_tokens += other.most_output_tokens
        self.unlimited += other.unlimited

    def _add_texts(self, lengths: list[int], *, times: int = 1) -> None:
        """Of so many characters each, and each in so many calls."""
        chars = sum(lengths)
        self.turns += times * len(lengths)
        self.chars += times * chars
        self.whole_chars += times * (chars + sum([-length % CHARS_PER_TOKEN for length in lengths]))

    def _add_calls(self, params: dict[str, Json], calls: int) -> None:
        if params is not self._params:
            self._params, self._counts = params, (answers_of(params), output_limit(params))
        answers, limit = self._counts
        self.calls += calls
        self.answers += calls * answers
        self.most_output_tokens += calls * answers * (limit or 0)
        self.unlimited += calls * (limit is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersPlan:
    """How many tokens the answers of a run without trouble would have. An estimate, by what is known best."""

    tokens: int
    basis: tuple[str, ...]
    """What it rests on: `measured` (the mean of this job's answers so far), `max_tokens` (the longest that they can
    be), `guess` (500 an answer); several where models differ."""
    per_answer: float
    limit_key: str = "max_tokens"
    """The parameter that limits an answer in the job's dialect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCost:
    """What the same sends would cost in batches: models with too few items for one are counted at the full price."""

    used: bool
    """Whether the job uses batches; otherwise it is what it could save."""
    least: float
    most: float | None
    expected: float | None = None
    """These as in `CostPlan`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlan:
    """What the sends of a run without trouble would cost in money, by the prices that the job gives."""

    currency: str
    least: float
    """Calls, pictures and about what is sent."""
    most: float | None
    """With the longest answers that `max_tokens` allows; None when it does not limit them all."""
    expected: float | None = None
    """With answers as long as `AnswersPlan` takes them to be; None where no answers of text are sold."""
    batch: BatchCost | None = None
    """None where the provider is not known to have batches, and the job uses none."""
    source: str | None = None
    """The table that prices were taken from, with its version or date; None where the job has them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackPlan:
    """What a model may be asked besides if the models before it answer nothing, and what that may cost."""

    model: str
    on: tuple[FallbackReason, ...]
    after_s: float
    """How long `overloaded` and `quota` have to last, in seconds."""
    at_most: int
    """Requests, without retries."""
    cost: CostPlan | None = None
    """Of all these requests; None without prices."""


def fallback_plans(job: Job, ahead: Mapping[str, ToSend], tallies: Mapping[str, Tally]) -> tuple[FallbackPlan, ...]:
    """For each model that is asked after another one; none where every prompt goes to each."""
    if job.fallback is None:
        return ()
    plans, before = list[FallbackPlan](), ToSend()
    for place, model in enumerate(job.models):
        if place:
            plans.append(
                FallbackPlan(
                    model=model,
                    on=job.fallback.on,
                    after_s=job.fallback.after_s,
                    at_most=before.calls,
                    cost=cost_plan(job, {model: before}, tallies) if before.calls else None,
                )
            )
        before.add(ahead.get(model, ToSend()))
    return tuple(plans)


def requests_of(job: Job, calls: int) -> int:
    """Requests for so many items of one model: of embeddings, each carries several."""
    return -(-calls // (job.limits.inputs_per_request or 1))


_LIMIT_KEYS: Final[dict[DialectName, str]] = {"openai-responses": "max_output_tokens"}
_TOKENS_OF_A_TURN: Final = 3
_TOKENS_OF_A_CHAT: Final = 3
"""Of a chat's own form: who speaks, and where the answer begins."""
_ENOUGH_MEASURED: Final = 20
"""So many requests say more of the input of the rest than its characters do."""
GUESSED_ANSWER_TOKENS: Final = 500
"""Of an answer that nothing limits and none of which has come yet."""


def answers_plan(job: Job, ahead: dict[str, ToSend], tallies: Mapping[str, Tally]) -> AnswersPlan | None:
    """Tokens of the answers to these sends: what answers took so far, else what limits them, else a guess."""
    if job.kind != "chat" or not any(to_send.answers for to_send in ahead.values()):
        return None
    by_model = {model: _answer_tokens(to_send, tallies.get(model)) for model, to_send in ahead.items()}
    tokens = round(sum(total for total, _ in by_model.values()))
    return AnswersPlan(
        tokens=tokens,
        basis=tuple(sorted({basis for _, basis in by_model.values()})),
        per_answer=round(tokens / sum(to_send.answers for to_send in ahead.values()), 1),
        limit_key=_LIMIT_KEYS.get(job.provider.dialect, "max_tokens"),
    )


def _answer_tokens(to_send: ToSend, tally: Tally | None) -> tuple[float, str]:
    if tally is not None and tally.measured:
        return to_send.calls * tally.output_tokens / tally.measured, "measured"
    if not to_send.unlimited:
        return float(to_send.most_output_tokens), "max_tokens"
    limited = to_send.most_output_tokens
    return float(limited + to_send.unlimited * GUESSED_ANSWER_TOKENS), "guess"


def cost_plan(
    job: Job,
    ahead: dict[str, ToSend],
    tallies: Mapping[str, Tally] | None = None,
    *,
    has_batches: bool = False,
) -> CostPlan | None:
    """Of these sends by the job's prices; None without prices. `tallies` are of what this job's answers took so far.

    `has_batches`: the provider is known to have some for this kind of job.
    """
    budget = job.budget
    if budget is None or not budget.prices:
        return None
    uses = job.batch.use != "never"
    online = _cost(job, budget.prices, ahead, tallies or {})
    if not (uses or has_batches):
        return online
    prices = {
        model: price.in_batches() if job.batch.use == "always" or _calls(ahead, model) >= WORTH_A_BATCH else price
        for model, price in budget.prices.items()
    }
    batched = _cost(job, prices, ahead, tallies or {})
    if not uses and batched == online:
        return online
    batch = BatchCost(used=uses, least=batched.least, most=batched.most, expected=batched.expected)
    return replace(online, batch=batch)


def _calls(ahead: Mapping[str, ToSend], model: str) -> int:
    return ahead[model].calls if model in ahead else 0


def _cost(job: Job, prices: Mapping[str, Price], ahead: Mapping[str, ToSend], tallies: Mapping[str, Tally]) -> CostPlan:
    least, most, answers = 0.0, 0.0, 0.0
    for model, to_send in ahead.items():
        tariff = Tariff(price=prices.get(model, Price()), points_per_call=0.0, unreported=Usages())
        base = Usages(
            input_tokens=_input_tokens(job, to_send, tallies.get(model)),
            pictures=to_send.answers if job.kind == "image" else 0,
        )
        least += tariff.amounts(base, calls=requests_of(job, to_send.calls)).money
        if job.kind == "chat":
            tokens, _ = _answer_tokens(to_send, tallies.get(model))
            answers += tariff.amounts(Usages(output_tokens=tokens), calls=0).money
        most += tariff.amounts(Usages(output_tokens=to_send.most_output_tokens), calls=0).money
    endless = any(to_send.unlimited and _sells_output(prices, model) for model, to_send in ahead.items())
    return CostPlan(
        currency=(job.budget.currency if job.budget is not None else "") or "money",
        least=round(least, 9),
        most=None if endless else round(least + most, 9),
        expected=round(least + answers, 9) if answers else None,
        source=(job.budget.source if job.budget is not None else "") or None,
    )


def _input_tokens(job: Job, to_send: ToSend, tally: Tally | None) -> float:
    """What requests like these took so far, once there were enough; before that by their characters."""
    if job.kind in TASK_KINDS:
        return 0.0
    if tally is not None and tally.measured >= _ENOUGH_MEASURED and tally.input_tokens:
        return to_send.calls * tally.input_tokens / tally.measured
    tokens = max(to_send.chars, to_send.whole_chars) / CHARS_PER_TOKEN
    if job.kind == "chat":
        tokens += to_send.turns * _TOKENS_OF_A_TURN + min(to_send.turns, to_send.calls) * _TOKENS_OF_A_CHAT
    return tokens


def _sells_output(prices: Mapping[str, Price], model: str) -> bool:
    return prices.get(model, Price()).output_per_million > 0
