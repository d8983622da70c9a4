"""`messages`, `sharegpt`, `alpaca`: read back by `datasets` and by the types of the OpenAI SDK."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from openai.types.chat import ChatCompletionMessageParam
from pydantic import TypeAdapter

from batchrunner.core.exports import ExportOptions, ExportRow
from tests.exporters.rows import TEXTS, Rows, chat_row, failed_row, made, picture_row, written

MESSAGES = TypeAdapter(list[ChatCompletionMessageParam])
CALL = {"id": "c1", "name": "weather", "arguments": '{"place": "Oslo"}'}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
]


def objects(shape: str, *rows: ExportRow, reasoning: bool = False) -> list[dict[str, Any]]:
    content = written(shape, Rows(list(rows), options=ExportOptions(reasoning=reasoning)))
    return [json.loads(line) for line in content.decode().splitlines()]


@settings(deadline=None)  # a busy machine is no mistake
@given(prompt=TEXTS, system=TEXTS, said=TEXTS.filter(str.strip))
def test_messages_are_what_was_sent_and_what_was_stated(prompt: str, system: str, said: str) -> None:
    (line,) = objects("messages", chat_row(said, prompt=prompt, system=system))
    assert [(turn["role"], turn["content"]) for turn in MESSAGES.validate_python(line["messages"])] == [
        ("system", system),
        ("user", prompt),
        ("assistant", said),
    ]


def test_a_conversation_of_several_turns_is_given_whole() -> None:
    (line,) = objects("messages", chat_row("2", messages=TURNS))
    assert line["messages"] == [*TURNS, {"role": "assistant", "content": "2"}]
    (line,) = objects("sharegpt", chat_row("2", messages=TURNS))
    assert [turn["from"] for turn in line["conversations"]] == ["system", "human", "gpt", "human", "gpt"]
    (line,) = objects("alpaca", chat_row("2", messages=TURNS))
    expected = {"instruction": "Two?", "input": "", "output": "2", "system": "Be short.", "history": [["One?", "1"]]}
    assert line == expected


def test_tool_calls_and_tools_are_as_openais_api_has_them() -> None:
    row = chat_row("", output={"tool_calls": [CALL]}, params={"tools": TOOLS})
    (line,) = objects("messages", row)
    MESSAGES.validate_python(line["messages"])
    assert line["messages"][-1]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Oslo"}'}}
    ]
    assert line["tools"] == TOOLS
    (line,) = objects("sharegpt", row)
    assert json.loads(line["conversations"][-1]["value"]) == {"name": "weather", "arguments": {"place": "Oslo"}}
    assert json.loads(line["tools"]) == TOOLS


def test_reasoning_is_given_on_demand_only() -> None:
    row = chat_row("4", output={"reasoning": "2 + 2"})
    for shape in ("messages", "sharegpt", "alpaca"):
        assert b"2 + 2" not in made(shape, row)
    assert objects("messages", row, reasoning=True)[0]["messages"][-1]["reasoning_content"] == "2 + 2"
    assert objects("alpaca", row, reasoning=True)[0]["output"] == "<think>\n2 + 2\n</think>\n\n4"


@pytest.mark.parametrize(
    ("shape", "row", "words"),
    [
        ("messages", failed_row(), "failed items"),
        ("messages", chat_row(" \n"), "without a text or a tool call"),
        ("sharegpt", picture_row(("images/a.png", b"x")), "without a text or a tool call"),
        ("alpaca", chat_row("", output={"tool_calls": [CALL]}), "tool calls"),
        ("alpaca", chat_row("2", messages=[TURNS[1], TURNS[3]]), "questions and answers in turn"),
    ],
)
def test_what_a_format_cannot_hold_is_left_out_and_counted(shape: str, row: ExportRow, words: str) -> None:
    run = Rows([row, chat_row("kept")])
    assert written(shape, run).count(b"\n") == 1
    (reason,) = run.left_out
    assert words in reason
    assert (run.left_out[reason], run.samples) == (1, 1)


@pytest.mark.parametrize("shape", ["messages", "sharegpt", "alpaca"])
def test_every_line_has_the_same_keys(shape: str) -> None:
    """`datasets` takes the columns from the first lines, and may refuse what comes later."""
    rows = [chat_row("a"), chat_row("b", system="S", params={"tools": TOOLS}, messages=TURNS)]
    lines = objects(shape, *rows, chat_row("c", images=[{"name": "a.png", "sha256": "0"}]))
    assert len({tuple(line) for line in lines}) == 1


@pytest.mark.parametrize("shape", ["messages", "sharegpt", "alpaca"])
def test_datasets_reads_every_line(shape: str, tmp_path: Path) -> None:
    """Tool calls that come late, beyond the 10 MB from which it takes the columns, need a larger `chunksize`."""
    rows = [chat_row("x" * 100_000, id=f"r{number}", prompt=f"p{number}") for number in range(130)]
    if shape != "alpaca":
        rows.append(chat_row("", prompt="late", output={"tool_calls": [CALL]}, params={"tools": TOOLS}))
    (tmp_path / "train.jsonl").write_bytes(made(shape, *rows))
    found = datasets.load_dataset(
        "json",
        data_files=str(tmp_path / "train.jsonl"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
        chunksize=100 << 20,
    )
    expected = objects(shape, *rows)
    assert len(found) == len(rows)
    for line, read in zip(expected, found, strict=True):
        if shape == "alpaca":
            assert read == line
        elif shape == "sharegpt":
            assert read["conversations"] == line["conversations"]
        else:
            assert [(turn["role"], turn["content"]) for turn in read["messages"]] == [
                (turn["role"], turn["content"]) for turn in line["messages"]
            ]
    if shape == "messages":
        assert found[-1]["messages"][-1]["tool_calls"][0]["function"]["name"] == "weather"


# -- preference


def judged(text: str, *, verdict: bool | None, **fields: Any) -> ExportRow:
    return chat_row(text, **{"pass": verdict, **fields})


def test_answers_that_passed_are_paired_with_answers_to_the_same_prompt_that_failed(tmp_path: Path) -> None:
    run = Rows(
        [
            judged("good 1", verdict=True, id="a1", model="m1"),
            judged("bad 1", verdict=False, id="a2", model="m2"),
            judged("good 2", verdict=True, id="a3"),
            judged("good 3", verdict=True, id="b1", prompt_id="b", prompt="Other?"),
            judged("bad 3", verdict=False, id="b2", prompt_id="b", prompt="Other?", system="Another system prompt"),
            judged("unclear", verdict=None, id="b3", prompt_id="b", prompt="Other?"),
            judged("same", verdict=True, id="c1", prompt_id="c"),
            judged("same", verdict=False, id="c2", prompt_id="c"),
        ]
    )
    (tmp_path / "train.jsonl").write_bytes(written("preference", run))
    (pair,) = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert pair["prompt"] == [{"role": "user", "content": "a question"}]
    assert pair["chosen"] == [{"role": "assistant", "content": "good 1"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "bad 1"}]
    assert (pair["chosen_id"], pair["rejected_id"], pair["rejected_model"]) == ("a1", "a2", "m2")
    assert run.samples == 1
    assert sorted(run.left_out.values()) == [1, 1, 3]


def test_without_verdicts_there_is_no_pair() -> None:
    run = Rows([chat_row("a"), chat_row("b"), failed_row()])
    assert written("preference", run) == b""
    assert sorted(run.left_out.values()) == [1, 2]


@pytest.mark.parametrize("shape", ["messages", "sharegpt"])
def test_names_of_documents_and_audio_stand_beside_the_conversation_not_among_its_pictures(shape: str) -> None:
    row = chat_row("a", files=[{"name": "a.pdf", "sha256": "0"}, {"name": "b.mp3", "sha256": "1"}])
    (line,) = objects(shape, row)
    assert (line["files"], "images" in line) == (["a.pdf", "b.mp3"], False)
