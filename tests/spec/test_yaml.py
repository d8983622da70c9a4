"""YAML that is broken, hostile or merely surprising gives a mistake with its line, and sound YAML is read as meant."""

import difflib
from collections.abc import Callable

import pytest

import batchrunner
from batchrunner.core.errors import Mistake
from batchrunner.core.job import Job, Listing
from batchrunner.spec import reader
from tests.support.growth import assert_linear, calls_within

Load = Callable[..., Job]
Mistakes = Callable[..., tuple[Mistake, ...]]

CHAT = "provider: simulator\nmodel: m\nprompts: [a]\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)

MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9))

HOSTILE = [
    ("empty", b"", 1, "is empty"),
    ("only a comment", b"# nothing\n", 1, "is empty"),
    ("a list", b"- a\n- b\n", 1, "is not a mapping"),
    ("a word", b"hello", 1, "is not a mapping"),
    ("tab", b"limits:\n\tconcurrency: 3\n", 2, "a tab where"),
    ("not UTF-8", b"name: a\nmodel: \xff\xfe\n", 2, "not UTF-8"),
    ("control character", b"name: a\nmodel: \x00\n", 2, "control character"),
    ("unclosed quote", b'name: "a\nmodel: m\n', 3, "not closed"),
    ("a line of open lists", b"models: " + b"[x, " * 1700, None, "nested too deeply"),
    ("unclosed list", b"models: [a, b\nname: x\n", 2, "not closed"),
    ("two documents", b"name: a\n---\nname: b\n", 2, "second document"),
    ("undefined alias", b"name: a\nsystem: *bold*\n", 2, "no such anchor"),
    ("bare template", b"name: a\nsystem: {{ x }}\n", 2, "key is a list or a mapping"),
    ("bare template with more", b"name: a\nsystem: {{ x }} y\n", 2, "does not continue"),
    ("colon in a text", b"name: a\nsystem: b: c\n", 2, "a colon where"),
    ("at sign", b"name: a\nsystem: @home\n", 2, "special in YAML"),
    ("impossible character", b'name: a\nsystem: "\\U7fffffff"\n', 2, "invalid escape"),
    ("half a character", b'name: a\nsystem: "\\ud800"\n', 2, "an unpaired surrogate"),
    ("python object", b"name: a\nsystem: !!python/object:os.system x\n", 2, "a tag that job files do not support"),
    ("binary", b"name: a\nsystem: !!binary aGk=\n", 2, "a tag that job files do not support"),
    ("tag that does not fit", b"name: a\nbreaker: !!int abc\n", 2, "does not fit its YAML tag"),
    ("alias bomb", BOMB.encode(), None, "aliases (*name) expand"),
    ("merge bomb", MERGES.encode(), None, "aliases (*name) expand"),
    ("merge of itself", b"params: &p {<<: *p}\n", 1, "not a mapping"),
    ("merge of a text", b"params: {<<: x}\n", 1, "not a mapping"),
    ("alias of itself", b"name: a\nparams: &p {x: *p}\n", 2, "contains itself"),
    ("deep list", b"params: {x: " + b"[" * 100 + b"]" * 100 + b"}", 1, "nested too deeply"),
    ("bottomless list", b"[" * 20_000, None, "nested too deeply"),
    ("bottomless mapping", b"{a: " * 20_000, None, "nested too deeply"),
    ("duplicate key", b"name: a\nmodel: m\nname: b\n", 3, "is given twice"),
    ("number as a key", b"params:\n  1: x\n", 2, "is a key that YAML does not read as text"),
    ("infinite", b"params:\n  x: .inf\n", 2, "JSON cannot carry"),
    ("endless number", b"params:\n  x: " + b"9" * 5000 + b"\n", 2, "too long for a number"),
    ("large number", b"params:\n  x: 99999999999999999999\n", 2, "more than 64 bits"),
    ("sixties", b"params:\n  ratio: 16:9\n", 2, "base-60 number"),
    ("octal", b"params:\n  seed: 0123\n", 2, "octal number 83"),
]


@pytest.mark.parametrize(("text", "line", "problem"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile_yaml_is_a_mistake_with_its_line(
    mistakes: Mistakes, text: bytes, line: int | None, problem: str
) -> None:
    """Threat 7."""
    found = mistakes(text)
    assert (line, True) in [(mistake.line, problem in mistake.problem) for mistake in found], "\n".join(map(str, found))


def test_a_bare_template_is_advised_to_add_quotes(mistakes: Mistakes) -> None:
    for text in ("system: {{ x }}\n", "system: {{ x }} y\n", "prompts:\n- {{ x }} y\n"):
        assert any("must be quoted" in (mistake.hint or "") for mistake in mistakes(text))


def test_a_question_without_quotes_in_a_list_is_advised_to_have_them(mistakes: Mistakes) -> None:
    (mistake,) = mistakes(b"name: a\nprovider: simulator\nmodel: m\nprompts: [Why?, How?]\n")
    assert (mistake.line, "quotes" in (mistake.hint or "")) == (4, True)


def test_a_duplicate_key_states_where_the_first_stands(mistakes: Mistakes) -> None:
    (mistake,) = mistakes(CHAT + "limits:\n  concurrency: 1\n  concurrency: 2\n")
    assert (mistake.line, mistake.key, mistake.hint) == (6, "limits.concurrency", "first on line 5")


def test_anchors_and_merges_are_fine(load: Load) -> None:
    job = load(
        "provider: simulator\nmodel: m\n"
        "prompts:\n- {prompt: a, params: &p {seed: 1, top_p: 0.5}}\n- {prompt: b, params: {<<: *p, seed: 2}}\n"
        "- {prompt: c, params: *p}\n"
    )
    assert isinstance(job.prompts, Listing)
    assert [entry.params for entry in job.prompts.entries] == [
        {"seed": 1, "top_p": 0.5},
        {"seed": 2, "top_p": 0.5},
        {"seed": 1, "top_p": 0.5},
    ]


def test_values_are_read_as_they_are_meant(load: Load) -> None:
    job = load(CHAT + 'params: {a: 1e-4, b: 0x10, c: 1_000, d: "no", e: null, f: true, g: -2.5, h: "\\ud83d\\ude00"}\n')
    assert job.params == {"a": 1e-4, "b": 16, "c": 1000, "d": "no", "e": None, "f": True, "g": -2.5, "h": "😀"}


def test_a_key_with_nothing_after_it_is_not_given(load: Load) -> None:
    assert load(CHAT + "limits:\nretry:\nsystem:\noutput:\n  dir:\n") == load(CHAT + "# the same\n")


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_in_the_usual_unicode_forms_are_read(load: Load, coding: str) -> None:
    assert load(CHAT.replace("[a]", "[一只金色的猫]").encode(coding)).prompts == Listing(
        entries=load(CHAT.replace("[a]", "[一只金色的猫]")).prompts.entries  # type: ignore[union-attr]  # it is a list
    )


def test_windows_line_ends_keep_their_lines(mistakes: Mistakes) -> None:
    (mistake,) = mistakes((CHAT + "\nkindd: chat\n").replace("\n", "\r\n"))
    assert (mistake.line, mistake.key) == (5, "kindd")


_COMMENT = b"# " + b"x" * 70_000 + b"\n"
"""Makes a text so large that libyaml reads it."""


@pytest.mark.parametrize(("text", "line", "problem"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_a_large_file_gets_the_same_words_as_a_small_one(
    mistakes: Mistakes, text: bytes, line: int | None, problem: str
) -> None:
    found = mistakes(_COMMENT + text)
    assert any(problem in mistake.problem for mistake in found), found
    if line is not None and text.strip():
        assert line + 1 in [mistake.line for mistake in found] or problem in ("is empty", "is not a mapping")


@pytest.mark.parametrize("c_loader", [None, reader._C_LOADER], ids=["PyYAML", "libyaml"])
def test_a_large_file_states_the_same_with_and_without_libyaml(
    load: Load, monkeypatch: pytest.MonkeyPatch, c_loader: type | None
) -> None:
    monkeypatch.setattr(reader, "_C_LOADER", c_loader)
    listed = "".join(f'  - {{prompt: "é漢😀 {n}", vars: {{x: 1e-4, y: 0.5}}}}\n' for n in range(2_000))
    job = load(f"provider: simulator\nmodel: m\nprompts:\n{listed}")
    assert isinstance(job.prompts, Listing)
    assert len(job.prompts.entries) == 2_000
    last = job.prompts.entries[-1]
    assert (last.prompt, last.vars, last.line) == ("é漢😀 1999", {"x": 0.0001, "y": 0.5}, 2_003)


def test_unknown_keys_are_all_reported_in_time_that_grows_with_their_number(mistakes: Mistakes) -> None:
    def reported(count: int) -> Callable[[], None]:
        text = CHAT + "".join(f"key_{n}: 1\n" for n in range(count))

        def work() -> None:
            assert len(mistakes(text)) == count

        return work

    assert_linear(reported, 1_000)


def test_what_was_meant_is_guessed_for_a_hundred_unknown_keys_at_most(mistakes: Mistakes) -> None:
    """A guess takes milliseconds, and a list may have 100,000 of them."""
    with calls_within(200_000, of=difflib):
        assert len(mistakes(CHAT + "".join(f"key_{n}: 1\n" for n in range(1_000)))) == 1_000


def test_listed_prompts_are_read_in_time_that_grows_with_their_number(load: Load) -> None:
    def read(count: int) -> Callable[[], object]:
        text = "provider: simulator\nmodel: m\nprompts:\n" + "".join(f"  - prompt {n}\n" for n in range(count))
        return lambda: load(text)

    assert_linear(read, 1_000)


def test_no_rule_looks_at_a_listed_prompt_again(load: Load) -> None:
    """What every rule did with each entry again is done once: 24 calls for each of them, beside those of PyYAML."""
    text = "provider: simulator\nmodel: m\nprompts:\n" + "".join(f"  - prompt {n}\n" for n in range(2_000))
    with calls_within(2_000 * 30, of=batchrunner):
        load(text)
