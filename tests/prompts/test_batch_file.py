"""OpenAI batch files: requests that are sent as they stand, or not at all."""

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from batchrunner.core.item import Item
from batchrunner.core.job import Job, ListedPrompt, Turn
from batchrunner.core.outcome import Revision
from batchrunner.prompts import items_of
from batchrunner.prompts.ids import item_key
from batchrunner.providers import dialect_for
from tests.prompts.batches import PNG, PNG_URL, SAID, batch, body, line, parts, shown, speaking
from tests.prompts.jobs import DATA, items, job_of, listing, mistake, picture_job, source, stream


def sent(job: Job, found: Iterable[Item]) -> list[dict[str, Any]]:
    dialect = dialect_for(job.provider)
    return [json.loads(dialect.encode(item, Revision()).body or b"") for item in found]


def test_a_line_is_an_item_with_its_own_name_conversation_and_parameters(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "Be brief."}, *SAID]
    asked = line(custom_id="row-1", body={"model": "a/One", "messages": said, "max_tokens": 64, "tools": [{"x": 1}]})
    (item,) = items(job_of(batch(tmp_path, asked)))
    assert (item.id, item.prompt_id, item.model, item.prompt) == ("row-1", "row-1", "a/One", "hi")
    assert item.turns == (Turn(role="system", content="Be brief."), Turn(role="user", content="hi"))
    assert item.params == {"max_tokens": 64, "tools": [{"x": 1}]}
    assert item.vars == {}
    assert item.shows_messages


def test_the_key_is_made_of_content_alone(tmp_path: Path) -> None:
    (item,) = items(job_of(batch(tmp_path, line(custom_id="any", more=1))))
    (listed,) = items(job_of(listing(ListedPrompt(prompt="hi", params={"max_tokens": 64}))))
    assert item.key == listed.key
    turns = (Turn(role="user", content="hi"),)
    assert item.key == item_key(dialect="openai-chat", model="a/One", turns=turns, params={"max_tokens": 64})
    assert not item.shows_messages


def test_braces_in_a_request_are_text_and_no_template(tmp_path: Path) -> None:
    (item,) = items(job_of(batch(tmp_path, body(messages=[{"role": "user", "content": "{{ 7 * 7 }} {% x"}]))))
    assert item.prompt == "{{ 7 * 7 }} {% x"


def test_a_body_arrives_as_it_stands(tmp_path: Path) -> None:
    asked = body(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "One."},
            {"role": "user", "content": [{"type": "text", "text": "And this?"}, shown(detail="low"), shown()]},
        ],
        temperature=0.2,
        response_format={"type": "json_object"},
        tool_choice="none",
        stream=False,
        unknown={"a": None},
    )
    job = job_of(batch(tmp_path, asked))
    (found,) = sent(job, items(job))
    expected = {name: value for name, value in asked["body"].items() if name != "stream"}
    assert found == {**expected, "stream": True, "stream_options": {"include_usage": True}}


def test_the_rows_parameters_win_over_the_jobs_and_the_matrix_over_both(tmp_path: Path) -> None:
    job = job_of(batch(tmp_path, body(a="row", b="row")), params={"a": "job", "c": "job"}, matrix={"b": ("m", "n")})
    found = items(job)
    assert [item.id for item in found] == ["r1-bm", "r1-bn"]
    assert [item.params for item in found] == [{"a": "row", "b": b, "c": "job"} for b in "mn"]


def test_what_stands_beside_a_request_is_kept_as_variables(tmp_path: Path) -> None:
    (item,) = items(job_of(batch(tmp_path, line(tag="x", meta={"n": 1}))))
    assert item.vars == {"tag": "x", "meta": {"n": 1}}


def test_an_id_template_names_the_rows_another_way(tmp_path: Path) -> None:
    found = items(job_of(batch(tmp_path, line(tag="x"), id="{{ tag }}-{{ custom_id }}-{{ row }}")))
    assert [item.id for item in found] == ["x-r1-1"]


def test_a_name_given_twice_is_a_mistake_with_both_places(tmp_path: Path) -> None:
    said = mistake(job_of(batch(tmp_path, line(), line(custom_id="r2"), line(), on_bad_row="skip")))
    assert said.startswith("batch.jsonl:3: custom_id: the id `r1` was already given at batch.jsonl:1")


def test_names_of_any_shape_give_safe_files(tmp_path: Path) -> None:
    found = items(job_of(batch(tmp_path, line(custom_id="../a/b"), line(custom_id="A-B"), line(custom_id="a-b"))))
    assert [item.id for item in found] == ["../a/b", "A-B", "a-b"]
    assert [item.stem for item in found] == ["a-b", f"A-B-{found[1].key[:8]}", f"a-b-{found[2].key[:8]}-2"]


def test_blank_lines_and_a_byte_order_mark_do_not_hide_what_it_is(tmp_path: Path) -> None:
    text = "\ufeff\n  \n" + json.dumps(line()) + "\n\n" + json.dumps(line(custom_id="r2"))
    assert [item.id for item in items(job_of(source(tmp_path / "a.JSONL", text)))] == ["r1", "r2"]


def test_a_template_or_messages_make_a_batch_file_plain_rows(tmp_path: Path) -> None:
    asked = line(custom_id="any")
    (item,) = items(job_of(batch(tmp_path, asked, template="Say {{ body.messages[0].content }} to {{ custom_id }}")))
    assert item.prompt == "Say hi to any"
    assert item.vars == asked
    (item,) = items(job_of(batch(tmp_path, asked), messages=(Turn(role="user", content="{{ url }}"),)))
    assert item.prompt == "/v1/chat/completions"


@pytest.mark.parametrize("name", ["custom_id", "method", "url", "body"])
def test_a_file_whose_first_line_lacks_one_of_the_four_is_no_batch_file(tmp_path: Path, name: str) -> None:
    plain = {key: value for key, value in line(prompt="plain").items() if key != name}
    assert items(job_of(batch(tmp_path, plain)))[0].prompt == "plain"


def test_a_row_names_its_model_or_leaves_it_to_the_job(tmp_path: Path) -> None:
    own, other, none = line(), line(custom_id="r2"), line(custom_id="r3")
    other["body"] = {**other["body"], "model": "b/Two"}
    none["body"] = {"messages": SAID}
    job = job_of(batch(tmp_path, own, other, none), models=("a/One", "b/Two"))
    found = [("r1", "a/One"), ("r2", "b/Two"), ("r3-one", "a/One"), ("r3-two", "b/Two")]
    assert [(item.id, item.model) for item in items(job)] == found
    second = [item for item in items(job) if item.model == "b/Two"]
    assert stream(items_of(job), frozenset({"b/Two"})) == second


def test_a_model_that_the_job_does_not_name_is_a_bad_row(tmp_path: Path) -> None:
    said = mistake(job_of(batch(tmp_path, line()), models=("b/Two",)))
    assert said.startswith("batch.jsonl:1: body.model: the request is for the model `a/One`, which the job does not")
    assert "expected `b/Two`" in said
    assert "take `model` out" in said


def test_the_jobs_system_is_for_rows_without_one(tmp_path: Path) -> None:
    told = body(messages=[{"role": "system", "content": "own"}, *SAID])
    job = job_of(batch(tmp_path, line(tag="x"), {**told, "custom_id": "r2"}), system="job{{ tag | default('') }}")
    assert [item.turns[0].content for item in items(job)] == ["jobx", "own"]


def test_the_jobs_pictures_come_behind_the_rows_own(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(PNG)
    asked = {**parts("x", shown("https://h.test/a.png")), "photo": "p.png"}
    (item,) = items(job_of(batch(tmp_path, asked), images=("{{ photo }}",), folder=tmp_path))
    assert [picture.name for picture in item.pictures] == ["https://h.test/a.png", "p.png"]


def test_parts_become_a_text_and_pictures(tmp_path: Path) -> None:
    asked = parts("What is", "this?", shown(), shown("https://h.test/a.png", detail="auto"))
    (item,) = items(job_of(batch(tmp_path, asked)))
    assert item.prompt == "What is\nthis?"
    packed, linked = item.pictures
    assert (packed.name, packed.url, packed.sha256) == ("data:image/png", PNG_URL, sha256(PNG).hexdigest())
    assert (linked.name, linked.url, linked.detail) == ("https://h.test/a.png", "https://h.test/a.png", None)
    (first,) = items(job_of(batch(tmp_path, parts(shown(), "this?"))))
    assert (first.prompt, len(first.pictures)) == ("this?", 1)
    (alone,) = items(job_of(batch(tmp_path, parts(shown()))))
    assert (alone.prompt, len(alone.pictures)) == ("", 1)


def test_the_key_follows_a_pictures_bytes_and_how_closely_it_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(PNG)
    (local,) = items(job_of(listing("x"), folder=tmp_path, images=("p.png",)))
    lines = [parts("x", shown()), parts("x", shown(detail="auto")), parts("x", shown(detail="low"))]
    named = [{**one, "custom_id": str(n)} for n, one in enumerate(lines)]
    plain, auto, low = items(job_of(batch(tmp_path, *named)))
    assert local.key == plain.key == auto.key != low.key


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/chat/completions", "/v4/chat/completions/"])
def test_the_version_in_a_url_is_the_providers_own(tmp_path: Path, url: str) -> None:
    assert items(job_of(batch(tmp_path, line(url=url))))[0].prompt == "hi"


def test_anthropics_messages_are_read_in_their_own_shape(tmp_path: Path) -> None:
    packed = {"type": "base64", "media_type": "image/png", "data": PNG_URL.partition(",")[2]}
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": [{"type": "text", "text": "One."}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "source": packed},
                {"type": "image", "source": {"type": "url", "url": "https://h.test/a.png"}},
                {"type": "text", "text": "And this?"},
            ],
        },
    ]
    asked = line(url="/v1/messages", body={"model": "a/One", "system": "Be brief.", "messages": said, "max_tokens": 9})
    job = speaking("anthropic-messages", job_of(batch(tmp_path, asked), stream=False))
    (item,) = items(job)
    assert item.turns[0] == Turn(role="system", content="Be brief.")
    assert item.params == {"max_tokens": 9}
    (found,) = sent(job, [item])
    said[1] = {"role": "assistant", "content": "One."}
    assert found == {**asked["body"], "messages": said, "stream": False}


def test_a_system_of_several_parts_is_sent_as_it_stands(tmp_path: Path) -> None:
    told = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    asked = line(url="/v1/messages", body={"messages": SAID, "system": told})
    job = speaking("anthropic-messages", job_of(batch(tmp_path, asked), system="The job's."))
    (item,) = items(job)
    assert [turn.role for turn in item.turns] == ["user"]
    assert sent(job, [item])[0]["system"] == told


def test_pictures_are_asked_for_in_both_dialects_of_pictures(tmp_path: Path) -> None:
    asked = line(url="/v1/images/generations", body={"model": "a/One", "prompt": "A cat", "size": "512x512", "seed": 7})
    for dialect in ("modelscope-images", "openai-images"):
        job = speaking(dialect, picture_job(batch(tmp_path, asked)))
        (item,) = items(job)
        assert (item.prompt, item.params) == ("A cat", {"size": "512x512", "seed": 7})
        assert sent(job, [item]) == [asked["body"]]


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared real prompts are not beside this checkout")
def test_real_questions_leave_as_they_stand_in_the_batch_file(tmp_path: Path) -> None:
    questions = [json.loads(row)["question"] for row in (DATA / "gsm8k_test.jsonl").read_text("utf-8").splitlines()]
    lines = [
        line(
            custom_id=f"row-{n:04}",
            body={"model": "a/One", "messages": [{"role": "user", "content": question}], "max_tokens": 64 + n},
        )
        for n, question in enumerate(questions, 1)
    ]
    job = job_of(batch(tmp_path, *lines), stream=False)
    found = items(job)
    assert [item.id for item in found] == [one["custom_id"] for one in lines]
    assert len(found) == len({item.key for item in found}) == 1319
    assert sent(job, found) == [{**one["body"], "stream": False} for one in lines]


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
READY: dict[str, list[dict[str, Any]]] = {
    "text, picture, text, picture": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "first"}, shown(), {"type": "text", "text": "second"}, shown()],
        }
    ],
    "picture before text": [{"role": "user", "content": [shown(), {"type": "text", "text": "what is it?"}]}],
    "picture in an earlier turn": [
        {"role": "user", "content": [{"type": "text", "text": "see"}, shown()]},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "and?"},
    ],
    "texts of their own": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, shown()]}
    ],
    "tool history": [
        {"role": "user", "content": "w"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "5"},
    ],
    "tool history that goes on": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "w"},
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "5"}]},
        {"role": "assistant", "content": "Five.", "refusal": "No."},
        {"role": "user", "content": "sure?", "name": "Ann"},
    ],
    "functions of old": [
        {"role": "user", "content": "w"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "5"},
    ],
}


@pytest.mark.parametrize("name", READY)
def test_a_conversation_of_texts_pictures_and_tools_in_any_order_is_sent_as_it_stands(
    tmp_path: Path, name: str
) -> None:
    job = job_of(batch(tmp_path, body(messages=READY[name])))
    (found,) = sent(job, items(job))
    assert found["messages"] == READY[name]


def test_messages_with_results_of_tools_are_sent_as_they_stand(tmp_path: Path) -> None:
    said = [
        {"role": "user", "content": "w"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "5"}]},
    ]
    job = speaking("anthropic-messages", job_of(batch(tmp_path, line(url="/v1/messages", body={"messages": said}))))
    (found,) = sent(job, items(job))
    assert found["messages"] == said


def test_the_order_of_words_and_pictures_and_what_tools_gave_are_in_the_key(tmp_path: Path) -> None:
    def key(*said: dict[str, Any]) -> str:
        return items(job_of(batch(tmp_path, body(messages=list(said)))))[0].key

    words: dict[str, Any] = {"type": "text", "text": "what?"}
    behind, before = (
        key({"role": "user", "content": [words, shown()]}),
        key({"role": "user", "content": [shown(), words]}),
    )
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    given = [key(*SAID, call, {"role": "tool", "tool_call_id": "c", "content": content}) for content in ("5", "6")]
    assert len({behind, before, *given, key(*SAID)}) == 5


def test_a_schema_in_words_stands_behind_a_ready_message(tmp_path: Path) -> None:
    job = job_of(batch(tmp_path, body(messages=READY["picture before text"])), schema={"type": "object"})
    (item,) = items(job)
    encoded = dialect_for(job.provider).encode(item, Revision(adapted=frozenset({"json_object"}))).body or b""
    *first, words = json.loads(encoded)["messages"][0]["content"]
    assert first == READY["picture before text"][0]["content"]
    assert words["type"] == "text"
    assert "JSON" in words["text"]
