"""Each bad job file gives exactly these mistakes: line, path of the key, what was wrong, what was probably meant."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import batchrunner
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.spec import load_job
from tests.support.growth import calls_within

Mistakes = Callable[..., tuple[Mistake, ...]]

CHAT = "provider: simulator\nmodel: m\nprompts: [a]\n"
IMAGE = "provider: modelscope\nkind: image\nmodel: Qwen/Qwen-Image\nprompts: [a cat]\n"
VECTORS = CHAT + "kind: embedding\n"
SOUNDS = CHAT + "kind: transcription\n"
DEPLOYMENT = "{preset: azure, base_url: https://a.example/openai/deployments/d}"
BARE = "provider: simulator\nmodel: m\n"

Expected = tuple[int | None, str | None, str, str | None]

RESPONSES = "provider: {preset: openai, dialect: openai-responses}\nmodel: m\nprompts: [a]\n"

TABLE: list[tuple[str, str, list[Expected]]] = [
    ("misspelt key", "provder: simulator\nmodel: m\nprompts: [a]",
     [(1, "provder", "is not a known key", "`provider`")]),
    ("misspelt deep key", CHAT + "limits: {concurency: 3}", [(4, "limits.concurency", "not a known", "`concurrency`")]),
    ("key in capitals", CHAT + "Matrix: {a: [1]}", [(4, "Matrix", "not a known key", "`matrix`")]),
    ("key of another part", CHAT + "concurrency: 3", [(4, "concurrency", "not a known key", "under `limits`")]),
    ("parameter at the top", CHAT + "temperature: 0.1", [(4, "temperature", "not a known key", "under `params`")]),
    ("wrong choice", CHAT + "kind: images", [(4, "kind", 'is "images"', "`image`")]),
    ("wrong preset", "provider: modelscop\nmodel: m\nprompts: [a]",
     [(1, "provider", 'is "modelscop"', "`modelscope`")]),
    ("nothing given", "name: x", [
        (None, "provider", "is missing", None), (None, "model", "is missing", None),
        (None, "prompts", "is missing", None)]),
    ("model and models", CHAT + "models: [b]", [(4, "models", "cannot be combined with `model`", None)]),
    ("model twice", "provider: simulator\nmodels: [a, b, a]\nprompts: [x]",
     [(2, "models[2]", "same as models[0]", None)]),
    ("no prompts", BARE + "prompts: []", [(3, "prompts", "is empty", None)]),
    ("prompts without value", BARE + "prompts:", [(3, "prompts", "is empty", None)]),
    ("prompts as text", BARE + "prompts: hello", [(3, "prompts", 'is "hello"', None)]),
    ("empty prompt", BARE + "prompts: ['']", [(3, "prompts[0]", "is empty", None)]),
    ("prompt without text", BARE + "prompts:\n- a\n- {id: b}", [(5, "prompts[1]", "has no `prompt`", None)]),
    ("same id twice", BARE + "prompts:\n- {id: b, prompt: x}\n- {id: b, prompt: y}",
     [(5, "prompts[1].id", "duplicate", "first on line 4")]),
    ("deep param", IMAGE.replace("[a cat]", "\n- a\n- {prompt: b, params: {seed: -1}}"),
     [(6, "prompts[1].params.seed", "-1 is out of range", None)]),
    ("id with a line break", BARE + 'prompts: [{id: "a\\nb", prompt: x}]',
     [(3, "prompts[0].id", "control character", None)]),
    ("endless file name", BARE + f"prompts: {{file: {'x' * 5000}}}", [(3, "prompts.file", "no file or folder", None)]),
    ("certificates gone", "provider: {preset: openai, ca_file: gone.pem}\nmodel: m\nprompts: [a]",
     [(1, "provider.ca_file", "does not exist", None)]),
    ("unknown address", BARE + "prompts:\n  file: ftp://host/a.csv",
     [(4, "prompts.file", 'ftp://host/a.csv", which is no address', None)]),
    ("file by its address", BARE + "prompts:\n  file: file:///tmp/a.csv",
     [(4, "prompts.file", "no address that can be read", "by its path")]),
    ("signed address", BARE + "prompts:\n  file: https://host/a.csv?X-Amz-Signature=abcdef0123456789",
     [(4, "prompts.file", "password or signature", "from the environment")]),
    ("password in an address", BARE + "prompts:\n  file: https://me:secret@host/a.csv",
     [(4, "prompts.file", "password or signature", "from the environment")]),
    ("drawn from a signed address",
     BARE + "prompts:\n  file: https://host/a.csv\n  draw: {x: {file: 'https://host/a.txt?sig=1'}}",
     [(5, "prompts.draw.x.file", "password or signature", "from the environment")]),
    ("no file of a key",
     CHAT.replace("simulator", "{preset: openai, api_key_file: [a.key, a.key, a8F3kQ9zL2mX7vB4nT6yW1cR5]}"), [
        (1, "provider.api_key_file[1]", "names a.key twice", None),
        (1, "provider.api_key_file[2]", "looks like a key itself", None)]),
    ("no command for a key",
     CHAT.replace("simulator", "{preset: openai, api_key_cmd: ['pass x | head', \"pass 'x\", ' ']}"), [
        (1, "provider.api_key_cmd[0]", "uses shell syntax", "sh -c"),
        (1, "provider.api_key_cmd[1]", "quote that is not closed", None),
        (1, "provider.api_key_cmd[2]", "is not a command", None)]),
    ("a key for a server without one", CHAT.replace("simulator", "{preset: openai, auth: none, api_key_file: a.key}"),
     [(1, "provider.auth", "`api_key_file` names a key", None)]),
    ("a key over plain http", CHAT.replace("simulator", "{base_url: 'http://192.0.2.1/v1', api_key_cmd: pass x}"),
     [(1, "provider.base_url", "over plain http", None)]),
    ("upload to a folder", CHAT + "output: {upload: copies/night}",
     [(4, "output.upload", "nothing can be written", None)]),
    ("upload to a web server", CHAT + "output: {upload: 'https://host/x'}",
     [(4, "output.upload", "nothing can be written", None)]),
    ("upload with a key", CHAT + "output: {upload: 's3://key:secret@bucket/x'}",
     [(4, "output.upload", "more than a bucket and a path", "from the environment")]),
    ("results in a store", CHAT + "output: {dir: 's3://bucket/x'}",
     [(4, "output.dir", "local folder only", "`output.upload`")]),
    ("missing source", BARE + "prompts:\n  file: gone.csv", [(4, "prompts.file", "no file or folder gone.csv", None)]),
    ("source without file", BARE + "prompts: {template: x}", [(3, "prompts.file", "is missing", None)]),
    ("zero replicas", CHAT + "replicas: 0", [(4, "replicas", "is 0", None)]),
    ("truth for a number", CHAT + "breaker: true", [(4, "breaker", "is true", None)]),
    ("number for truth", CHAT + "stream: 1", [(4, "stream", "is 1", None)]),
    ("concurrency in words", CHAT + "limits: {concurrency: four}", [(4, "limits.concurrency", 'is "four"', None)]),
    ("half a request", CHAT + "limits: {concurrency: 1.5}", [(4, "limits.concurrency", "is 1.5", None)]),
    ("no time", CHAT + "timeouts: {total_s: 0}", [(4, "timeouts.total_s", "is 0", None)]),
    ("limits as a list", CHAT + "limits: [1]", [(4, "limits", "is [1]", None)]),
    ("matrix value alone", CHAT + "matrix: {seed: 3}", [(4, "matrix.seed", "is 3", None)]),
    ("empty matrix list", CHAT + "matrix: {seed: []}", [(4, "matrix.seed", "is empty", None)]),
    ("own parameter", CHAT + "params: {stream: false}", [(4, "params.stream", "is reserved", "`stream`")]),
    ("own parameter in the matrix", CHAT + "matrix: {model: [a]}", [(4, "matrix.model", "is reserved", "models")]),
    ("chat keys for pictures", IMAGE + "system: x\nstream: true\noutput: {each: a}", [
        (5, "system", "for `kind: chat` only", None), (6, "stream", "for `kind: chat` only", None),
        (7, "output.each", "for `kind: chat` only", None)]),
    ("pictures at anthropic", CHAT.replace("simulator", "anthropic") + "kind: image",
     [(4, "kind", "is image, which anthropic does not have", None)]),
    ("pictures and formats for vectors", VECTORS + "images: [a.png]\nmessages: [{role: user, content: c}]\n"
     "output: {format: png}", [(5, "images", "made of the prompt's text", None),
        (6, "messages", "for `kind: chat` only", None), (7, "output.format", "for `kind: image` only", None)]),
    ("parameters of vectors", VECTORS + "params: {encoding_format: int8, dimensions: 0, input: a}", [
        (5, "params.encoding_format", 'cannot be "int8"', None), (5, "params.dimensions", "cannot be 0", None),
        (5, "params.input", "is reserved", "`prompts`")]),
    ("many inputs where one is sent", CHAT + "limits: {inputs_per_request: 3}",
     [(4, "limits.inputs_per_request", "for `kind: embedding` only", None)]),
    ("a matrix of vectors", VECTORS + "matrix: {dimensions: [8, small]}",
     [(5, "matrix.dimensions", 'cannot be "small"', None)]),
    ("what a transcript is not made of", SOUNDS + "files: [a.mp3, b.mp3]\nimages: [a.png]\nsystem: s\nstream: true", [
        (5, "files", "names several files", None), (6, "images", "which is made of sound", None),
        (7, "system", "for `kind: chat` only", None), (8, "stream", "for `kind: chat` only", None)]),
    ("parameters of transcripts", SOUNDS + "params: {response_format: xml, timestamp_granularities: word, file: a}", [
        (5, "params.response_format", 'cannot be "xml"', None),
        (5, "params.timestamp_granularities", 'cannot be "word"', None),
        (5, "params.file", "is reserved", "`files`")]),
    ("an endpoint that is none", SOUNDS + "params: {endpoint: translation}", [
        (5, "params.endpoint", 'cannot be "translation"', None),
    ]),
    ("the form's own name", SOUNDS + "params: {'timestamp_granularities[]': [word]}",
     [(5, 'params["timestamp_granularities[]"]', "how the form calls it", "`timestamp_granularities`")]),
    ("a matrix of transcripts", SOUNDS + "matrix: {response_format: [srt, sub]}",
     [(5, "matrix.response_format", 'cannot be "sub"', None)]),
    ("transcripts at modelscope", SOUNDS.replace("simulator", "modelscope"),
     [(4, "kind", "is transcription, which modelscope does not have", None)]),
    ("azure without its address", "provider: azure\nmodel: m\nprompts: [a]",
     [(1, "provider", "needs `base_url`: azure has an address for each account", "{preset: azure")]),
    ("a deployment without a version", BARE.replace("simulator", DEPLOYMENT)
     + "prompts: [a]", [(1, "provider.api_version", "is missing: the address of a deployment", None)]),
    ("vectors at anthropic", VECTORS.replace("simulator", "anthropic"),
     [(4, "kind", "is embedding, which anthropic does not have", None)]),
    ("dialect of the other kind", "provider: {preset: openai, dialect: openai-images}\nmodel: m\nprompts: [a]",
     [(1, "provider.dialect", "does not fit `kind: chat`", None)]),
    ("system twice", CHAT + "system: a\nmessages: [{role: system, content: b}, {role: user, content: c}]",
     [(5, "messages[0]", "although `system` is set", None)]),
    ("nobody asks", CHAT + "messages: [{role: assistant, content: b}]",
     [(4, "messages", "no message with `role: user`", None)]),
    ("unknown role", CHAT + "messages: [{role: bot, content: b}]", [(4, "messages[0].role", 'is "bot"', None)]),
    ("template beside messages", BARE + "prompts: {file: ., template: x}\nmessages: [{role: user, content: c}]",
     [(3, "prompts.template", "combined with `messages`", None)]),
    ("name with a slash", CHAT + "name: a/b", [(4, "name", "cannot be the name of a folder", None)]),
    ("name of dots", CHAT + "name: ..", [(4, "name", "cannot be the name of a folder", None)]),
    ("name like a simulated run", CHAT + "name: a.simulated", [(4, "name", "ends with .simulated", None)]),
    ("output is here", CHAT + "output: {dir: .}", [(4, "output.dir", "cannot be the folder of a run", None)]),
    ("answers outside", CHAT + "output: {each: ../x}", [(4, "output.each", "leads out of", None)]),
    ("scenario at a real one", CHAT.replace("simulator", "openai") + "scenario: ok",
     [(4, "scenario", "for the simulator only", None)]),
    ("address of the simulator", "provider: {preset: simulator, base_url: http://x}\nmodel: m\nprompts: [a]",
     [(1, "provider.base_url", "no effect on the simulator", None)]),
    ("provider without place", "provider: {auth: none}\nmodel: m\nprompts: [a]",
     [(1, "provider", "needs `preset` or `base_url`", None)]),
    ("no schema", CHAT + "schema: {type: objekt}", [(4, "schema.type", "not valid JSON Schema", None)]),
    ("schema from elsewhere", CHAT + "schema: {$ref: 'https://x.test/a.json'}",
     [(4, 'schema["$ref"]', "which is not in the schema", None)]),
    ("schema file gone", CHAT + "schema: gone.json", [(4, "schema", "gone.json cannot be read", None)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_bad_job_file_gives_exactly_its_mistakes(
    mistakes: Mistakes, tmp_path: Path, text: str, expected: list[Expected]
) -> None:
    found = mistakes(text)
    assert [(mistake.line, mistake.key) for mistake in found] == [row[:2] for row in expected]
    for mistake, (_line, _key, problem, hint) in zip(found, expected, strict=True):
        assert mistake.file == str(tmp_path / "job.yaml")
        assert problem in mistake.problem
        assert (hint or "") in (mistake.hint or "")


def test_everything_is_stated_at_once_in_the_order_of_the_file(mistakes: Mistakes) -> None:
    text = (
        "name: a/b\nprovider: {preset: modelscope, api_key: x, headers: {X-Api-Key: y}}\nkind: image\n"
        "model: Qwen/Qwen-Image\nprompts:\n- a\n- {id: no, prompt: b}\n- {idd: c, prompt: d}\n"
        "params: {size: 1024*1024, steps: 0}\nlimits: {concurrency: 0}\nretry: {attempts: 5, attempts: 6}\n"
    )
    found = mistakes(text, overrides=["retry.max_wait_s=soon"])
    assert [(mistake.line, mistake.key) for mistake in found] == [
        (1, "name"),
        (2, "provider.api_key"),
        (2, "provider.headers.X-Api-Key"),
        (7, "prompts[1].id"),
        (8, "prompts[2].idd"),
        (9, "params.size"),
        (9, "params.steps"),
        (10, "limits.concurrency"),
        (11, "retry.attempts"),
        (None, "retry.max_wait_s"),
    ]


@pytest.mark.parametrize(
    ("value", "taken_for"),
    [
        ("no", "false"),
        ("on", "true"),
        ("12", "12"),
        ("0123", "octal"),
        ("2026-01-02", "a date"),
        ("1:30", "base-60 number"),
    ],
)
def test_an_id_that_yaml_takes_for_something_else_has_to_be_quoted(
    mistakes: Mistakes, value: str, taken_for: str
) -> None:
    (mistake,) = mistakes(f"{BARE}prompts:\n- {{id: {value}, prompt: x}}\n")
    assert (mistake.line, mistake.key) == (4, "prompts[0].id")
    assert taken_for in mistake.problem
    assert "quotes" in (mistake.hint or "")


def test_a_value_that_may_be_a_word_or_a_truth_has_to_be_written_clearly(mistakes: Mistakes) -> None:
    (mistake,) = mistakes(f"{CHAT}params: {{style: off}}\nstream: no\n")
    assert (mistake.key, mistake.line) == ("params.style", 4)
    assert "write false" in (mistake.hint or "")


@pytest.mark.parametrize("more", ["limits: {concurrency: 0123}", "params: {on: off}", "breaker: 2026-01-01"])
def test_what_is_wrong_with_a_value_is_stated_once(mistakes: Mistakes, more: str) -> None:
    assert len(mistakes(CHAT + more)) == 1


def test_a_missing_file_a_folder_and_a_broken_stem_are_mistakes(tmp_path: Path) -> None:
    (tmp_path / "-.yaml").write_text(CHAT)
    for path, problem in (("gone.yaml", "no such file"), (".", "is a folder"), ("-.yaml", "name of a folder")):
        with pytest.raises(JobMistakesError, match=problem) as caught:
            load_job(str(tmp_path / path))
        assert caught.value.exit_status is ExitStatus.MISTAKE


def test_messages_never_speak_the_type_checkers_language(mistakes: Mistakes) -> None:
    for _name, text, _expected in TABLE:
        for mistake in mistakes(text):
            words = str(mistake).lower()
            assert not any(
                jargon in words for jargon in ("pydantic", "input should", "validation error", "value_error")
            )


@pytest.mark.parametrize(
    ("keys", "key", "product"),
    [
        (
            f"matrix: {{a: {list(range(1000))}, b: {list(range(1000))}, c: {list(range(1000))}}}",
            "matrix",
            "1,000,000,000",
        ),
        (f"matrix: {{{', '.join(f'n{n}: {list(range(10))}' for n in range(9))}}}", "matrix", "1,000,000,000"),
        (f"matrix: {{a: {list(range(2000))}}}\nreplicas: 10000", "matrix", "20,000,000"),
        (f"matrix: {{{', '.join(f'n{n}: [0, 1]' for n in range(40))}}}", "matrix", "1,099,511,627,776"),
    ],
)
def test_a_job_of_too_many_items_is_a_mistake_with_its_number_and_none_of_them_is_made(
    mistakes: Mistakes, keys: str, key: str, product: str
) -> None:
    with calls_within(50_000, of=batchrunner):
        (found,) = mistakes(f"provider: simulator\nmodel: m\nprompts: [a]\n{keys}\n")
    assert found.key == key
    assert f"the job makes {product} items" in found.problem
    assert found.expected == "at most 10,000,000 items"


def test_a_matrix_of_a_source_counts_for_each_row(mistakes: Mistakes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\nx\n")
    axes = ", ".join(f"n{n}: {list(range(10))}" for n in range(8))
    (found,) = mistakes(f"provider: simulator\nmodel: m\nprompts: {{file: a.csv}}\nmatrix: {{{axes}}}\n")
    assert "the job makes 100,000,000 items of each row" in found.problem


@pytest.mark.parametrize(
    ("name", "keys", "key", "says"),
    [
        ("a.csv", "encoding: klingon", "prompts.encoding", "not a text encoding"),
        ("a.csv", "encoding: base64", "prompts.encoding", "not a text encoding"),
        ("a.parquet", "encoding: gbk", "prompts.encoding", "Parquet has an encoding of its own"),
        ("a.csv", "delimiter: ';;'", "prompts.delimiter", "is too long"),
        ("a.csv", "delimiter: ''", "prompts.delimiter", "is empty"),
        ("a.csv", "delimiter: '\"'", "prompts.delimiter", "cannot be"),
        ("a.tsv", "delimiter: ','", "prompts.delimiter", "is for .csv files only"),
        ("a.jsonl", "delimiter: ','", "prompts.delimiter", "is for .csv files only"),
    ],
)
def test_encoding_and_delimiter_are_checked_before_the_file_is_read(  # noqa: PLR0917 - a table's columns
    mistakes: Mistakes, tmp_path: Path, name: str, keys: str, key: str, says: str
) -> None:
    (tmp_path / name).write_text("prompt\nx\n")
    (found,) = mistakes(f"provider: simulator\nmodel: m\nprompts: {{file: {name}, {keys}}}\n")
    assert found.key == key
    assert says in found.problem


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ("schema: pipe.json", "schema"),
        ("kind: image\nprovider: {base_url: http://127.0.0.1:1, dialect: task, task: ./pipe.yaml}", "provider.task"),
        ("kind: image\nprovider: {dialect: task, task: comfyui, body_file: pipe.json}", "provider.body_file"),
    ],
)
def test_a_file_of_the_job_that_is_a_pipe_is_a_mistake_and_not_waited_for(
    tmp_path: Path, keys: str, named: str
) -> None:
    for name in ("pipe.json", "pipe.yaml"):
        os.mkfifo(tmp_path / name)
    provider = "" if "provider" in keys else "provider: simulator\n"
    (tmp_path / "job.yaml").write_text(f"name: job\n{provider}model: sim/a\nprompts: [one]\n{keys}\n", "utf-8")
    with pytest.raises(JobMistakesError) as found:
        load_job(str(tmp_path / "job.yaml"))
    assert "it is not a regular file" in str(found.value)
    assert named in str(found.value)


@pytest.mark.parametrize(
    ("given", "key", "hint"),
    [
        ("max_tokens: 9", "max_tokens", "max_output_tokens"),
        ("max_completion_tokens: 9", "max_completion_tokens", "max_output_tokens"),
        ("response_format: {type: json_object}", "response_format", "schema"),
        ("reasoning_effort: low", "reasoning_effort", "reasoning"),
        ("background: true", "background", "remove"),
    ],
)
def test_parameters_of_chat_are_refused_with_the_name_that_responses_have(
    tmp_path: Path, given: str, key: str, hint: str
) -> None:
    (tmp_path / "job.yaml").write_text(f"{RESPONSES}params: {{{given}}}\n", encoding="utf-8")
    with pytest.raises(JobMistakesError) as caught:
        load_job(str(tmp_path / "job.yaml"))
    (mistake,) = caught.value.mistakes
    assert mistake.key == f"params.{key}"
    assert hint in str(mistake)
    (tmp_path / "job.yaml").write_text(RESPONSES + "params: {max_output_tokens: 9}\n", encoding="utf-8")
    assert load_job(str(tmp_path / "job.yaml")).params == {"max_output_tokens": 9}
