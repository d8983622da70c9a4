"""The keys of a budget as types."""

from pydantic import Field

from batchrunner.spec.parts import Amount, Count, Part, Rate


class PriceSpec(Part):
    """What one model costs, in the budget's currency."""

    input: Amount | None = Field(default=None, description="Price of a million tokens of input.")
    output: Amount | None = Field(default=None, description="Price of a million tokens of output.")
    picture: Amount | None = Field(default=None, description="Price of a picture.")
    call: Amount | None = Field(default=None, description="Price of a call, whatever comes of it.")


class BudgetSpec(Part):
    """What all runs of the job together may use up."""

    calls: Count | None = Field(default=None, description="Requests that were not turned away.")
    tokens: Count | None = Field(
        default=None, description="Tokens, input and output together. Guessed before a request, corrected after it."
    )
    points: Rate | None = Field(default=None, description="Points, by `provider.points_per_call`.")
    money: Rate | None = Field(default=None, description="Money, by `prices`, which must name every model of the job.")
    currency: str = Field(default="", max_length=20, description="The currency's name, for people, for example CNY.")
    prices: dict[str, PriceSpec] = Field(
        default_factory=dict, description="What each model costs, by its id; without `money` the cost is only shown."
    )
