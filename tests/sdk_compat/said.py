"""What an answer says, in one shape for both sides, so that an official SDK's reading and ours can be compared."""

from dataclasses import dataclass

from batchrunner.core.outcome import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer without what only one side knows."""

    text: str
    reasoning: str | None = None
    calls: tuple[tuple[str | None, str, str], ...] = ()
    """(id, name, arguments as text)."""
    finish_reason: str | None = None
    tokens: tuple[int | None, int | None] | None = None
    """(input, output)."""


def said_by_us(answer: Answer) -> Said:
    """Our side."""
    used = answer.usage
    return Said(
        text=answer.text,
        reasoning=answer.reasoning,
        calls=tuple((call.id, call.name, call.arguments) for call in answer.tool_calls),
        finish_reason=answer.finish_reason,
        tokens=(used.input_tokens, used.output_tokens) if used else None,
    )
