"""The strings that a person can see: one file with all of them, which changes only on purpose."""

from pathlib import Path

import pytest

from tools.messages import found_in, messages

GOLDEN = Path(__file__).parent / "golden" / "messages.txt"


def test_the_golden_file_has_every_message() -> None:
    assert messages() == GOLDEN.read_text("utf-8"), (
        "messages have changed: `python -m tools.messages > tests/golden/messages.txt`, then read the difference aloud"
    )


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ('say("not found")', ["not found"]),
        ('say(f"{path}: not found by {name!r}")', ["{…}: not found by {…}"]),
        ("say(f\"{path}: {'is gone' if gone else 'was here'}\")", ["is gone", "was here"]),
        ('def rows():\n    yield "usage", text', ["usage"]),
        ('Out = Annotated[str, Option(help="Write it here.")]', ["Write it here."]),
        ('def run():\n    """Run a job."""', []),
        ('class A:\n    def __repr__(self):\n        return "<A 1>"', []),
        ('MARK = re.compile("a b")', []),
        ('def f(x: "list[int] | None") -> "str | None": ...', []),
        ('assert x, "nobody sees this"', []),
        ('say("word", f"{a} {b}")', []),
        ('Pair: TypeAlias = "tuple[int, str] | None"', []),
        ('if "new line" in text: say("a line")', ["a line"]),
        ('MARK = "\\0the end\\0"', []),
    ],
)
def test_a_message_is_what_has_words_and_is_shown(source: str, shown: list[str]) -> None:
    assert found_in(source) == shown
