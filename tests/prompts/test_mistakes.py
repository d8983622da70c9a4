"""Sources and templates that are wrong: what a person is told, and what is skipped."""

import asyncio
import json
import re
import tracemalloc
from pathlib import Path

import pytest

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.job import ListedPrompt, Output
from batchrunner.prompts import check_items, items_of
from tests.prompts.jobs import DATA, items, job_of, listing, mistake, mistakes, picture_job, source, stream


def test_without_a_template_the_line_or_the_prompt_column_is_the_prompt(tmp_path: Path) -> None:
    assert [i.prompt for i in items(job_of(source(tmp_path / "a.txt", "{{ a }}\nb\n")))] == ["{{ a }}", "b"]
    assert items(job_of(source(tmp_path / "a.tsv", "N\tPrOmPt\n1\tx\n")))[0].prompt == "x"
    assert items(job_of(source(tmp_path / "b.tsv", "Prompt\tprompt\n1\tx\n")))[0].prompt == "x"
    assert items(job_of(source(tmp_path / "a.jsonl", '{"prompt": 12}\n')))[0].prompt == "12"


def test_without_a_template_and_such_a_column_the_columns_are_named(tmp_path: Path) -> None:
    said = mistake(job_of(source(tmp_path / "a.csv", "line,answer\n1,2\n")))
    assert said.startswith("a.csv:2: prompts.template: there is no column `prompt`; the columns are `line`, `answer`")


@pytest.mark.parametrize("value", ["null", "[1]", "{}", "true", '" "'])
def test_a_prompt_that_is_no_text_is_a_bad_row(tmp_path: Path, value: str) -> None:
    assert mistake(job_of(source(tmp_path / "a.jsonl", '{"prompt": ' + value + "}\n"))).startswith("a.jsonl:1: ")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".txt"])
def test_an_unknown_name_is_reported_with_the_columns_and_what_was_meant(tmp_path: Path, ending: str) -> None:
    text = {".csv": "question,a\n1,2\n", ".tsv": "question\ta\n1\t2\n", ".jsonl": '{"question": 1, "a": 2}\n'}
    rows = source(tmp_path / f"a{ending}", text.get(ending, "x\n"), template="{{ qestion }}")
    said = mistake(job_of(rows))
    assert "prompts.template: the template uses `qestion`" in said
    if ending != ".txt":
        assert re.search("available names: .*`question`, `a`", said)
        assert "did you mean `question`?" in said


def test_a_name_that_no_row_has_is_a_mistake_even_where_it_is_optional(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", '{"q": 1}\n{"q": 2}\n', template="{{ q }}{{ nto | default('') }}")
    assert "`nto`" in mistake(job_of(rows))
    rows = source(tmp_path / "a.jsonl", '{"q": 1}\n{"q": 2, "nto": 3}\n', template="{{ q }}{{ nto | default('') }}")
    assert [item.prompt for item in items(job_of(rows))] == ["1", "23"]
    table = source(tmp_path / "a.csv", "q\n1\n", template="{{ q }}{{ nto | default('') }}", on_bad_row="skip")
    assert "`nto`" in mistake(job_of(table))


def test_a_column_whose_name_is_no_name_has_underscores_in_templates(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.csv", "Sub Category,2nd,prompt\nx,y,z\n", template="{{ Sub_Category }}{{ _2nd }}")
    (item,) = items(job_of(rows))
    assert (item.prompt, list(item.vars)) == ("xy", ["Sub Category", "2nd", "prompt"])


def test_unknown_names_in_a_list_are_reported_with_their_line() -> None:
    job = job_of(listing(ListedPrompt(prompt="{{ colur }}", vars={"size": 1}, line=7)), matrix={"colour": ("red",)})
    said = mistake(job)
    assert said.startswith("job.yaml:7: prompts[0].prompt: the template uses `colur`")
    shared = mistake(job_of(listing("x"), system="{{ tone }}"))
    assert "system: the template uses `tone`" in shared


def test_templates_that_are_none_are_all_reported_at_once() -> None:
    job = job_of(
        listing(ListedPrompt(prompt="{{ a", line=3), "{% x %}"), system="{{", output=Output(dir="o", name="{{ }}")
    )
    with pytest.raises(JobMistakesError) as caught:
        items(job)
    assert {m.key for m in caught.value.mistakes} == {"system", "prompts[0].prompt", "prompts[1].prompt", "output.name"}
    assert mistakes(job) == caught.value.mistakes


def test_an_unknown_ending_names_the_known_ones(tmp_path: Path) -> None:
    said = mistake(job_of(source(tmp_path / "a.xlsx", "x")))
    assert "`.xlsx`" in said
    assert ".txt, .csv, .tsv, .jsonl, .parquet, or a folder" in said
    assert "no ending" in mistake(job_of(source(tmp_path / "prompts", "x")))


def test_a_missing_file_and_an_empty_one_are_mistakes(tmp_path: Path) -> None:
    said = mistake(job_of(source(tmp_path / "none.txt")))
    assert said.startswith("none.txt: cannot be read: No such file or directory; expected at /")
    assert "has no rows" in mistake(job_of(source(tmp_path / "a.csv", "prompt\n")))
    assert "has no rows" in mistake(job_of(source(tmp_path / "a.txt", "\n\n", on_bad_row="skip")))


def test_a_bad_row_stops_or_is_skipped_and_counted(tmp_path: Path) -> None:
    text = '{"prompt": "a"}\nnonsense\n{"prompt": ""}\n{"prompt": "b"}\n'
    assert mistake(job_of(source(tmp_path / "a.jsonl", text))).startswith("a.jsonl:2: the line is not JSON")
    every = items_of(job_of(source(tmp_path / "a.jsonl", text, on_bad_row="skip", id="q{{ row }}")))
    assert every.skipped_rows == 0
    assert [(item.id, item.index) for item in stream(every)] == [("q1", 1), ("q4", 2)]
    assert every.skipped_rows == 2
    assert [m.line for m in every.skipped] == [2, 3]


def test_a_source_whose_every_row_is_bad_is_a_mistake(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", "x\ny\n", on_bad_row="skip")
    assert mistake(job_of(rows)).startswith("a.jsonl:1: every row is bad, this is the first: the line is not JSON")
    rows = source(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2}\n', template="{{ b }}", on_bad_row="skip")
    assert "`b`" in mistake(job_of(rows))
    rows = source(tmp_path / "a.jsonl", '{"a": null}\n{"a": null}\n', template="{{ a }}", on_bad_row="skip")
    assert "every row is bad" in mistake(job_of(rows))


def test_only_the_last_whole_pass_counts(tmp_path: Path) -> None:
    every = items_of(job_of(source(tmp_path / "a.jsonl", 'x\n{"prompt": 1}\n{"prompt": 2}\n', on_bad_row="skip")))

    async def first() -> str:
        pass_ = every.stream()
        item = await anext(pass_)
        await pass_.aclose()
        return item.prompt

    assert asyncio.run(first()) == "1"
    assert every.skipped_rows == 0
    stream(every)
    assert every.skipped_rows == 1


def test_the_check_reports_every_mistake_with_its_line(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", "x\n" * 3 + '{"prompt": "fine"}\n' + "x\n" * 40)
    assert [m.line for m in mistakes(job_of(rows))] == [1, 2, 3, *range(5, 45)]
    assert mistakes(job_of(source(tmp_path / "b.jsonl", 'x\n{"prompt": "fine"}\n', on_bad_row="skip"))) == ()


def test_a_broken_template_and_a_bad_name_hide_no_bad_row_and_no_bad_picture(tmp_path: Path) -> None:
    text = 'x\n{"prompt": "a", "p": "none.png", "q": "gone.png"}\ny\n{"prompt": "b"}\n'
    rows = source(tmp_path / "a.jsonl", text, template="{{ broken", id="{{ alike")
    output = Output(dir="out", name="{{ nowhere }}", each="{% if %}")
    found = mistakes(job_of(rows, images=("{{ p }}", "{{ q }}"), output=output))
    assert [mistake.line for mistake in found if mistake.line] == [1, 2, 2, 3]
    assert {mistake.key for mistake in found if not mistake.line} == {
        *("prompts.template", "prompts.id", "output.each", "output.name"),
    }


def test_more_mistakes_than_are_kept_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.prompts.prompt_rows.KEPT", 5)
    *kept, last = mistakes(job_of(source(tmp_path / "a.jsonl", "x\n" * 12)))
    assert [mistake.line for mistake in kept] == [1, 2, 3, 4, 5]
    assert last.problem == "7 more errors are not shown, 12 in all"


def test_the_check_finds_prompts_that_modelscope_refuses(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.txt", "fine\n" + "x" * 2000 + "\nfine too\n" + "y" * 3000 + "\n")
    found = mistakes(picture_job(rows))
    assert [m.line for m in found] == [2, 4]
    assert all("2000" in m.problem or "2,000" in m.problem for m in found)


def test_limit_takes_the_first_rows_bad_ones_included(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", '{"prompt": "a"}\nx\n{"prompt": "c"}\nx\n', on_bad_row="skip", limit=3)
    every = items_of(job_of(rows))
    assert [item.prompt for item in stream(every)] == ["a", "c"]
    assert every.skipped_rows == 1


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared real prompts are not beside this checkout")
def test_real_prompts_become_items() -> None:
    gsm8k = source(DATA / "gsm8k_test.jsonl", template="{{ question }}", id="q{{ row }}")
    found = items(job_of(gsm8k))
    assert (len(found), found[0].id, found[-1].id) == (1319, "q1", "q1319")
    assert found[0].prompt.startswith("Janet’s ducks lay 16 eggs per day.")
    parti = items(picture_job(source(DATA / "parti_prompts.tsv")))
    assert len(parti) == 1632
    assert len({item.id for item in parti}) == 1632
    assert parti[0].prompt == parti[0].vars["Prompt"] == "bond"
    assert len(items(job_of(source(DATA / "gsm8k_test.jsonl", template="{{ answer }}", limit=100)))) == 100


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"question": f"{n}: " + "why " * 1000}) + "\n" for n in range(4_000))
    assert path.stat().st_size > 15_000_000
    job = job_of(source(path, template="{{ question }}"))

    async def count() -> int:
        found = 0
        async for _ in items_of(job).stream():
            found += 1
        return found

    tracemalloc.start()
    try:
        assert asyncio.run(count()) == 4_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000


def test_others_on_the_loop_get_their_turn_while_a_list_is_expanded() -> None:
    async def turns() -> int:
        taken = 0

        async def other() -> None:
            nonlocal taken
            while True:
                taken += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        assert await check_items(job_of(listing("x"), matrix={"a": tuple(range(100)), "b": tuple(range(50))})) == ()
        beside.cancel()
        return taken

    assert asyncio.run(turns()) >= 5
