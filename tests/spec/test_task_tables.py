"""`provider.task`: which table it means, and what is said of one that is wrong, with its file, line and key."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Job
from batchrunner.spec import load_job
from batchrunner.spec.task_tables import shipped_tables

Load = Callable[..., Job]

TABLE = """\
source: here
base: https://api.example
submit: {path: /order, body: {prompt: $prompt, ...: $params}, id: [id]}
poll: {path: "/tasks/{id}", state: [status]}
states: {done: [ready]}
result: {urls: [file]}
"""


def loaded(
    folder: Path, *, table: str | bytes | None = TABLE, provider: dict[str, Any] | None = None, **keys: Any
) -> Job:
    if table is not None:
        (folder / "their.yaml").write_bytes(table if isinstance(table, bytes) else table.encode())
    (folder / "graph.json").write_text('{"6": "{{ prompt }}"}')
    path = folder / "job.yaml"
    own = {"dialect": "task", "task": "their.yaml", **(provider or {})}
    job = {"provider": own, "kind": "image", "model": "m", "prompts": ["a cat"], **keys}
    path.write_text(json.dumps(job, indent=1))
    return load_job(str(path))


def mistakes(folder: Path, **keys: Any) -> tuple[Mistake, ...]:
    with pytest.raises(JobMistakesError) as found:
        loaded(folder, **keys)
    return found.value.mistakes


@pytest.mark.parametrize("name", shipped_tables())
def test_every_shipped_table_is_valid_and_names_its_source_and_its_key(name: str, tmp_path: Path) -> None:
    body = {"body_file": "graph.json"} if name == "comfyui" else {}
    provider = loaded(tmp_path, provider={"task": name, **body}).provider
    assert provider.task is not None
    assert len(provider.task.source) > 10
    assert provider.base_url == provider.task.base
    assert provider.key_env == () if provider.task.auth == "none" else len(provider.key_env) == 1
    assert provider.task.states or provider.task.poll.flags


def test_a_table_of_ones_own_lies_beside_the_job(tmp_path: Path) -> None:
    provider = loaded(tmp_path, provider={"base_url": "http://127.0.0.1:9/tasks/", "api_key_env": "MINE"}).provider
    assert (provider.base_url, provider.key_env) == ("http://127.0.0.1:9/tasks", ("MINE",))
    assert (provider.key_header, provider.key_prefix) == ("Authorization", "Bearer ")


def test_the_job_has_the_last_word_on_how_the_key_is_sent(tmp_path: Path) -> None:
    theirs = loaded(tmp_path, provider={"task": "bfl"}).provider
    mine = loaded(tmp_path, provider={"task": "bfl", "auth": "bearer"}).provider
    assert (theirs.key_header, theirs.key_prefix, theirs.key_env) == ("x-key", "", ("BFL_API_KEY",))
    assert (mine.key_header, mine.auth, mine.key_env) == ("", "bearer", ("BFL_API_KEY",))


def test_the_limits_of_a_table_hold_where_the_job_has_none(tmp_path: Path) -> None:
    table = TABLE.replace("state: [status]", "state: [status], per_second: 3")
    assert loaded(tmp_path, table=table).limits.poll_per_second == 3
    assert loaded(tmp_path, table=table, limits={"poll_per_second": 1}).limits.poll_per_second == 1


WRONG: dict[str, tuple[str, int | None, str, str]] = {
    "a key that is none": (TABLE.replace("poll: {path", "poll: {pth: 1, path"), 4, "poll.pth", "is no key of a table"),
    "a part that is none": (TABLE + "retry: 3\n", 7, "retry", "is no key of a table"),
    "a part that is missing": (TABLE.replace("result: {urls: [file]}\n", ""), None, "result", "is missing"),
    "a missing key": (TABLE.replace(", id: [id]", ""), 3, "submit.id", "is missing"),
    "a text for a list": (TABLE.replace("id: [id]", "id: id"), 3, "submit.id", 'is "id"'),
    "an address to follow that no reply has": (
        TABLE + "cancel: {path: /cancel, after: result_url}\n",
        7,
        "cancel.after",
        "needs `submit.result_url`",
    ),
    "no such state": (TABLE.replace("done:", "dun:"), 5, "states.dun", "is no state of a task"),
    "a word with two meanings": (
        TABLE.replace("{done: [ready]}", "{done: [ready], failed: [Ready]}"),
        5,
        "states.failed[0]",
        "also means `done`",
    ),
    "no word for the end": (TABLE.replace("done: [ready]", "failed: [bad]"), 5, "states", "needs words for `done`"),
    "a hole that is none": (
        TABLE.replace("...: $params", "s: $parms"),
        3,
        "submit.body",
        "`$parms` stands for nothing",
    ),
    "a hole in a path": (TABLE.replace("{id}", "{id}/{task}"), 4, "poll.path", "`{task}` stands for nothing"),
    "no place for a result": (TABLE.replace("urls: [file]", "message: [why]"), 6, "result", "needs `urls`"),
    "no way to ask": (TABLE.replace('path: "/tasks/{id}", ', ""), 4, "poll", "needs `path`"),
    "a root without a queue": (TABLE.replace("state: [", 'root: "{id}", state: ['), 4, "poll", "`root` and `queue`"),
    "an address that is none": (TABLE.replace("https://api.example", "api.example"), 2, "base", 'is "api.example"'),
    "a key in it": (
        TABLE.replace("body: {", "body: {token: sk-abcdef0123456789abcdef01, "),
        3,
        "submit.body.token",
        "looks like a key or token",
    ),
    "a header with a key": (
        TABLE.replace("path: /order", "path: /order, headers: {X-Api-Key: abc}"),
        3,
        "submit.headers.X-Api-Key",
        "carries a key",
    ),
    "errors without a condition": (TABLE + "errors: [{kind: throttle}]\n", 7, "errors[0]", "needs `status`"),
    "a kind that is none": (TABLE + "errors: [{status: 402, kind: money}]\n", 7, "errors[0].kind", 'is "money"'),
    "a poll that asks about no task": (TABLE.replace("/tasks/{id}", "/tasks"), 4, "poll.path", "same for every task"),
    "a result of no task": (TABLE.replace("{urls", "{path: /results, urls"), 6, "result.path", "same for every task"),
    "no word in the list for the end": (TABLE.replace("[ready]", "[]"), 5, "states.done", "is empty"),
    "a blank word": (TABLE.replace("[ready]", "[ready, ' ']"), 5, "states.done[1]", 'is " "'),
    "a word that YAML reads as another thing": (
        TABLE.replace("[ready]", "[ready, no]"),
        5,
        "states.done[1]",
        "is false",
    ),
    "flags none of which is the end": (
        TABLE.replace("state: [status]", "flags: [{at: bad, value: true, state: failed}]").replace(
            "states: {done: [ready]}", "errors: []"
        ),
        4,
        "poll.flags",
        "no flag with `state: done`",
    ),
    "words without a place in the reply": (
        TABLE.replace("state: [status]", "flags: [{at: ok, value: true, state: done}]"),
        5,
        "states",
        "needs `poll.state`",
    ),
    "no prompt": (TABLE.replace("prompt: $prompt, ", ""), 3, "submit.body", "has no `$prompt`"),
    "one value for many": (TABLE.replace("...: $params", "...: $image"), 3, 'submit.body["..."]', "no entries"),
    "a pointer with an empty key": (TABLE.replace("[id]", "[data..task_id]"), 3, "submit.id[0]", 'is "data..task_id"'),
    "a pointer with two stars": (TABLE.replace("[file]", "['data.**.url']"), 6, "result.urls[0]", 'is "data.**.url"'),
    "a pointer in JSONPath": (TABLE.replace("[file]", "['$.data[0].url']"), 6, "result.urls[0]", 'is "$.data[0].url"'),
    "a JSON pointer": (TABLE.replace("[file]", "[/data/0/url]"), 6, "result.urls[0]", 'is "/data/0/url"'),
    "a brace alone": (TABLE.replace("/order", "'/order/{'"), 3, "submit.path", "a brace that stands for nothing"),
    "braces around nothing": (TABLE.replace("/order", "'/order/{}'"), 3, "submit.path", "`{}` stands for nothing"),
    "two slashes": (TABLE.replace("/order", "//order"), 3, "submit.path", "no plain path"),
    "a fragment": (TABLE.replace("/order", "'/order#1'"), 3, "submit.path", "no plain path"),
    "a way up": (TABLE.replace("/order", "/v1/../order"), 3, "submit.path", "no plain path"),
    "a base with a query": (TABLE.replace("api.example", "api.example?v=1"), 2, "base", "cannot stand before a path"),
    "a base with a name in it": (TABLE.replace("api.example", "me@api.example"), 2, "base", "no address of a server"),
    "a base with no port": (TABLE.replace("api.example", "api.example:x"), 2, "base", "no address"),
    "a header that is not theirs": (TABLE + "auth: {header: Host}\n", 7, "auth.header", "sets itself"),
    "a domain of numbers": (
        TABLE.replace("id: [id]", "id: [id], poll_url: u, poll_hosts: [10.0.0.1]"),
        3,
        "submit.poll_hosts[0]",
        'is "10.0.0.1"',
    ),
    "polls without end": (
        TABLE.replace("[status]", "[status], per_second: 1e9"),
        4,
        "poll.per_second",
        "is 1000000000",
    ),
    "a code that fits everything": (TABLE + "errors: [{kind: throttle, code: ''}]\n", 7, "errors[0].code", 'is ""'),
    "no YAML": (TABLE + "errors: [\n", 8, "", "not closed"),
    "no mapping": ("- a\n", 1, "", "is no table"),
    "nothing": ("", 1, "", "is no table"),
}


@pytest.mark.parametrize(("table", "line", "key", "problem"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_in_a_table_is_named_with_its_file_line_and_key(
    tmp_path: Path, table: str, line: int | None, key: str, problem: str
) -> None:
    found = mistakes(tmp_path, table=table)
    assert [(mistake.file, mistake.line, mistake.key or "") for mistake in found] == [
        (str(tmp_path / "their.yaml"), line, key)
    ]
    assert problem in found[0].problem
    assert "sk-abcdef" not in str(found[0])
    words = f"{found[0].problem} {found[0].expected}"
    assert not [
        bad for bad in ("regex", "`str`", "null`", "enum", "`int`", "Object", "ValidationError") if bad in words
    ]


@pytest.mark.parametrize("name", sorted(WRONG.keys() - {"no YAML", "nothing", "no mapping"}))
def test_a_mistake_in_a_table_states_what_is_expected_or_what_to_do(tmp_path: Path, name: str) -> None:
    (found,) = mistakes(tmp_path, table=WRONG[name][0])
    assert found.expected or found.hint or "needs" in found.problem


def test_a_value_that_is_none_of_a_few_is_named_with_all_of_them(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, table=WRONG["a kind that is none"][0])
    assert found.expected is not None
    assert {"`billing`", "`throttle`", "`task_failed`"} <= set(found.expected.split(", "))


def test_all_mistakes_of_one_part_are_named_at_once(tmp_path: Path) -> None:
    states = """states:
  dun: [ready]
  failed: oops
  gone: [1, lost, " "]
"""
    table = TABLE.replace("states: {done: [ready]}\n", states).replace("id: [id]", "id: [a..b, '**', ok]")
    found = mistakes(tmp_path, table=table)
    assert [(mistake.key, mistake.line) for mistake in found] == [
        ("submit.id[0]", 3),
        ("submit.id[1]", 3),
        ("states.dun", 6),
        ("states.failed", 7),
        ("states.gone[0]", 8),
        ("states.gone[2]", 8),
    ]


def test_one_reply_with_every_task_below_its_id_needs_no_id_in_its_path(tmp_path: Path) -> None:
    rooted = 'path: /history, root: "{id}", queue: {path: /queue, ids: [ids]}, state: [status]'
    table = TABLE.replace('path: "/tasks/{id}", state: [status]', rooted)
    assert loaded(tmp_path, table=table).provider.task is not None


def test_several_mistakes_are_named_at_once(tmp_path: Path) -> None:
    table = TABLE.replace("id: [id]", "id: id").replace("state: [", "sate: [").replace("urls", "url")
    assert [mistake.line for mistake in mistakes(tmp_path, table=table)] == [3, 4, 6]


@pytest.mark.parametrize("text", [b"\xff\xfe\xfa", b"\0", b"a: " + b"x" * 300_000, b"{" * 5000, b"&a [*a, *a]"])
def test_bytes_that_are_no_table_are_a_mistake(tmp_path: Path, text: bytes) -> None:
    assert mistakes(tmp_path, table=text)[0].file == str(tmp_path / "their.yaml")


JOBS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a name that is none": ({"provider": {"task": "blf"}}, "provider.task", "names no table"),
    "a file that is none": ({"provider": {"task": "none.yaml"}}, "provider.task", "cannot be read"),
    "no table": ({"provider": {"task": None}}, "provider.task", "is missing"),
    "a table for another dialect": (
        {"provider": {"dialect": "openai-images", "base_url": "https://x.example"}},
        "provider.task",
        "is for `dialect: task` only",
    ),
    "a preset beside it": ({"provider": {"preset": "openai"}}, "provider.preset", "no place beside"),
    "chat": ({"kind": "chat"}, "provider.dialect", "does not fit"),
    "a parameter without a place": (
        {"table": TABLE.replace(", ...: $params", ", s: $params.seed"), "params": {"seed": 1, "steps": 3}},
        "params.steps",
        "has no place in the body",
    ),
    "a matrix without a place": (
        {"table": TABLE.replace(", ...: $params", ""), "matrix": {"seed": [1, 2]}},
        "matrix.seed",
        "has no place in the body",
    ),
    "a picture without a place": ({"images": ["https://x.example/a.png"]}, "images", "has no place in the body"),
    "two pictures for one place": (
        {
            "table": TABLE.replace("prompt: $prompt", "prompt: $prompt, image: $image"),
            "images": ["https://x.example/a.png", "https://x.example/b.png"],
        },
        "images",
        "one picture",
    ),
    "a body without a place": ({"provider": {"body_file": "graph.json"}}, "provider.body_file", "has no place"),
    "a place without a body": (
        {"table": TABLE.replace("prompt: $prompt, ...: $params", "prompt: $body")},
        "provider.body_file",
        "is missing",
    ),
    "a key over plain http": (
        {"table": TABLE.replace("https:", "http:"), "provider": {"api_key_env": "MINE"}},
        "provider.base_url",
        "plain http",
    ),
    "a key where none is taken": (
        {"table": TABLE + "auth: none\n", "provider": {"api_key_env": "MINE"}},
        "provider.api_key_env",
        "takes none",
    ),
}


@pytest.mark.parametrize(("keys", "key", "problem"), JOBS.values(), ids=JOBS.keys())
def test_a_job_that_does_not_fit_its_table_is_refused(
    tmp_path: Path, keys: dict[str, Any], key: str, problem: str
) -> None:
    found = mistakes(tmp_path, **keys)
    assert [mistake.key for mistake in found] == [key]
    assert problem in found[0].problem
    assert found[0].line is not None


GRAPHED = TABLE.replace("prompt: $prompt, ...: $params", "prompt: $body")
BODIES: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (b'{"6":\n "a"\n "b"}', 3, "is not JSON"),
    "a list": (b"[]", 1, "is no body"),
    "nothing": (b"", 1, "is not JSON"),
    "nested without end": (b"[" * 100_000, 1, "is not JSON"),
    "the drawing of a graph": (b'{"nodes": [], "links": [], "version": 0.4}', 1, "is the drawing of a graph"),
}


@pytest.mark.parametrize(("text", "line", "problem"), BODIES.values(), ids=BODIES.keys())
def test_a_mistake_in_a_body_file_is_named_with_its_file_and_line(
    tmp_path: Path, text: bytes, line: int, problem: str
) -> None:
    (tmp_path / "body.json").write_bytes(text)
    found = mistakes(tmp_path, table=GRAPHED, provider={"body_file": "body.json"})
    assert [(mistake.file, mistake.line) for mistake in found] == [(str(tmp_path / "body.json"), line)]
    assert problem in found[0].problem


FILLED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "no prompt in it": ('{"6": "a cat"}', {}, "provider.body_file", "every prompt would order the same"),
    "a parameter that it does not use": (
        '{"6": "{{ prompt }}"}',
        {"params": {"seed": 1}},
        "params.seed",
        "is used nowhere in the body file",
    ),
    "a matrix that it does not use": (
        '{"6": "{{ prompt }}"}',
        {"matrix": {"seed": [1]}},
        "matrix.seed",
        "is used nowhere",
    ),
    "a name that is unknown": ('{"6": "{{ prompt }} {{ sed }}"}', {}, "provider.body_file", "`sed`"),
    "no template": ('{"6": "{{ prompt "}', {}, "provider.body_file", "6: "),
    "a block that is refused": ('{"6": "{{ prompt }}{% include \'x\' %}"}', {}, "provider.body_file", "6: "),
    "what reaches out of the sandbox": ('{"6": "{{ prompt.__class__.__mro__ }}"}', {}, "provider.body_file", "6: "),
}


@pytest.mark.parametrize(("body", "keys", "key", "problem"), FILLED.values(), ids=FILLED.keys())
def test_a_body_that_cannot_be_filled_is_a_mistake_before_the_first_order(
    tmp_path: Path, body: str, keys: dict[str, Any], key: str, problem: str
) -> None:
    (tmp_path / "body.json").write_text(body)
    job = loaded(tmp_path, table=GRAPHED, provider={"body_file": "body.json"}, **keys)
    found = asyncio.run(api.check(job)).mistakes
    assert [mistake.key for mistake in found] == [key]
    assert problem in found[0].problem


def test_a_simulated_run_checks_the_table_and_asks_no_server(tmp_path: Path) -> None:
    (tmp_path / "their.yaml").write_text(TABLE)
    path = tmp_path / "job.yaml"
    path.write_text("provider: {dialect: task, task: their.yaml}\nkind: image\nmodel: m\nprompts: [a]\n")
    job = load_job(str(path), simulate=True)
    assert (job.simulated, job.provider.key_env, job.provider.dialect) == (True, (), "task")
    assert job.provider.base_url.startswith("http://simulator.invalid")
