"""A paid POST as the world sees it: who sends what, for the how-manieth time, and which scenarios it asked for."""

from dataclasses import dataclass

from batchrunner.core.job import Json
from batchrunner.simulator.accounts import Lane
from batchrunner.simulator.dice import Dice
from batchrunner.simulator.faults import Latency
from batchrunner.simulator.refusals import Refusal, refuse
from batchrunner.simulator.script import Script

_ANSWERS_DIFFER = 0.5

Chosen = dict[str, float | None]
"""Scenarios by name, each with the figure after its colon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request for something that is paid for."""

    now: float
    """Wall clock, seconds since 1970."""
    headers: dict[str, str]
    body: dict[str, Json]
    model: str
    """As sent, scenario included."""
    chosen: Chosen
    lane: Lane
    dice: Dice
    request_id: str
    latency: Latency
    files_base: str
    """Where pictures are fetched from: scheme, host and port."""
    breaks_schema: bool = False
    """If it asks for structured output, its answer is to miss the schema."""
    answer_tokens: int | None = None
    """About how many tokens answers are counted as; None counts what they say."""
    unread: bool = False
    """Nobody reads the answer's words: their counts and times are enough."""

    @property
    def base_model(self) -> str:
        """The model without its scenario."""
        return self.model.partition("#")[0]

    @property
    def nth(self) -> int:
        """1 for the first send of this content by this account."""
        return self.dice.nth

    def figure(self, scenario: str, otherwise: float) -> float:
        """The figure that came with a scenario."""
        said = self.chosen.get(scenario)
        return otherwise if said is None else said

    def said_tokens(self, counted: int) -> int:
        """What an answer is counted as; `counted` is what it says."""
        if self.answer_tokens is None:
            return counted
        said = max(1, round(self.dice.spread(self.answer_tokens, _ANSWERS_DIFFER, "tokens")))
        limit = self.body.get("max_tokens") or self.body.get("max_completion_tokens")
        return min(said, limit) if isinstance(limit, int) else said

    def refuse(self, refusal: Refusal) -> Script:
        """The reply that says no."""
        return refuse(refusal, model=self.base_model, request_id=self.request_id)
