"""Rows × matrix × models × replicas: the order, ids, keys, parameters, variables and file names."""

import asyncio
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.item import digest, fold, safe_stem
from batchrunner.core.job import ListedPrompt, Output, Turn
from batchrunner.core.ports import Items
from batchrunner.prompts import expand, items_of
from batchrunner.prompts.ids import auto_id, item_key
from batchrunner.spec import load_job
from tests.prompts.jobs import items, job_of, listing, mistake, mistakes, picture_job, source, stream


def test_prompts_are_slowest_then_the_matrix_then_models_then_replicas() -> None:
    job = job_of(
        listing(ListedPrompt(prompt="p", id="p"), ListedPrompt(prompt="q", id="q")),
        matrix={"seed": (1, 2), "size": ("s", "m")},
        models=("a/One", "b/Two"),
        replicas=2,
    )
    found = items(job)
    assert [item.id for item in found[:9]] == [
        "p-seed1-sizes-one",
        "p-seed1-sizes-one-r2",
        "p-seed1-sizes-two",
        "p-seed1-sizes-two-r2",
        "p-seed1-sizem-one",
        "p-seed1-sizem-one-r2",
        "p-seed1-sizem-two",
        "p-seed1-sizem-two-r2",
        "p-seed2-sizes-one",
    ]
    assert len(found) == 32
    assert [item.index for item in found] == list(range(1, 33))
    assert found[16].id == "q-seed1-sizes-one"
    assert {item.prompt_id for item in found} == {"p", "q"}
    assert len({item.key for item in found}) == 32
    assert [(item.model, item.replica) for item in found[:4]] == [
        ("a/One", 1),
        ("a/One", 2),
        ("b/Two", 1),
        ("b/Two", 2),
    ]


def test_ids_keys_and_indexes_do_not_depend_on_the_models_asked_for() -> None:
    job = job_of(listing("x", "x", "y"), matrix={"seed": (1, 1)}, models=("a/One", "b/One", "c/Two"), replicas=2)
    all_items = stream(items_of(job))
    for model in job.models:
        assert stream(items_of(job), frozenset({model})) == [item for item in all_items if item.model == model]
    assert stream(items_of(job), frozenset()) == []


def test_automatic_ids_come_from_the_text_and_a_repeat_gets_a_number() -> None:
    found = items(job_of(listing("A cat", "A dog", "A cat", "A cat")))
    cat, dog = auto_id("A cat"), auto_id("A dog")
    assert [item.id for item in found] == [cat, dog, f"{cat}-2", f"{cat}-3"]
    assert len({item.key for item in found}) == 2
    assert [item.stem for item in found] == [item.id for item in found]


def test_an_automatic_id_makes_way_for_a_given_one_that_comes_later() -> None:
    cat = auto_id("A cat")
    ids = [item.id for item in items(job_of(listing("A cat", ListedPrompt(prompt="A dog", id=cat))))]
    assert ids[1] == cat
    assert ids[0] != cat


def test_a_given_id_twice_is_a_mistake_with_both_places(tmp_path: Path) -> None:
    twice = listing(ListedPrompt(prompt="a", id="x", line=4), ListedPrompt(prompt="b", id="x", line=9))
    assert mistake(job_of(twice)).startswith("job.yaml:9: prompts[1].id: the id `x` was already given at job.yaml:4")
    rows = source(tmp_path / "a.csv", "name,prompt\nx,1\ny,2\nx,3\n", id="{{ name }}", on_bad_row="skip")
    assert mistake(job_of(rows)).startswith("a.csv:4: prompts.id: the id `x` was already given at a.csv:2")


def test_item_ids_that_meet_by_chance_are_distinguished() -> None:
    job = job_of(listing(ListedPrompt(prompt="a", id="x"), ListedPrompt(prompt="b", id="x-r2")), replicas=2)
    assert [item.id for item in items(job)] == ["x", "x-r2", "x-r2-2", "x-r2-r2"]


def test_values_and_models_with_the_same_slug_have_different_suffixes() -> None:
    job = job_of(listing(ListedPrompt(prompt="a", id="x")), matrix={"t": ("a!", "a", -1, 1)}, models=("a/M", "b/m"))
    assert [item.id for item in items(job)] == [
        "x-ta-m",
        "x-ta-m-2",
        "x-ta-2-m",
        "x-ta-2-m-2",
        "x-t-1-m",
        "x-t-1-m-2",
        "x-t1-m",
        "x-t1-m-2",
    ]


def test_values_of_the_matrix_stay_readable_in_ids() -> None:
    values = (0.2, -1, True, None, "1024x1024", "Ink wash", "水墨", "a/b\n<c>", "../x", "!?", [1, {"a": 0.5}], "y" * 99)
    job = job_of(listing(ListedPrompt(prompt="p", id="p")), matrix={"t": values})
    found = items(job)
    assert [item.id for item in found] == [
        "p-t0.2",
        "p-t-1",
        "p-ttrue",
        "p-tnull",
        "p-t1024x1024",
        "p-tInk-wash",
        "p-t水墨",
        "p-ta-b-c",
        "p-t..-x",
        "p-titem",
        "p-t1-a-0.5",
        "p-t" + "y" * 40,
    ]
    assert all(safe_stem(item.stem) == item.stem for item in found)
    assert found[0].stem == "p-t0.2"
    (seeded,) = items(job_of(listing(ListedPrompt(prompt="p", id="p")), matrix={"temperature": (0.2,), "seed": (1,)}))
    assert seeded.id == "p-temperature0.2-seed1"


def test_a_matrix_name_that_a_template_uses_is_a_variable_and_no_parameter() -> None:
    job = job_of(
        listing(ListedPrompt(prompt="A {{ colour }} cat", id="c"), ListedPrompt(prompt="A dog", id="d")),
        matrix={"colour": ("red", "blue"), "seed": (7,)},
    )
    found = items(job)
    assert [item.prompt for item in found] == ["A red cat", "A blue cat", "A dog", "A dog"]
    assert [item.id for item in found[:2]] == ["c-colourred-seed7", "c-colourblue-seed7"]
    assert all(item.params == {"seed": 7} for item in found)
    assert [item.vars for item in found] == [{"colour": "red"}, {"colour": "blue"}] * 2


def test_a_name_used_in_system_or_messages_or_images_is_a_variable_in_a_file_name_it_is_not() -> None:
    entry = listing(ListedPrompt(prompt="x", id="x"))
    assert items(job_of(entry, matrix={"tone": ("dry",)}, system="Be {{ tone }}."))[0].params == {}
    turns = (Turn(role="user", content="Be {{ tone }}."),)
    assert items(job_of(entry, matrix={"tone": ("dry",)}, messages=turns))[0].params == {}
    named = items(job_of(entry, matrix={"seed": (1, 2)}, output=Output(dir="o", name="s{{ seed }}")))
    assert [(item.params, item.stem) for item in named] == [({"seed": 1}, "s1"), ({"seed": 2}, "s2")]


def test_the_automatic_id_of_a_prompt_is_the_same_in_every_combination() -> None:
    found = items(job_of(listing("A {{ colour }} cat"), matrix={"colour": ("red", "blue")}))
    assert {item.prompt_id for item in found} == {auto_id("A red cat")}


def test_parameters_matrix_over_prompt_over_job() -> None:
    job = job_of(
        listing(ListedPrompt(prompt="x", params={"b": "prompt", "c": "prompt"})),
        params={"a": "job", "b": "job", "c": "job"},
        matrix={"c": ("matrix",)},
    )
    assert items(job)[0].params == {"a": "job", "b": "prompt", "c": "matrix"}


def test_vars_are_the_row_then_the_matrix(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.csv", "q,tone\nwhy,csv\n", template="{{ q }} {{ tone }} {{ row }}")
    (item,) = items(job_of(rows, matrix={"tone": ("matrix",)}))
    assert item.vars == {"q": "why", "tone": "matrix"}
    assert item.prompt == "why matrix 1"
    (listed,) = items(job_of(listing(ListedPrompt(prompt="{{ a }}{{ row }}", vars={"a": "x", "unused": None}))))
    assert (listed.prompt, listed.vars) == ("x1", {"a": "x", "unused": None})


def test_row_is_the_sources_own_column_if_it_has_one(tmp_path: Path) -> None:
    (item,) = items(job_of(source(tmp_path / "a.csv", "row,q\nten,x\n", template="{{ row }}", id="q{{ row }}")))
    assert (item.prompt, item.id) == ("ten", "qten")


def test_system_comes_first_and_an_empty_one_is_left_out() -> None:
    prompts = listing(ListedPrompt(prompt="Hi", vars={"how": "kind"}))
    (item,) = items(job_of(prompts, system="Be {{ how }}."))
    assert item.turns == (Turn(role="system", content="Be kind."), Turn(role="user", content="Hi"))
    assert not item.shows_messages
    (item,) = items(job_of(prompts, system="{{ '' if how else 'x' }}"))
    assert item.turns == (Turn(role="user", content="Hi"),)


def test_messages_are_filled_and_the_last_user_text_is_the_prompt(tmp_path: Path) -> None:
    turns = (
        Turn(role="user", content="Q: {{ q }}"),
        Turn(role="assistant", content="Hm."),
        Turn(role="user", content="Sure about {{ q }}?"),
        Turn(role="assistant", content="Yes:"),
    )
    (item,) = items(job_of(source(tmp_path / "a.csv", "q\n1+1\n"), messages=turns, system="S"))
    assert [turn.content for turn in item.turns] == ["S", "Q: 1+1", "Hm.", "Sure about 1+1?", "Yes:"]
    assert item.prompt == "Sure about 1+1?"
    assert item.shows_messages


def test_messages_may_use_the_prompt_of_a_list() -> None:
    (item,) = items(job_of(listing("A {{ 1 + 1 }}"), messages=(Turn(role="user", content="Draw: {{ prompt }}"),)))
    assert item.prompt == "Draw: A 2"


def test_messages_without_a_user_are_a_mistake() -> None:
    job = job_of(listing(ListedPrompt(prompt=None)), messages=(Turn(role="system", content="x"),))
    assert "role `user`" in mistake(job)


def test_chat_items_stream_and_carry_the_schema_images_do_not() -> None:
    schema = {"type": "object"}
    chat = items(job_of(listing("x"), schema=schema))[0]
    assert (chat.stream, chat.schema) == (True, schema)
    assert chat.key == item_key(
        dialect="openai-chat", model="a/One", turns=chat.turns, params={}, schema_digest=digest({"type": "object"})
    )
    assert not items(job_of(listing("x"), stream=False))[0].stream
    image = items(picture_job(listing("x"), schema=schema, system="S"))[0]
    assert (image.stream, image.schema, image.turns) == (False, None, (Turn(role="user", content="x"),))


def test_stream_is_no_part_of_the_key() -> None:
    assert items(job_of(listing("x"), stream=False))[0].key == items(job_of(listing("x")))[0].key


def test_file_names_are_safe_and_unique_whatever_the_case() -> None:
    names = ["a/b", "a b", "Straße", "STRASSE", "../x", "con", "é", "e\u0301", "x" * 300]
    found = items(job_of(listing(*(ListedPrompt(prompt=name, id=name) for name in names))))
    stems = [item.stem for item in found]
    assert stems[0] == "a-b"
    assert stems[1] == f"a-b-{found[1].key[:8]}"
    assert len({fold(stem) for stem in stems}) == len(names)
    assert [item.id for item in found] == names


def test_file_names_of_identical_items_are_unique_too() -> None:
    found = items(job_of(listing("x", "x", "x", "x"), output=Output(dir="o", name="same")))
    key = found[0].key[:8]
    assert [item.stem for item in found] == ["same", f"same-{key}", f"same-{key}-2", f"same-{key}-3"]


def test_file_names_know_the_item_its_variables_and_parameters() -> None:
    name = "{{ index }}_{{ prompt_id }}_{{ model }}_{{ seed }}_{{ who }}_{{ id }}"
    job = job_of(
        listing(ListedPrompt(prompt="x", id="p", vars={"who": "me", "id": "not this"})),
        matrix={"seed": (3,)},
        output=Output(dir="o", name=name),
    )
    assert items(job)[0].stem == "1_p_a-One_3_me_p-seed3"


def test_a_file_name_with_an_unknown_name_is_a_mistake_before_anything_is_sent() -> None:
    for output in (Output(dir="o", name="{{ sede }}"), Output(dir="o", each="{{ sede }}.md")):
        said = mistake(job_of(listing("x"), matrix={"seed": (1,)}, output=output))
        assert "`sede`" in said
        assert "did you mean `seed`?" in said
        assert "output." in said


def test_the_path_of_an_answers_own_file_is_filled_for_an_item() -> None:
    job = job_of(listing(ListedPrompt(prompt="x", id="p/q")), output=Output(dir="o", each="answers/{{ id }}.md"))
    every = items_of(job)
    assert every.path_of(stream(every)[0]) == "answers/p/q.md"
    assert items_of(job_of(listing("x"))).path_of(stream(every)[0]) == ""


def test_a_bad_combination_leaves_out_the_whole_row(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.csv", "q\nx\ny\n", template="{{ q if n == 1 or q == 'y' else '' }}", on_bad_row="skip")
    every = items_of(job_of(rows, matrix={"n": (1, 2)}))
    assert [item.prompt for item in stream(every)] == ["y", "y"]
    assert every.skipped_rows == 1


def test_the_items_are_what_the_port_asks_for() -> None:
    port: Items = items_of(job_of(listing("x")))
    assert port.skipped_rows == 0


def test_two_passes_give_the_same_items() -> None:
    every = items_of(job_of(listing("x", "x", ListedPrompt(prompt="y", id="é")), matrix={"s": (1, 2)}, replicas=3))
    assert stream(every) == stream(every)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=12).filter(lambda text: text.strip()), min_size=1, max_size=8, unique=True)
)
def test_any_texts_as_ids_give_unique_ids_and_safe_unique_stems(ids: list[str]) -> None:
    job = job_of(listing(*(ListedPrompt(prompt="same", id=name) for name in ids)), matrix={"s": (1, "1")}, replicas=2)
    found = items(job)
    assert len({item.id for item in found}) == len(found) == 4 * len(ids)
    assert len({fold(item.stem) for item in found}) == len(found)
    assert all(safe_stem(item.stem) == item.stem for item in found)
    assert all(re.fullmatch("[0-9a-f]{32}", item.key) for item in found)


def test_an_id_that_is_empty_or_endless_is_a_mistake() -> None:
    assert "the id is empty" in mistake(job_of(listing(ListedPrompt(prompt="x", id=" "))))
    assert "1,001 characters" in mistake(job_of(listing(ListedPrompt(prompt="x", id="i" * 1001))))


def test_half_a_surrogate_pair_is_a_mistake_not_a_crash() -> None:
    assert "surrogate" in mistake(job_of(listing("a \ud800")))
    assert "surrogate" in mistake(job_of(listing(ListedPrompt(prompt="x", id="\ud800"))))


def test_a_prompt_that_is_missing_or_empty_is_a_mistake() -> None:
    assert "there is no `prompt`" in mistake(job_of(listing(ListedPrompt(prompt=None, line=3))))
    assert mistake(job_of(listing(ListedPrompt(prompt="  ", line=3)))).startswith("job.yaml:3: prompts[0].prompt: ")
    assert "no prompts" in mistake(job_of(listing()))


def test_prompts_of_modelscope_pictures_keep_its_rules() -> None:
    long = "x" * 2000
    assert mistakes(picture_job(listing("fine", long)))[0].key == "prompts[1]"
    assert len(mistakes(picture_job(listing("fine", long)))) == 1
    assert mistakes(job_of(listing(long))) == ()


def test_the_rules_of_modelscopes_pictures_hold_for_every_value_of_the_matrix_and_every_model() -> None:
    good = {"seed": (1, 2), "size": ("512x512", "1024x1024")}
    models = ("Qwen/Qwen-Image", "black-forest-labs/FLUX.1-dev")
    assert len(items(picture_job(listing("x"), matrix=good, models=models))) == 8
    bad = {"seed": (1, -1), "size": ("1024x1024", "1664x928")}
    found = mistakes(picture_job(listing("x"), matrix=bad, models=models))
    assert [(m.key, m.problem) for m in found] == [
        ("matrix.seed[1]", "is out of range"),
        ("matrix.size[1]", "is outside the range of the model"),
    ]
    variable = picture_job(listing("x {{ size }}"), matrix={"size": ("small",)})
    assert items(variable)[0].prompt == "x small"


def test_a_word_in_a_templates_quotes_does_not_hide_a_parameter_from_the_rules(tmp_path: Path) -> None:
    head = "provider: modelscope\nkind: image\nmodel: Qwen/Qwen-Image\n"
    (tmp_path / "job.yaml").write_text(head + "prompts: ['{{ \"a seed\" }}']\nmatrix: {seed: [-1]}\n")
    assert "matrix.seed[0]: is out of range" in mistake(load_job(str(tmp_path / "job.yaml")))


def test_a_long_pass_reports_its_progress_every_so_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expand, "PROGRESS_EVERY", 500)
    told: list[int] = []
    every = items_of(job_of(listing(*map(str, range(250))), replicas=10))
    every.progress = told.append
    assert asyncio.run(every.mistakes()) == ()
    assert told == [500, 1_000, 1_500, 2_000, 2_500]
    assert every.counted == 2_500
    stream(every)
    assert len(told) == 10
