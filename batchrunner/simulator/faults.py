"""What goes wrong by chance, and how long things take: two small settings, each readable from a command line.

Refuses unknown names and rates outside 0 to 1 with a mistake that lists what exists.
"""

from dataclasses import dataclass, fields, replace

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.simulator.dice import Dice


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
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
    def parse(cls, text: str) -> "Faults":
        """`throttle=0.1,5xx=0.05,retry_after=2` and so on; see FAULT_NAMES. An empty text is no faults.

        Raises:
            JobMistakesError: an unknown name, a bad number, or rates that add up to more than 1.
        """
        faults = cls(**_numbers(text, names=FAULT_NAMES, what="faults"))
        wrong = [f.name for f in fields(faults) if f.name != "retry_after_s" and not 0 <= getattr(faults, f.name) <= 1]
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

    def strike(self, dice: Dice, among: tuple[str, ...]) -> str | None:
        """Which of these faults befalls this call, if any."""
        chance = [(name, rate) for name in among if (rate := getattr(self, name))]
        if not chance:
            return None
        # A throw of its own for each group: a task that is to fail must not be the one whose polls fail
        rest = dice.roll(f"fault of {among[0]}")
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

NO_FAULTS = Faults()


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
            mistakes.append(Mistake(key=f"{what}.{name}", problem=f"{figure!r} is no number", expected="like 0.1"))
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
