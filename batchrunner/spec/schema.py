"""The job file described for editors and for people: its JSON Schema, and a file to start from."""

import json
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from batchrunner.core import VERSION
from batchrunner.core.job import Json
from batchrunner.spec.models import PARTS, JobSpec

TITLE: Final = "batchrunner job"
_MADE_BY: Final = "batchrunner "
_DEFAULT_VALUES: Final[dict[str, Json]] = {
    "limits.concurrency": "auto",
    "limits.poll_per_second": 10,
    "prompts.delimiter": ",",
    "prompts.encoding": "UTF-8",
    "limits": {},
    "retry": {},
    "timeouts": {},
    "output": {},
}
"""Defaults that the types do not have: they are settled with other keys."""
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def job_schema() -> dict[str, Json]:
    """JSON Schema (2020-12) of a job file, with a description, a default and an example of every key."""
    generated: dict[str, Json] = JobSpec.model_json_schema(by_alias=True)
    schema = {"$schema": _DIALECT, "$comment": f"{_MADE_BY}{VERSION}", **_untitled(generated), "title": TITLE}
    _describe(schema)
    return schema


def _describe(schema: dict[str, Any]) -> None:
    """Add what editors show: a default, an example, and a text with both and the place where more is said."""
    del schema["properties"]["provider"]["default"]  # it is required: no null in its place
    provider = schema["properties"]["provider"].pop("anyOf")
    schema["properties"]["provider"] |= next(form for form in provider if form.get("type") != "null")
    for part, model in PARTS.items():
        place = schema["$defs"][model.__name__] if part else schema
        for key, value in place["properties"].items():
            path = ".".join((*part, key))
            assert path in EXAMPLES, f"`{path}` has no example: add one to EXAMPLES in spec/schema.py"
            example = EXAMPLES[path]
            value["examples"] = [yaml.safe_load(example)[key]]
            if path in _DEFAULT_VALUES:
                value["default"] = _DEFAULT_VALUES[path]
            default = f"Default: {DEFAULTS[path]}. " if path in DEFAULTS else ""
            section = part[0] if part else "the-job"
            value["markdownDescription"] = (
                f"{value['description']}\n\n{default}Example: `{example}`\n\n"
                f"More: `batchrunner explain {path}`, docs/job-file.md#{section}"
            )


TEMPLATES: Final[dict[str, str]] = {
    "chat": "questions to a chat model",
    "images": "pictures of prompts and a matrix",
    "embeddings": "vectors of texts, many in one request",
    "evaluate": "questions to several models, with checks and a comparison",
    "dataset": "records that fit a schema, several for each combination of a matrix",
    "judge": "questions without one right answer, and a model that rates the answers",
    "pipeline": "two jobs: answers, and a rating of each answer",
}
"""Name -> what it is for."""
FURTHER_JOBS: Final[dict[str, tuple[str, ...]]] = {"pipeline": ("critique",), "judge": ("helpful",)}
"""What stands beside the job of a template: names of further jobs, in their order."""


def starter_job(template: str = "chat") -> str:
    """The text of a commented job file that passes `check` as it stands.

    Args:
        template: one of `TEMPLATES`, or, for a job that stands beside another, `pipeline-critique`.
    """
    return files("batchrunner.spec").joinpath("templates", f"{template}.yaml").read_text(encoding="utf-8")


SCHEMA_FILE: Final = "batchrunner.schema.json"
"""The name under which `init` writes the schema beside a job file."""
MODELINE: Final = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
"""The first line of a job file, by which editors find the schema."""
_MODELINE: Final = re.compile(r"^#\s*yaml-language-server:\s*\$schema=(\S+)\s*$", re.MULTILINE)
_HEAD_CHARS: Final = 2000


def schema_text() -> str:
    """The schema as a file."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"


def stale_schema(job_file: str) -> str | None:
    """A note where the schema that a job file names for editors is of another version than this program.

    None where it is up to date, names none, or names something else.
    """
    try:
        with Path(job_file).open(encoding="utf-8") as file:
            named = _MODELINE.search(file.read(_HEAD_CHARS))
        if named is None or "://" in named[1]:
            return None
        path = Path(job_file).resolve().parent / named[1]
        there = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # it is for editors: no reason to say more
        return None
    if not isinstance(there, dict) or there.get("title") != TITLE or there == job_schema():
        return None
    made_by = str(there.get("$comment", "")).removeprefix(_MADE_BY)
    of = f"of batchrunner {made_by}" if made_by and made_by != VERSION else "of another version"
    return f"the schema {path} for editors is {of}; renew it: batchrunner schema > {shlex.quote(str(path))}"


def _untitled(part: dict[str, Json]) -> dict[str, Json]:
    """Without the titles that repeat the keys."""
    return {
        key: _below(value, named=key in ("properties", "$defs"))
        for key, value in part.items()
        if not (key == "title" and isinstance(value, str))
    }


def _below(value: Json, *, named: bool) -> Json:
    match value:
        case dict() if named:
            return {name: _below(part, named=False) for name, part in value.items()}
        case dict():
            return _untitled(value)
        case list():
            return [_below(entry, named=False) for entry in value]
        case _:
            return value


# What the schema cannot have from the types: defaults that depend on other keys, notes, an example of each key.

DEFAULTS: Final[dict[str, str]] = {
    "name": "the file's name",
    "provider": "required",
    "model": "this or `models`",
    "models": "this or `model`",
    "prompts": "required",
    "stream": "`true` for chat",
    "durability": "`full` for images, `result` for chat",
    "timezone": "the machine's",
    "provider.dialect": "by preset and `kind`",
    "provider.task": "none",
    "provider.base_url": "the preset's, or the table's",
    "provider.api_key_env": "the preset's",
    "provider.auth": "the preset's",
    "provider.points_per_day": "200 at ModelScope",
    "provider.points_per_call": "1 at ModelScope",
    "prompts.delimiter": "`,`",
    "prompts.id": "made from the content, or as in the run",
    "prompts.unfinished": "`stop`",
    "prompts.sample.by": "`id`, or the whole row",
    "prompts.encoding": "UTF-8",
    "prompts.[].id": "made from the text",
    "limits.concurrency": "`auto`",
    "limits.in_flight_tasks": "20 at ModelScope, 8 with `dialect: task`",
    "limits.poll_per_second": "10, or the table's",
    "limits.inputs_per_request": "25, 128 at OpenAI",
    "output.dir": "`outputs/NAME`",
    "output.format": "as sent",
    "reuse": "none",
    "models.on": "all of them",
    "models.after": "`10m`",
    "batch.max_items": "the provider's",
    "batch.look_every": "30s at first, later 5m",
    "batch.give_up": "an hour after it expires, or 26h",
}
"""Where the schema says null, because the value depends on something else."""

NOTES: Final[dict[str, str]] = {
    "images": "A local file has at most 20 MB.",
    "files": "A local file has at most 20 MB; its bytes decide what it is. An empty text gives no file. "
    "A sound to be transcribed has at most 25 MiB.",
    "durability": "With `result` a power cut may hide a few requests; `status` says how many at most.",
    "params": "What batchrunner writes itself (`model`, `prompt`, `messages`, `stream`) is rejected here.",
    "batch": "See [batches](batches.md).",
    "models": "See [fallbacks](fallbacks.md).",
    "window": "Hours that touch are one window. As text with days: `mon-fri 22:00-07:00; sat,sun`.",
    "on_quota": "Also when an earlier run met the quota.",
    "provider.preset": "Without one, `base_url` is required, and no key is sent unless `api_key_env` names it.",
    "provider.base_url": "A pasted end such as `/chat/completions` is removed.",
    "provider.ca_file": "Verification cannot be switched off.",
    "limits.concurrency": "See [limits](running.md#limits).",
    "limits.requests_per_day": "It waits for the provider's midnight.",
    "retry.max_wait_s": "If a server asks for a longer wait, the lane parks until then.",
    "output.name": "After a change, pictures that are there keep their names.",
}
"""What the table says after the key's description."""

EXAMPLES: Final[dict[str, str]] = {
    "name": "name: cats",
    "provider": "provider: modelscope",
    "kind": "kind: image",
    "model": "model: Qwen/Qwen3-8B",
    "models": "models: [Qwen/Qwen3-8B, Qwen/Qwen3-32B]",
    "models.first": "first: Qwen/Qwen3-32B",
    "models.then": "then: [Qwen/Qwen3-8B, Qwen/Qwen3-4B]",
    "models.on": '"on": [content_filter, quota]',
    "models.after": "after: 30m",
    "prompts": "prompts: [Name one use of a paper clip.]",
    "matrix": "matrix: {seed: [1, 2, 3]}",
    "params": "params: {temperature: 0.7, max_tokens: 400}",
    "system": "system: Answer in one sentence.",
    "messages": 'messages: [{role: user, content: "{{ prompt }}"}]',
    "images": 'images: ["{{ photo }}"]',
    "files": 'files: ["{{ paper }}"]',
    "images_from": "images_from: [data/pictures]",
    "schema": "schema: data/answer.schema.json",
    "stream": "stream: false",
    "replicas": "replicas: 5",
    "durability": "durability: full",
    "on_ambiguous": "on_ambiguous: hold",
    "on_quota": "on_quota: stop",
    "breaker": "breaker: 50",
    "timeouts": "timeouts: {total_s: 1200}",
    "limits": "limits: {requests_per_minute: 60}",
    "retry": "retry: {attempts: 3}",
    "output": "output: {format: png}",
    "window": "window: 22:00-07:00",
    "window.[].days": "days: mon-fri",
    "window.[].hours": "hours: 22:00-07:00",
    "timezone": "timezone: Asia/Shanghai",
    "deadline": 'deadline: "07:00"',
    "budget": "budget: {calls: 500}",
    "batch": "batch: {use: auto, max_wait: 24h}",
    "reuse": "reuse: [outputs/first]",
    "cache": "cache: system",
    "batch.use": "use: always",
    "batch.max_items": "max_items: 5000",
    "batch.max_wait": "max_wait: 12h",
    "batch.look_every": "look_every: 2m",
    "batch.rest": "rest: wait",
    "batch.on_lost": "on_lost: resend",
    "batch.give_up": "give_up: 48h",
    "notify": "notify: [./send-mail.sh, done]",
    "scenario": "scenario: throttle:3",
    "notify.command": "command: [./send-mail.sh, done]",
    "notify.apprise_env": "apprise_env: MY_PHONE",
    "notify.on": '"on": [ended, first_failure]',
    "provider.preset": "preset: openai",
    "provider.dialect": "dialect: anthropic-messages",
    "provider.task": "task: bfl",
    "provider.body_file": "body_file: graph.json",
    "provider.base_url": 'base_url: "http://127.0.0.1:8000/v1"',
    "provider.api_key_env": "api_key_env: [KEY_ONE, KEY_TWO]",
    "provider.api_key_file": "api_key_file: $CREDENTIALS_DIRECTORY/openai",
    "provider.api_key_cmd": "api_key_cmd: pass show openai",
    "provider.headers": "headers: {X-Team: evals}",
    "provider.proxy": 'proxy: "http://proxy:3128"',
    "provider.proxy_auth_env": "proxy_auth_env: PROXY_LOGIN",
    "provider.api_version": 'api_version: "2024-10-21"',
    "provider.allow_http": "allow_http: true",
    "provider.auth": "auth: api-key",
    "provider.ca_file": "ca_file: our-ca.pem",
    "provider.points_per_day": "points_per_day: 200",
    "provider.points_per_call": "points_per_call: {Qwen/Qwen-Image: 2}",
    "provider.balance": "balance: true",
    "prompts.file": "file: data/questions.csv",
    "prompts.run": "run: outputs/questions",
    "prompts.images": 'images: ["{{ image }}"]',
    "prompts.where": 'where: "{{ pass and not truncated }}"',
    "prompts.sample": "sample: {n: 500, seed: 7}",
    "prompts.sample.n": "n: 500",
    "prompts.sample.seed": "seed: 7",
    "prompts.sample.by": "by: prompt_id",
    "prompts.explode": 'explode: "{{ parsed.items }}"',
    "prompts.dedupe": "dedupe: text",
    "prompts.group": "group: {by: topic, size: 5}",
    "prompts.group.by": "by: topic",
    "prompts.group.size": "size: 5",
    "prompts.draw": "draw: {topic: [frogs, tides], tone: [dry, warm]}",
    "prompts.draw.{}.file": "file: data/questions.csv",
    "prompts.draw.{}.column": "column: subject",
    "prompts.draw.{}.size": "size: 3",
    "prompts.seed": "seed: 7",
    "prompts.count": "count: 10000",
    "prompts.unfinished": "unfinished: take",
    "prompts.template": 'template: "{{ question }}"',
    "prompts.id": 'id: "q{{ row }}"',
    "prompts.limit": "limit: 100",
    "prompts.encoding": "encoding: gb18030",
    "prompts.delimiter": 'delimiter: ";"',
    "prompts.on_bad_row": "on_bad_row: skip",
    "prompts.[].id": "id: blue",
    "prompts.[].prompt": "prompt: A blue {{ animal }}",
    "prompts.[].params": "params: {seed: 7}",
    "prompts.[].vars": "vars: {animal: cat}",
    "prompts.[].images": "images: [data/pictures/boat.png]",
    "messages.[].role": "role: user",
    "messages.[].content": 'content: "{{ prompt }}"',
    "timeouts.connect_s": "connect_s: 5",
    "timeouts.first_byte_s": "first_byte_s: 300",
    "timeouts.idle_s": "idle_s: 60",
    "timeouts.total_s": "total_s: 1200",
    "timeouts.task_s": "task_s: 1800",
    "timeouts.download_s": "download_s: 60",
    "limits.concurrency": "concurrency: 8",
    "limits.requests_per_minute": "requests_per_minute: 60",
    "limits.tokens_per_minute": "tokens_per_minute: 100000",
    "limits.requests_per_day": "requests_per_day: 200",
    "limits.in_flight_tasks": "in_flight_tasks: 5",
    "limits.poll_per_second": "poll_per_second: 2",
    "limits.inputs_per_request": "inputs_per_request: 10",
    "retry.attempts": "attempts: 3",
    "retry.max_wait_s": "max_wait_s: 600",
    "output.dir": "dir: outputs/cats",
    "output.format": "format: png",
    "output.max_mb": "max_mb: 2000",
    "output.name": 'name: "{{ id }}"',
    "output.each": 'each: "answers/{{ id }}.md"',
    "output.report": "report: false",
    "output.upload": "upload: s3://my-bucket/night",
    "output.ledger": "ledger: s3://my-bucket/night-ledger",
    "budget.calls": "calls: 500",
    "budget.tokens": "tokens: 2000000",
    "budget.points": "points: 200",
    "budget.money": "money: 20",
    "budget.currency": "currency: CNY",
    "budget.prices": "prices: {Qwen/Qwen3-8B: {input: 0.5, output: 2}}",
    "budget.prices_from": "prices_from: data/prices.json",
    "budget.prices.{}.input": "input: 0.5",
    "budget.prices.{}.output": "output: 2",
    "budget.prices.{}.cache_read": "cache_read: 0.05",
    "budget.prices.{}.cache_write": "cache_write: 0.6",
    "budget.prices.{}.picture": "picture: 0.1",
    "budget.prices.{}.call": "call: 0.01",
    "budget.prices.{}.batch": "batch: 0.5",
    "checks": 'checks: [{contains: ["####"]}]',
    "checks.[].equals": 'equals: "Paris"',
    "checks.[].contains": 'contains: ["####"]',
    "checks.[].any": "any: [yes please, no thanks]",
    "checks.[].regex": 'regex: "^[A-D]$"',
    "checks.[].number": 'number: "{{ answer }}"',
    "checks.[].json": "json: $.total",
    "checks.[].length": "length: {words: [20, 120]}",
    "checks.[].within": "within: {seconds: 20}",
    "checks.[].python": 'python: "checks.py:polite"',
    "checks.[].picture": "picture: {blank: false}",
    "checks.[].ignore_case": "ignore_case: true",
    "checks.[].take": "take: first",
    "checks.[].decimal": "decimal: comma",
    "checks.[].judge": "judge: {use: judges/helpful.yaml, at_least: 0.7}",
    "checks.[].judge.use": "use: judges/helpful.yaml",
    "checks.[].judge.pair": "pair: [Qwen/Qwen3-8B, deepseek-ai/DeepSeek-V3.2]",
    "checks.[].judge.at_least": "at_least: 0.7",
    "checks.[].not": "not: {any: as an AI}",
    "checks.[].name": "name: right",
    "checks.[].when": "when: \"{{ subject == 'math' }}\"",
    "checks.[].of": "of: reasoning",
    "checks.[].counts": "counts: false",
    "checks.[].json.path": "path: $.items[0].price",
    "checks.[].json.equals": "equals: 12",
    "checks.[].json.schema": "schema: {type: integer}",
    "checks.[].json.present": "present: false",
    "checks.[].length.chars": "chars: [1, 500]",
    "checks.[].length.words": "words: [20, 120]",
    "checks.[].length.tokens": "tokens: [null, 400]",
    "checks.[].within.seconds": "seconds: 20",
    "checks.[].within.output_tokens": "output_tokens: 400",
    "checks.[].within.input_tokens": "input_tokens: 4000",
    "checks.[].picture.blank": "blank: false",
    "checks.[].picture.aspect": "aspect: true",
    "checks.[].picture.duplicate": "duplicate: false",
    "checks.[].picture.duplicate_in_run": "duplicate_in_run: false",
}
"""A line of YAML for each key, at its own place in the job."""
