"""Keys that decide what is asked for: each with a job, a change, and what is seen without and with it."""

from io import BytesIO

from PIL import Image

from batchrunner.core.classify import family_of
from batchrunner.core.errors import JobMistakesError
from tests.engine.job_key_effects.bench import Bench, Effect, chat, image, paid

OPENAI = "https://api.openai.com/v1/chat/completions"
MODELSCOPE = "https://api-inference.modelscope.cn/v1/chat/completions"
LINES = b"one\ntwo\nthree\n"
TABLE = b'prompt,who\n"hi","Ann"\n"ho","Bob"\n'
BAD_ROW = b'{"prompt": "a"}\n{"prompt": \n{"prompt": "c"}\n'
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TURNS = [
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "ah"},
    {"role": "user", "content": "go"},
]


def picture(color: str) -> bytes:
    """A PNG."""
    made = BytesIO()
    Image.new("RGB", (4, 4), color).save(made, "PNG")
    return made.getvalue()


def prompts(bench: Bench) -> list[str]:
    """What each item says."""
    return [item.prompt for item in bench.items]


def ids(bench: Bench) -> list[str]:
    """What each item is called."""
    return [item.id for item in bench.items]


def conversation(bench: Bench) -> list[tuple[str, object]]:
    """The conversation on the wire."""
    return [(turn["role"], turn["content"]) for turn in bench.body()["messages"]]


def shown(bench: Bench) -> list[str]:
    """The beginnings of the pictures on the wire."""
    content = bench.body()["messages"][-1]["content"]
    parts = content if isinstance(content, list) else []
    return [part["image_url"]["url"][:22] for part in parts if part["type"] == "image_url"]


def shown_or_refused(bench: Bench) -> list[str]:
    """The pictures on the wire, where the job is accepted."""
    try:
        return shown(bench)
    except JobMistakesError:
        return ["refused"]


def attempt(bench: Bench) -> object:
    """The prompts, or where the first mistake is."""
    try:
        return prompts(bench)
    except JobMistakesError as caught:
        mistake = caught.mistakes[0]
        return f"{str(mistake.file).rpartition('/')[2]}:{mistake.line}"


def source(**more: object) -> dict[str, object]:
    """A job over a file."""
    return {**chat(), "prompts": {"file": "rows.txt", **more}}


ASKED: dict[str, Effect] = {
    "provider": Effect(
        base=paid(provider="openai"),
        change={"provider": "modelscope"},
        look=lambda bench: bench.request().url,
        was=OPENAI,
        now=MODELSCOPE,
    ),
    "provider.preset": Effect(
        base=paid(),
        change={"provider.preset": "modelscope"},
        look=lambda bench: (family_of(bench.job.provider), bench.request().url),
        was=("openai", OPENAI),
        now=("modelscope", MODELSCOPE),
    ),
    "provider.dialect": Effect(
        base=paid(),
        change={"provider.dialect": "anthropic-messages"},
        look=lambda bench: (bench.request().url, "anthropic-version" in bench.request().headers),
        was=(OPENAI, False),
        now=("https://api.openai.com/v1/messages", True),
    ),
    "provider.base_url": Effect(
        base=paid(),
        change={"provider.base_url": "http://127.0.0.1:9/v1"},
        look=lambda bench: bench.request().url,
        was=OPENAI,
        now="http://127.0.0.1:9/v1/chat/completions",
    ),
    "cache": Effect(
        base={**paid(provider="anthropic"), "system": "Be brief."},
        change={"cache": "system"},
        look=lambda bench: bench.body()["system"],
        was="Be brief.",
        now=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    ),
    "kind": Effect(
        base=paid(),
        change={"kind": "image"},
        look=lambda bench: (bench.request().url, sorted(bench.body())),
        was=(OPENAI, ["messages", "model", "stream", "stream_options"]),
        now=("https://api.openai.com/v1/images/generations", ["model", "prompt"]),
    ),
    "model": Effect(
        base=paid(),
        change={"model": "m/Two"},
        look=lambda bench: (bench.body()["model"], len({item.key for item in bench.items})),
        was=("m/One", 1),
        now=("m/Two", 1),
    ),
    "models": Effect(
        base=paid(),
        change={"model": None, "models": ["m/One", "m/Two"]},
        look=lambda bench: [bench.body(place)["model"] for place in range(len(bench.items))],
        was=["m/One"],
        now=["m/One", "m/Two"],
    ),
    "prompts": Effect(base=paid("a"), change={"prompts": ["b", "c"]}, look=prompts, was=["a"], now=["b", "c"]),
    "prompts[].prompt": Effect(
        base=paid({"prompt": "a"}), change={"prompts.0.prompt": "b"}, look=prompts, was=["a"], now=["b"]
    ),
    "prompts[].id": Effect(
        base=paid({"prompt": "a", "id": "x"}), change={"prompts.0.id": "y"}, look=ids, was=["x"], now=["y"]
    ),
    "prompts[].params": Effect(
        base=paid({"prompt": "a"}, params={"top_p": 0.1}),
        change={"prompts.0.params": {"top_p": 0.9}},
        look=lambda bench: bench.body()["top_p"],
        was=0.1,
        now=0.9,
    ),
    "prompts[].vars": Effect(
        base=paid({"prompt": "a {{ x }}", "vars": {"x": 1}}),
        change={"prompts.0.vars.x": 2},
        look=lambda bench: (prompts(bench), bench.items[0].vars),
        was=(["a 1"], {"x": 1}),
        now=(["a 2"], {"x": 2}),
    ),
    "prompts[].images": Effect(
        base=paid({"prompt": "a"}),
        change={"prompts.0.images": ["red.png", "https://h.example/b.png"]},
        look=shown,
        was=[],
        now=["data:image/png;base64,", "https://h.example/b.pn"],
        files={"red.png": picture("red")},
    ),
    "prompts.file": Effect(
        base=source(),
        change={"prompts.file": "other.txt"},
        look=prompts,
        was=["one", "two", "three"],
        now=["four"],
        files={"rows.txt": LINES, "other.txt": b"four\n"},
    ),
    "prompts.encoding": Effect(
        base=source(),
        change={"prompts.encoding": "cp1252"},
        look=attempt,
        was="rows.txt:1",
        now=["café"],
        files={"rows.txt": "café".encode("cp1252")},
    ),
    "prompts.delimiter": Effect(
        base=source(file="rows.csv"),
        change={"prompts.delimiter": ";"},
        look=attempt,
        was="rows.csv:1",
        now=["hi", "ho"],
        files={"rows.csv": TABLE.replace(b",", b";")},
    ),
    "prompts.template": Effect(
        base=source(file="rows.csv"),
        change={"prompts.template": "{{ prompt }} {{ who }}"},
        look=prompts,
        was=["hi", "ho"],
        now=["hi Ann", "ho Bob"],
        files={"rows.csv": TABLE},
    ),
    "prompts.id": Effect(
        base=source(id="a{{ row }}"),
        change={"prompts.id": "b{{ row }}"},
        look=ids,
        was=["a1", "a2", "a3"],
        now=["b1", "b2", "b3"],
        files={"rows.txt": LINES},
    ),
    "prompts.limit": Effect(
        base=source(),
        change={"prompts.limit": 2},
        look=prompts,
        was=["one", "two", "three"],
        now=["one", "two"],
        files={"rows.txt": LINES},
    ),
    "prompts.on_bad_row": Effect(
        base=source(file="rows.jsonl", on_bad_row="skip"),
        change={"prompts.on_bad_row": "fail"},
        look=attempt,
        was=["a", "c"],
        now="rows.jsonl:2",
        files={"rows.jsonl": BAD_ROW},
    ),
    "matrix": Effect(
        base=paid(params={"seed": 9}),
        change={"matrix": {"seed": [1, 2]}},
        look=lambda bench: [item.params["seed"] for item in bench.items],
        was=[9],
        now=[1, 2],
    ),
    "params": Effect(
        base=paid(),
        change={"params": {"temperature": 0.5, "own": {"deep": 1}}},
        look=lambda bench: {name: bench.body().get(name) for name in ("temperature", "own")},
        was={"temperature": None, "own": None},
        now={"temperature": 0.5, "own": {"deep": 1}},
    ),
    "system": Effect(
        base=paid(),
        change={"system": "Be {{ 1 + 1 }}."},
        look=conversation,
        was=[("user", "one")],
        now=[("system", "Be 2."), ("user", "one")],
    ),
    "messages": Effect(
        base=paid({"vars": {"x": 1}}, messages=TURNS[2:]),
        change={"messages": TURNS},
        look=conversation,
        was=[("user", "go")],
        now=[("user", "first"), ("assistant", "ah"), ("user", "go")],
    ),
    "messages[].role": Effect(
        base=paid({"vars": {"x": 1}}, messages=TURNS),
        change={"messages.0.role": "system"},
        look=lambda bench: conversation(bench)[0],
        was=("user", "first"),
        now=("system", "first"),
    ),
    "messages[].content": Effect(
        base=paid({"vars": {"x": 1}}, messages=TURNS),
        change={"messages.0.content": "x is {{ x }}"},
        look=lambda bench: conversation(bench)[0],
        was=("user", "first"),
        now=("user", "x is 1"),
    ),
    "images_from": Effect(
        base=paid(images=["red.png"]),
        change={"images_from": "pictures"},
        look=shown_or_refused,
        was=["refused"],
        now=["data:image/png;base64,"],
        files={"pictures/red.png": picture("red")},
    ),
    "images": Effect(
        base=paid({"prompt": "a", "vars": {"photo": "red.png"}}),
        change={"images": ["{{ photo }}"]},
        look=lambda bench: (shown(bench), [picture.name for picture in bench.items[0].pictures]),
        was=([], []),
        now=(["data:image/png;base64,"], ["red.png"]),
        files={"red.png": picture("red")},
    ),
    "files": Effect(
        base=chat({"prompt": "a", "vars": {"paper": "a.pdf"}}),
        change={"files": ["{{ paper }}"]},
        look=lambda bench: [file.name for file in bench.items[0].files],
        was=[],
        now=["a.pdf"],
        files={"a.pdf": b"%PDF-1.7"},
    ),
    "schema": Effect(
        base=chat(),
        change={"schema": SCHEMA},
        look=lambda bench: (bench.body().get("response_format", {}).get("type"), bench.rows[0]["output"]["parsed"]),
        was=(None, None),
        now=("json_schema", {"n": 0}),
    ),
    "stream": Effect(
        base=paid(),
        change={"stream": False},
        look=lambda bench: (bench.body()["stream"], bench.request().headers["accept"]),
        was=(True, "text/event-stream"),
        now=(False, "application/json"),
    ),
    "replicas": Effect(
        base=chat({"prompt": "a", "id": "x"}),
        change={"replicas": 3},
        look=lambda bench: (ids(bench), len({item.key for item in bench.items}), len(bench.rows)),
        was=(["x"], 1, 1),
        now=(["x", "x-r2", "x-r3"], 3, 3),
    ),
    "output.name": Effect(
        base=image(output={"format": "png"}),
        change={"output.name": "cat-{{ index }}"},
        look=lambda bench: bench.rows[0]["output"]["images"][0]["path"].split("/")[-1].startswith("cat-1"),
        was=False,
        now=True,
    ),
    "output.report": Effect(
        base=image(),
        change={"output.report": False},
        look=lambda bench: len(bench.rows) == len(list(bench.harness.out.glob("thumbs/*/*.webp"))),
        was=True,
        now=False,
    ),
    "output.ledger": Effect(
        base=image(),
        change={"output.ledger": "s3://bucket/ledger"},
        look=lambda bench: bench.job.output.ledger,
        was=None,
        now="s3://bucket/ledger",
    ),
    "output.upload": Effect(
        base=image(),
        change={"output.upload": "s3://bucket/night"},
        look=lambda bench: bench.job.output.upload,
        was=None,
        now="s3://bucket/night",
    ),
    "output.max_mb": Effect(
        base={**image(), "kind": "media", "provider": {"dialect": "task", "task": "luma", "preset": "simulator"}},
        change={"output.max_mb": 7},
        look=lambda bench: bench.job.output.max_mb,
        was=500,
        now=7,
    ),
    "output.format": Effect(
        base=image(),
        change={"output.format": "webp"},
        look=lambda bench: bench.rows[0]["output"]["images"][0]["format"],
        was="PNG",
        now="WEBP",
    ),
}
