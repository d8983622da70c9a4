"""What an answer says, in one shape for both sides, so that an official SDK's reading and ours can be compared."""

from collections.abc import Mapping

from batchrunner.core.outcome import Answer, Problem, ProblemKind
from batchrunner.core.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAnswer:
    """An answer without what only one side knows."""

    text: str
    reasoning: str | None = None
    calls: tuple[tuple[str | None, str, str], ...] = ()
    """(id, name, arguments as text)."""
    finish_reason: str | None = None
    tokens: tuple[int | None, int | None] | None = None
    """(input, output)."""


def parsed_by_us(answer: Answer) -> ParsedAnswer:
    """Our side."""
    used = answer.usage
    return ParsedAnswer(
        text=answer.text,
        reasoning=answer.reasoning,
        calls=tuple((call.id, call.name, call.arguments) for call in answer.tool_calls),
        finish_reason=answer.finish_reason,
        tokens=(used.input_tokens, used.output_tokens) if used else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """What one exchange came to."""

    sdk: ParsedAnswer | Exception
    ours: Answer | Problem


def assert_sdk_failed_too(
    sides: Sides, kinds: Mapping[type[Exception], frozenset[ProblemKind]], exact: ProblemKind | None
) -> None:
    """Our problem is of a kind that fits the exception of the SDK, and of the one kind that is expected, if any."""
    assert isinstance(sides.ours, Problem)
    assert isinstance(sides.sdk, Exception)
    assert sides.ours.kind in kinds[type(sides.sdk)]
    assert exact in (None, sides.ours.kind)


def assert_whole_to_the_sdk_alone(sides: Sides, kind: ProblemKind) -> None:
    """The SDK takes the answer for whole; to us it is a problem of this kind."""
    assert isinstance(sides.sdk, ParsedAnswer)
    assert isinstance(sides.ours, Problem)
    assert sides.ours.kind is kind
