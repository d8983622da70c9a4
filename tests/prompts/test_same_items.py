"""The pass over a job's prompts may become quicker, but not other: every field of every item stays as it was.

The digests were taken before the pass was made quicker. A digest that changes means that a ledger on somebody's disk
no longer knows its items, or that files get other names: change it only where that is what is wanted, and say so.
"""

import asyncio
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.item import Item
from batchrunner.core.job import Json, Source, Turn
from batchrunner.core.plan import PlanningCounter
from batchrunner.core.state import LedgerState
from batchrunner.core.upstream import DoneRow
from batchrunner.prompts import check_items, items_of
from batchrunner.prompts.ids import KeyMaker, item_key
from batchrunner.spec import load_job

EXAMPLES = Path(__file__).resolve().parents[2] / "jobs"
_HEAD = "provider: simulator\nmodel: m\n"
_FILE = "prompts:\n  file: {}\n"

_JSONL = (
    '{"q": "one", "n": 1, "f": 1.0, "s": "a b"}\n'
    '{"q": "zwölf \\u00e9", "n": 12345678901234567890123, "f": 1e300, "s": null}\n'
    '{"q": "one", "n": 1, "f": 1.0, "s": "a b"}\n'
    '{"q": "twice", "q": "later wins", "n": true, "f": [1, {"x": null}], "s": {"k": "v"}}\n'
    "\n"
    '{"q": "no number", "f": -0.0, "s": "x"}\r\n'
    '{"q": "bad", "n": NaN}\n'
    '{"q": "half \\ud800", "n": 1}\n'
    '{"q": "pair \\ud83d\\ude00 \\\\ud800", "n": 2, "f": 2, "s": "<b>&amp;</b>"}\n'
    '{"q": "", "n": 3, "f": 0, "s": ""}\n'
    '{"q": "  \\t ", "n": 3, "f": 0, "s": ""}\n'
    '["no object"]\n'
    "nothing\n"
    '{"q": "CON", "n": 3, "f": 0, "s": "Con.txt", "row": "own row", "dict": "own dict", "loop": 1}\n'
    '{"q": "../../etc", "n": 3, "f": 0, "s": "日本語", "Sub Category": "alias", "1st": "digit"}\n'
    '{"q": "control \\u0001\\u2028\\u007f \\"quoted\\" back\\\\slash /", "n": 3, "f": 0, "s": "%E4"}\n'
)
_CSV = 'q,n,Sub Category,s\none,1,x,y\n"two\nlines, and ""quotes""",2,é,\none,1,x,y\nfew,1\n\n,,,\n日本,3,,🎉\n'
_MANY = "".join(json.dumps({"q": f"thing {n % 1_700}", "n": n, "s": "s" * (n % 7)}) + "\n" for n in range(2_300))
_LISTED = """\
prompts:
- plain
- plain
- '{{ 1 + 1 }} braces'
- prompt: 'of {{ x }} and {{ tone }}'
  vars: {x: {deep: [1, 2.50, null]}}
- prompt: with id
  id: Mine/and yours
  params: {temperature: 0.5, top_p: 1, stop: [a, b]}
- prompt: the same id in other case
  id: mine/AND yours
- id: con
  prompt: plain
- id: plain-d2a98a
  prompt: something else
- prompt: "half\\tlines\\n\\u2028 \\x01 \\"q\\" \\\\ ü 漢字 🎉"
- prompt: nothing but marks ---
- prompt: 'ＦＵＬＬ width ﬁ ligature'
- 'Ünïcode Prompt that is very much longer than the forty characters of a slug can be'
"""

JOBS: dict[str, tuple[str, dict[str, str]]] = {
    "listed": (_HEAD + _LISTED.replace("{{ tone }}", "none"), {}),
    "listed with matrix": (
        "provider: simulator\nmodels: [a/One, b/Two, c/One]\nreplicas: 3\n"
        "matrix:\n  tone: [sober, sober!, 1, 1.0, null]\n  temperature: [0, 0.0, 1]\n" + _LISTED,
        {},
    ),
    "listed with matrix of parameters": (
        _HEAD + "matrix: {seed: [1, 2], size: ['1x1', 'ä']}\n" + _LISTED.replace("{{ tone }}", "none"),
        {},
    ),
    "listed, plain, with replicas": (_HEAD + "replicas: 2\nprompts: [a, b, a, con, CON]\n", {}),
    "listed, plain": (_HEAD + "prompts: [a, b, a, a, con, CON, 'a-2', '漢字', '漢字', nul.txt]\n", {}),
    "listed, named files": (
        _HEAD + "output: {name: '{{ id[:3] }} {{ model }}', each: 'x/{{ index }}-{{ t }}.md'}\nparams: {t: 1}\n"
        "prompts: [aaaa, aaab, AAAC, con]\n",
        {},
    ),
    "listed, unknown name in files": (
        _HEAD + "output: {name: '{{ nope }}', each: 'x/{{ nor }}.md'}\nprompts: [aaaa, aaab]\n",
        {},
    ),
    "listed, unknown variables": (
        _HEAD
        + "system: '{{ z }}'\nprompts: ['{{ x }}', {prompt: '{{ y }}', vars: {z: 1}}, '{{ row }}', '{% for %}']\n",
        {},
    ),
    "listed, repeated ids": (
        _HEAD + "prompts: [{id: a, prompt: x}, {id: a, prompt: y}, {id: ' ', prompt: z}, {id: b, prompt: x}]\n",
        {},
    ),
    "listed, empty": (_HEAD + "prompts: [' ', '{{ \"\" }}', '{{ none }}', ok]\n", {}),
    "messages": (
        _HEAD + "messages:\n- {role: system, content: 'Be {{ tone }}.'}\n- {role: user, content: hi}\n"
        "- {role: assistant, content: yes?}\n- {role: user, content: '{{ prompt }} in {{ lang }}'}\n"
        "matrix: {tone: [kind, curt]}\n"
        "prompts:\n- {prompt: 'p{{ lang }}', vars: {lang: en}}\n- {prompt: q, vars: {lang: de}}\n",
        {},
    ),
    "system that may be empty": (
        _HEAD + "system: '{% if x %}Be brief{% endif %}'\n"
        "prompts: [{prompt: a, vars: {x: true}}, {prompt: a, vars: {x: false}}]\n",
        {},
    ),
    "schema": (
        _HEAD + "stream: false\nschema: {type: object, properties: {a: {type: string}}}\nprompts: [x, 'y {{ row }}']\n",
        {},
    ),
    "pictures": (
        "provider: simulator\nkind: image\nmodel: m\nmatrix: {size: ['1x1', '2x2']}\nprompts: [x, y, x]\n",
        {},
    ),
    "pictures for chat": (
        _HEAD + "images: ['https://x.test/{{ row }}.png']\n"
        "prompts: [x, {prompt: y, images: ['https://x.test/own.png']}, {prompt: z, images: []}]\n",
        {},
    ),
    "jsonl": (
        _HEAD + _FILE.format("rows.jsonl") + "  template: 'Say {{ q }} of {{ n }}!\n\n    Now.'\n  on_bad_row: skip\n",
        {"rows.jsonl": _JSONL},
    ),
    "jsonl, every bad row": (
        _HEAD + _FILE.format("rows.jsonl") + "  template: 'Say {{ q }} of {{ n }} {{ s }}'\n",
        {"rows.jsonl": _JSONL},
    ),
    "jsonl, filters and blocks": (
        _HEAD
        + _FILE.format("rows.jsonl")
        + "  template: '{% if n %}{{ q|upper }}{% endif %} {{ f }} {{ row }} {# c #}'\n"
        "  id: '{{ q }}-{{ row }}'\n  on_bad_row: skip\nsystem: 'S {{ s }}'\n",
        {"rows.jsonl": _JSONL},
    ),
    "jsonl, names of globals": (
        _HEAD + _FILE.format("rows.jsonl") + "  template: '{{ q }} {{ dict }} {{ row }}'\n  on_bad_row: skip\n",
        {"rows.jsonl": _JSONL},
    ),
    "jsonl, repeated ids": (
        _HEAD + _FILE.format("rows.jsonl") + "  template: '{{ q }}'\n  id: '{{ q }}'\n",
        {"rows.jsonl": _JSONL},
    ),
    "jsonl, params of the row": (
        _HEAD + _FILE.format("rows.jsonl") + "  template: '{{ q }}'\n  on_bad_row: skip\n"
        "params: {seed: '{{ n }}', stop: ['{{ f }}', 'x{{ s }}'], fixed: 1}\n",
        {"rows.jsonl": _JSONL},
    ),
    "jsonl, aliases": (
        _HEAD
        + _FILE.format("rows.jsonl")
        + "  template: '{{ q }} {{ Sub_Category }} {{ _1st }}'\n  on_bad_row: skip\n",
        {"rows.jsonl": _JSONL},
    ),
    "jsonl, all bad": (
        _HEAD + _FILE.format("rows.jsonl") + "  template: '{{ q }}'\n  on_bad_row: skip\n",
        {"rows.jsonl": "[]\n1\n"},
    ),
    "jsonl, many": (
        _HEAD + _FILE.format("rows.jsonl") + "  template: '{{ q }}{{ s }}'\nsystem: 'Be brief.'\n",
        {"rows.jsonl": _MANY},
    ),
    "jsonl, many with models and matrix": (
        "provider: simulator\nmodels: [x, y]\nmatrix: {t: [1, 2]}\nparams: {seed: 3}\n"
        + _FILE.format("rows.jsonl")
        + "  template: '{{ q }}{{ t }}'\n  limit: 700\n",
        {"rows.jsonl": _MANY},
    ),
    "jsonl, many, no template": (
        _HEAD + _FILE.format("rows.jsonl"),
        {"rows.jsonl": _MANY.replace('"q"', '"Prompt"')},
    ),
    "jsonl, output too long": (
        _HEAD + _FILE.format("rows.jsonl") + "  template: '" + "{{ q }}" * 3 + "'\n",
        {"rows.jsonl": json.dumps({"q": "x" * 1_500_000}) + "\n" + json.dumps({"q": "x"}) + "\n"},
    ),
    "csv": (
        _HEAD + _FILE.format("rows.csv") + "  template: '{{ q }}: {{ Sub_Category }} {{ s }}'\n  on_bad_row: skip\n",
        {"rows.csv": _CSV},
    ),
    "csv, bad rows": (_HEAD + _FILE.format("rows.csv") + "  template: '{{ q }}'\n", {"rows.csv": _CSV}),
    "csv, unknown column": (_HEAD + _FILE.format("rows.csv") + "  template: '{{ z }}'\n", {"rows.csv": _CSV}),
    "tsv": (_HEAD + _FILE.format("rows.tsv") + "  template: '{{ a }} {{ b }}'\n", {"rows.tsv": 'a\tb\n1\t2\n"x\t\n'}),
    "txt": (_HEAD + _FILE.format("rows.txt") + "system: S\n", {"rows.txt": "one\n\n two \r\none\n{{ x }}\n\tnine"}),
    "txt, template": (
        _HEAD + _FILE.format("rows.txt") + "  template: '{{ line }} {{ row }}'\n",
        {"rows.txt": "one\n\n two \r\none\n{{ x }}\n\tnine"},
    ),
    "folder": (
        _HEAD + _FILE.format("texts"),
        {"texts/a.txt": "A text", "texts/b.txt": "A text", "texts/c/d.md": "{{ x }}"},
    ),
    "batch file": (
        "provider: {preset: openai, api_key_env: K}\nmodels: [m, n]\nsystem: S\n" + _FILE.format("b.jsonl"),
        {
            "b.jsonl": "".join(
                json.dumps(
                    {
                        "custom_id": f"r{n}",
                        "method": "POST",
                        "url": "/v1/chat/completions",
                        "body": {
                            "messages": [{"role": "user", "content": f"hi {n}", **({"name": "x"} if n == 2 else {})}],
                            "temperature": n,
                            **({"model": "n"} if n == 3 else {}),
                        },
                    }
                )
                + "\n"
                for n in (1, 2, 3, 3)
            )
        },
    ),
    "same keys in mistakes": (
        _HEAD + "promts: 1\nlimits: {concurency: 1}\nkeya: 1\nkeya: 2\n'sk-abcdefghij1234567890': 1\n"
        "prompts: [{prompt: x, temperature: 1}, {promt: y}, '', 3, no, {prompt: 'Bearer abcdefgh1234567890'}]\n"
        "params: {x: no, y: 'key AIzaSyA1234567890abcdefghijk and hf_abcdefghij1234567890x'}\n",
        {},
    ),
    "many unknown keys": (_HEAD + "prompts: [a]\n" + "".join(f"modle{n}: {n}\n" for n in range(300)), {}),
}

DIGESTS: dict[str, str] = {
    "listed": "29fee045fbd5c9a6",
    "listed with matrix": "af9933cab143c663",
    "listed with matrix of parameters": "7615046859f2a1c2",
    "listed, plain, with replicas": "842fe01b3fe32da5",
    "listed, plain": "3d6155b24e195a36",
    "listed, named files": "cae5a064f1e5094b",
    "listed, unknown name in files": "3cefb8ba149cf0bd",
    "listed, unknown variables": "4d68aaed60c2f0c1",
    "listed, repeated ids": "62d2f1236f8eabb1",
    "listed, empty": "9c5aafd4bfaec769",
    "messages": "2513e39dfcd1268e",
    "system that may be empty": "8cbeeec65c555e16",
    "schema": "b6a3c153aa36b312",
    "pictures": "70bf7c78b433b85e",
    "pictures for chat": "9632a15ee7094525",
    "jsonl": "fc9525d66489f074",
    "jsonl, every bad row": "1627ca9c0dd7143d",
    "jsonl, filters and blocks": "efed28c3eba3e611",
    "jsonl, names of globals": "724e0bc65a65c7f8",
    "jsonl, repeated ids": "1b7370144e456b1a",
    "jsonl, params of the row": "13377605a8045841",
    "jsonl, aliases": "b79bda0a422f763b",
    "jsonl, all bad": "fc242724c39fd23c",
    "jsonl, many": "5058a62eaaa9d461",
    "jsonl, many with models and matrix": "0305992884f4fda9",
    "jsonl, many, no template": "06b6a2068bf1796b",
    "jsonl, output too long": "3155a099f9bce4d6",
    "csv": "b0a07e8dbcb88d6a",
    "csv, bad rows": "6f35b25be29f4e18",
    "csv, unknown column": "d96bf425512ed234",
    "tsv": "c0d80f2e5a6d7fb1",
    "txt": "e0432f2e8b1932c2",
    "txt, template": "0c2782061fcbf237",
    "folder": "8528e238f006fff7",
    "batch file": "c9359a7ef9cf14c6",
    "same keys in mistakes": "90a7908cc624fd61",
    "many unknown keys": "a19f546a7a760042",
    "anthropic-messages.yaml": "12aa1f002abc4e7f",
    "batch-rehearsal.yaml": "970f6858f25ba19f",
    "captions-for-lora.yaml": "bba3f7c0f903fcb7",
    "compare.yaml": "f75d721217c964e8",
    "compare-models.yaml": "97990cfed82358d5",
    "critique.yaml": "b6e2497412296e52",
    "demo-chat.yaml": "ef1394153a210afb",
    "demo-images.yaml": "0af7c92c0fc229ac",
    "describe-pictures.yaml": "66c085441164d688",
    "edit-pictures.yaml": "5b0a998da7da1a3c",
    "video.yaml": "c93122ca9554bbf7",
    "embed.yaml": "b63332cf01676c05",
    "evaluate-gsm8k.yaml": "c6588245c4ace3b6",
    "fallback.yaml": "0937793eed0fe47b",
    "judge.yaml": "a1cf87b59dac4342",
    "local-server.yaml": "943d72ffc9c75039",
    "modelscope-chat.yaml": "542e1bf1853defeb",
    "modelscope-images.yaml": "fe2f7cbdb82554e0",
    "openai-batch-file.yaml": "eb23bbbf25a86452",
    "openai-responses.yaml": "86282f16a6aebeca",
    "openai-images.yaml": "839a2053601db566",
    "pictures-from-csv.yaml": "b8d5309878d4a98c",
    "qa-from-texts.yaml": "f298538742903286",
    "questions-from-csv.yaml": "1ee79614b4f7a6a5",
    "questions-from-parquet.yaml": "331c0268b98ecb3d",
    "read-documents.yaml": "a08ee08963c173cf",
    "structured-answers.yaml": "f8bd3c7c618430bd",
    "comfyui.yaml": "1a4da591d4143723",
    "task-server.yaml": "28ab01671afb53a5",
    "texts-from-folder.yaml": "bdfb22e52ed20bea",
    "transcribe.yaml": "d5f1ecfba95f475a",
    "tools.yaml": "637f65a1b74402fa",
}


def _shown(item: Item) -> str:
    turns = [(turn.role, turn.content, turn.raw, turn.raw_decides) for turn in item.turns]
    pictures = [(picture.name, picture.sha256, picture.url, picture.detail) for picture in item.pictures]
    names = (item.id, item.prompt_id, item.index, item.key, item.model, item.stem, item.replica)
    rest = (item.prompt, item.schema, item.schema_sha256, item.stream, item.shows_messages)
    files = [(file.name, file.sha256, file.url) for file in item.files]
    more = (files,) if files else ()
    return repr((names, turns, list(item.vars.items()), list(item.params.items()), pictures, rest, *more))


def _mistakes_as_text(mistakes: tuple[Mistake, ...]) -> Iterator[str]:
    for mistake in mistakes:
        yield repr((mistake.problem, mistake.file, mistake.line, mistake.key, mistake.expected, mistake.hint))


class FixedRun:
    """The run that an example reads: an answer with a list, and a picture that is not there."""

    def rows(self, *, with_scores: bool) -> Iterator[DoneRow]:
        del with_scores
        pairs: list[Json] = [{"question": f"What is {n}?", "answer": str(n % 2)} for n in range(3)]
        output: dict[str, Json] = {"text": "…", "truncated": False, "parsed": {"items": pairs}}
        yield {"id": "one", "index": 1, "prompt": "p", "vars": {"name": "bridge"}, "output": output}, None
        picture: dict[str, Json] = {"images": [{"path": "images/two.png"}], "truncated": True}
        yield {"id": "two", "index": 2, "prompt": "q", "vars": {"name": "boat"}, "output": picture}, None

    def has_scores(self) -> bool:
        return False

    def unreadable(self) -> list[int]:
        return []


def _everything(path: str) -> list[str]:
    """All that a job's prompts come to: every field of the items, the labels, and what is wrong, in order."""
    try:
        job = load_job(path)
    except JobMistakesError as error:
        return [
            *_mistakes_as_text(error.mistakes),
            *(_mistakes_as_text(asyncio.run(check_items(error.partial))) if error.partial else ()),
        ]
    counter = PlanningCounter(state=LedgerState())
    found: list[str] = []
    upstream = FixedRun() if isinstance(job.prompts, Source) and job.prompts.run else None

    async def stream() -> None:
        async for batch in items_of(job, upstream).batches():
            counter.take(batch)
            found.extend(map(_shown, batch))

    try:
        asyncio.run(stream())
    except JobMistakesError as error:
        found += ["stopped", *_mistakes_as_text(error.mistakes)]
    survey = counter.result(skipped_rows=0)
    found.append(repr((survey.labels, survey.total, survey.shared, survey.per_model, survey.prompt_chars)))
    return [*found, "check", *_mistakes_as_text(asyncio.run(items_of(job, upstream).mistakes()))]


def _digest(path: str) -> str:
    return sha256(chr(10).join(_everything(path)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_comes_to_the_same_items_and_mistakes_as_ever(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, files = JOBS[name]
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content.encode())
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert _digest("job.yaml") == DIGESTS[name], "\n".join(_everything("job.yaml"))[:20_000]


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_an_example_comes_to_the_same_items_as_ever(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    assert _digest(name) == DIGESTS[name], "\n".join(_everything(name))[:20_000]


_TEXTS = ("", "plain", "ü 漢字 🎉", '"quoted" \\ / \x00\x1f\x7f', "\u2028\ud800 alone", "\t\n\r\b\f", '[],"version":1}')


@pytest.mark.parametrize("text", _TEXTS)
@pytest.mark.parametrize("params", [{}, {"b": [1, 1.0, None], "a": '[],"version":1}'}])
def test_a_key_made_from_a_kept_beginning_is_the_key_of_the_whole(text: str, params: dict[str, Json]) -> None:
    raw: dict[str, Json] = {"role": "user", "content": text, "name": "x"}
    fixed: dict[str, Json] = {"role": "user"}
    for turns in (
        (Turn(role="user", content=text),),
        (Turn(role="system", content=text), Turn(role="user", content=text)),
        (Turn(role="user", content=text, raw=fixed), Turn(role="user", content=text, raw=raw, raw_decides=True)),
    ):
        maker = KeyMaker(dialect="openai-chat", model=text, params=params, schema_digest="5e", replica=2)
        whole = item_key(dialect="openai-chat", model=text, turns=turns, params=params, schema_digest="5e", replica=2)
        assert maker.key(turns) == maker.key(turns) == whole
