"""What people and their files say: job files, settings, templates, rows of every kind of source.

Any bytes are a job or mistakes that name their place; any source streams items or tells which row is bad.
"""

import asyncio
import io
import json
import os
from collections.abc import Callable
from contextlib import aclosing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa  # type: ignore[import-untyped]  # it has no types
from pyarrow import parquet

from batchrunner import api
from batchrunner.core.errors import JobMistakesError
from batchrunner.core.item import safe_stem
from batchrunner.core.job import Job, Source
from batchrunner.prompts import check_items, items_of
from batchrunner.stores.run_directory import digest_of_job, resolved
from batchrunner.stores.run_file import RunFile, write_run_file
from tests.fuzz.target import Target

HOME = Path(__file__).resolve().parents[2]
MOST_ITEMS = 300


def assert_printable(error: JobMistakesError) -> int:
    """Asserts that the mistakes can be printed, one line each with a place."""
    assert error.mistakes
    for mistake in error.mistakes:
        assert mistake.line is None or mistake.line >= 1
        str(mistake).encode()
    return len(error.mistakes)


def take_in(job: Job, folder: Path) -> object:
    """Everything that happens to a job before something is sent: its record, its items, their names."""
    digest_of_job(job)
    made = RunFile(
        job_name=job.name, simulated=True, digest="d", program="p", created="c", job=resolved(job), totals=None
    )
    write_run_file(folder, made)
    return asyncio.run(_stream(job))


async def _stream(job: Job) -> object:
    if (
        isinstance(job.prompts, Source) and job.prompts.run
    ):  # whoever sends it brings the run; its rows are no bytes here
        return [str(mistake).encode() for mistake in await check_items(job)]
    items, ids, stems = items_of(job), set[str](), set[str]()
    try:
        async with aclosing(items.stream()) as stream:
            async for item in stream:
                ids.add(item.id)
                stems.add(item.stem)
                assert item.stem == "" or safe_stem(item.stem) == item.stem
                if len(ids) >= MOST_ITEMS:
                    return "many"
    except JobMistakesError as error:
        return assert_printable(error)
    if len(ids) < 20:
        for mistake in await check_items(job):
            str(mistake).encode()
    return len(ids)


def job_file(text: bytes) -> object:
    """A job file's bytes, as a job for the simulator and as they stand."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_bytes(text)
        seen: list[object] = []
        for simulate in (True, False):
            try:
                job = api.load_job(str(path), simulate=simulate, out=f"{folder}/out")
            except JobMistakesError as error:
                seen.append(assert_printable(error))
            else:
                seen.append(take_in(job, Path(folder)))
        return seen


def setting(text: bytes) -> object:
    """`--set` with anything."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_bytes(b"provider: simulator\nmodel: m\nprompts: [a]\n")
        try:
            job = api.load_job(str(path), overrides=[text.decode("utf-8", "surrogateescape")], out=f"{folder}/out")
        except JobMistakesError as error:
            return assert_printable(error)
        return take_in(job, Path(folder))


def template(text: bytes) -> object:
    """A template against rows that try to be templates themselves."""
    rows = [{"a": "{{ 7 * 7 }}", "b": 3, "c": [1, {"d": None}], "x y": "\ud800"}, {"a": "{% for x in range(9**9) %}"}]
    return _with_source("rows.jsonl", "\n".join(map(json.dumps, rows)).encode(), text.decode("utf-8", "replace"))


def source(name: str, *, template: str | None = None) -> Callable[[bytes], object]:
    """A prompt file of this name with these bytes."""

    def run(text: bytes) -> object:
        return _with_source(name, text, template)

    return run


def _with_source(name: str, text: bytes, template: str | None, *, more: str = "") -> object:
    with TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(text)
        return _job_on(Path(folder), name, template, more)


def _job_on(folder: Path, name: str, template: str | None, more: str = "") -> object:
    prompts: dict[str, str] = {"file": name, **({"template": template} if template is not None else {})}
    path = folder / "job.yaml"
    path.write_text(f"provider: simulator\nmodel: m\nprompts: {json.dumps(prompts)}\n{more}")
    seen: list[object] = []
    for rule in ("fail", "skip"):
        try:
            job = api.load_job(str(path), overrides=[f"prompts.on_bad_row={rule}"], out=str(folder / "out"))
        except JobMistakesError as error:
            seen.append(assert_printable(error))
        else:
            seen.append(take_in(job, folder))
    return seen


def folder_source(text: bytes) -> object:
    """A folder: names and contents from the bytes, divided at NULs."""
    with TemporaryDirectory() as folder:
        inside = Path(folder) / "rows"
        inside.mkdir()
        for number, piece in enumerate(text.split(b"\0")[:8]):
            name, _, content = piece.partition(b"\n")
            plain = name.replace(b"/", b"_")[:200] or b"%d.txt" % number
            if plain in {b".", b".."}:
                continue
            (inside / os.fsdecode(plain)).write_bytes(content)
        return _job_on(Path(folder), "rows", "{{ text }}")


# -- seeds


@cache
def job_seeds() -> tuple[bytes, ...]:
    spelt_out = b"""name: all
provider: {preset: openai, base_url: "http://127.0.0.1:8000/v1", api_key_env: [A, B], headers: {X-Team: e}}
model: m
system: You are {{ who }}.
prompts:
  - {id: a, prompt: "Say {{ x }}", vars: {x: 1, who: me}, params: {seed: 7}}
  - "two {{ x }} {{ who }}"
matrix: {x: [1, "b", 2.5], who: [a, b], top_p: [0.1, 0.9]}
schema: {type: object, properties: {a: {type: string}}}
limits: {concurrency: 4, requests_per_minute: 60, tokens_per_minute: 1e5, requests_per_day: 9}
retry: {attempts: 3, max_wait_s: 5}
timeouts: {connect_s: 1, first_byte_s: 2, idle_s: 3, total_s: 4}
output: {dir: out, name: "{{ id }}", each: "answers/{{ id }}.md"}
window: 22:00-07:00
deadline: 8h
timezone: Asia/Shanghai
budget: {calls: 5, money: 1.5, currency: CNY, prices: {m: {input: 1, output: 2}}}
notify: [echo, done]
on_ambiguous: hold
on_quota: stop
breaker: 5
replicas: 2
durability: full
"""
    aliases = b"x: &a [1,2]\ny: &b [*a,*a]\nprovider: simulator\nmodel: m\nprompts: [a]\nparams: {z: *b}\n"
    pictures = (
        b"provider: modelscope\nkind: image\nmodel: Qwen/Qwen-Image\nprompts: [a cat]\nparams: {size: 1024x1024}\n"
    )
    found = tuple(path.read_bytes() for path in sorted((HOME / "jobs").glob("*.yaml")))
    return (*found, spelt_out, aliases, pictures)


def setting_seeds() -> tuple[bytes, ...]:
    return (
        b"limits.concurrency=4", b"params={seed: 7}", b"prompts[0].id=x", b"matrix.x=[1,2]", b"provider.headers.X-A=1",
        b"model=a", b"a.b.c=", b"=", b"output.dir=../x", b"params.x='\xff'", b"prompts=[[[[", b"models=[a,b]",
    )  # fmt: skip


def template_seeds() -> tuple[bytes, ...]:
    return (
        b"{{ a }} and {{ b }}", b"{{ c[1].d }}", b"{{ x_y|upper }}", b"{{ a.__class__.__mro__ }}", b"{{ 'x' * 10**9 }}",
        b"{{ a|center(10**8) }}", b"{% for i in range(10**8) %}x{% endfor %}", b"{{ ''.join(['x' * 99] * 10**6) }}",
        b"{{ (9**9)**9 }}", b"{{ a|replace('', 'y' * 10**5) }}", b"{% raw %}{{ a }}{% endraw %}", b"{{ missing }}",
        b"{{ a|format(b) }}", b"{{ '%99999999d'|format(b) }}", b"{{ [1]*10**9 }}", b"{{ a|wordwrap(1)|indent(10**7) }}",
        b"{{ c|tojson|urlize }}", b"{{ lipsum(n=10**6) }}", b"{{ cycler(1) }}", b"{{ self }}", b"{{ 1/0 }}",
        b"{{ b ** b ** 9 }}",
    )  # fmt: skip


def table_seeds(sep: bytes) -> Callable[[], tuple[bytes, ...]]:
    rows = [
        [b"prompt", b"id", b"x"], [b"a cat", b"1", b"\xe4\xb8\xad"], [b'"q ""u"" q"', b"2", b"y"],
        [b'"two\nlines"', b"3", b""],
    ]  # fmt: skip
    text = b"\n".join(sep.join(row) for row in rows)
    return lambda: (
        text,
        b"\xef\xbb\xbf" + text,
        text.replace(b"\n", b"\r\n"),
        b"prompt\n" + b"x" * 9000,
        b"prompt\nprompt\n",
    )


def jsonl_seeds() -> tuple[bytes, ...]:
    return (
        b'{"prompt": "a", "n": 1}\n{"prompt": "b", "n": [1, {"x": null}]}\n\n{"prompt": "c"}\n',
        b'{"prompt": "\\ud83d\\ude00", "id": "../x"}\n{"prompt": 5}\n[1]\n"x"\nnull\n',
    )


def batch_seeds() -> tuple[bytes, ...]:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    parts = [{"type": "text", "text": "hi"}, picture]
    bodies = [
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]},
        ),
        ("/v1/messages", {"max_tokens": 5, "system": "s", "messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/images/generations", {"prompt": "a cat", "size": "64x64"}),
    ]
    lines = [
        json.dumps({"custom_id": f"r{number}", "method": "POST", "url": url, "body": body})
        for number, (url, body) in enumerate(bodies)
    ]
    return ("\n".join(lines).encode(), *(line.encode() for line in lines))


@cache
def parquet_seeds() -> tuple[bytes, ...]:
    columns = {"prompt": ["a", "b", None], "n": [1, 2, 3], "deep": [[{"x": 1}], [], None], "raw": [b"\xff", b"", None]}
    made: list[bytes] = []
    for compression in ("none", "snappy", "gzip"):
        out = io.BytesIO()
        parquet.write_table(pa.table(columns), out, compression=compression)
        made.append(out.getvalue())
    return tuple(made)


def folder_seeds() -> tuple[bytes, ...]:
    return (
        b"a.txt\nhello\0b.md\n# b\0c.png\nxx\0.hidden\nx",
        b"1.txt\n\xff\xfe\0\xff\xfe.txt\nx\0con.txt\ny",
        b"a.exe\nMZ",
    )


TARGETS: tuple[Target, ...] = (
    Target("job file", job_file, job_seeds, 0.3),
    Target("setting", setting, setting_seeds, 0.3),
    Target("template", template, template_seeds, 0.3),
    Target("csv", source("rows.csv", template="{{ prompt }}{{ x }}"), table_seeds(b","), 0.3),
    Target("tsv", source("rows.tsv"), table_seeds(b"\t"), 0.3),
    Target("txt", source("rows.txt"), table_seeds(b" "), 0.3),
    Target("jsonl", source("rows.jsonl", template="{{ prompt }}"), jsonl_seeds, 0.3),
    Target("batch file", source("rows.jsonl"), batch_seeds, 0.3),
    Target("parquet", source("rows.parquet"), parquet_seeds, 0.3),
    Target("folder", folder_source, folder_seeds, 0.3),
)
