"""`python -m tools.job_file_page`: writes docs/job-file.md from the JSON Schema of the job file.

The schema has every key's type, default and description. What it cannot have stands here: an example of each key, and
defaults that depend on another key. `tests/test_documents.py` fails if the page is stale, a key has no example, or an
example is no part of a job without mistakes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from batchrunner.spec import job_schema
from batchrunner.spec.models import PARTS, keys_of

__all__ = ["DEFAULTS", "EXAMPLES", "NOTES", "PAGE", "PARTS", "keys_of", "page"]

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "job-file.md"

HEADINGS: Final[dict[tuple[str, ...], str]] = {
    (): "The job",
    ("provider",): "provider",
    ("prompts",): "prompts: a source",
    ("prompts", "[]"): "prompts: an entry of a list",
    ("messages", "[]"): "messages: an entry",
    ("timeouts",): "timeouts",
    ("limits",): "limits",
    ("retry",): "retry",
    ("output",): "output",
    ("budget",): "budget",
    ("budget", "prices", "{}"): "budget: prices of a model",
}

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
    "provider.base_url": "the preset's",
    "provider.api_key_env": "the preset's",
    "provider.auth": "the preset's",
    "provider.points_per_day": "200 at ModelScope",
    "provider.points_per_call": "1 at ModelScope",
    "prompts.delimiter": "`,`",
    "prompts.id": "made from the content",
    "prompts.encoding": "UTF-8",
    "prompts.[].id": "made from the text",
    "limits.concurrency": "`auto`",
    "limits.in_flight_tasks": "20 at ModelScope",
    "limits.poll_per_second": "10",
    "output.dir": "`outputs/NAME`",
    "output.format": "as sent",
}
"""Where the schema says null, because the value depends on something else."""

NOTES: Final[dict[str, str]] = {
    "images": "A local file has at most 20 MB.",
    "durability": "With `result` a power cut may hide a few requests; `status` says how many at most.",
    "params": "What batchrunner writes itself (`model`, `prompt`, `messages`, `stream`) is rejected here.",
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
    "prompts": "prompts: [Name one use of a paper clip.]",
    "matrix": "matrix: {seed: [1, 2, 3]}",
    "params": "params: {temperature: 0.7, max_tokens: 400}",
    "system": "system: Answer in one sentence.",
    "messages": 'messages: [{role: user, content: "{{ prompt }}"}]',
    "images": 'images: ["{{ photo }}"]',
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
    "timezone": "timezone: Asia/Shanghai",
    "deadline": 'deadline: "07:00"',
    "budget": "budget: {calls: 500}",
    "notify": "notify: [./send-mail.sh, done]",
    "scenario": "scenario: throttle:3",
    "provider.preset": "preset: openai",
    "provider.dialect": "dialect: anthropic-messages",
    "provider.base_url": 'base_url: "http://127.0.0.1:8000/v1"',
    "provider.api_key_env": "api_key_env: [KEY_ONE, KEY_TWO]",
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
    "retry.attempts": "attempts: 3",
    "retry.max_wait_s": "max_wait_s: 600",
    "output.dir": "dir: outputs/cats",
    "output.format": "format: png",
    "output.name": 'name: "{{ id }}"',
    "output.each": 'each: "answers/{{ id }}.md"',
    "output.report": "report: false",
    "budget.calls": "calls: 500",
    "budget.tokens": "tokens: 2000000",
    "budget.points": "points: 200",
    "budget.money": "money: 20",
    "budget.currency": "currency: CNY",
    "budget.prices": "prices: {Qwen/Qwen3-8B: {input: 0.5, output: 2}}",
    "budget.prices.{}.input": "input: 0.5",
    "budget.prices.{}.output": "output: 2",
    "budget.prices.{}.picture": "picture: 0.1",
    "budget.prices.{}.call": "call: 0.01",
}
"""A line of YAML for each key, at its own place in the job."""

_HEAD: Final = """# The job file: every key

<!-- Generated by `make pages` from the JSON Schema. Change batchrunner/spec/models.py or tools/job_file_page.py. -->

A job file is YAML. Required are `provider`, `prompts`, and one of `model` and `models`. An unknown key, a wrong type, a
misspelt name or a bad row is a mistake: `batchrunner check` prints all of them at once, each with file, line and key.
`batchrunner schema` prints the JSON Schema of all keys, for completion in an editor; `batchrunner schema --help` says
how to use it. [prompts](prompts.md) and [running](running.md) explain what the keys do together.

Keys that end with `_s` are in seconds. A *template* is Jinja2, see [templates](prompts.md#templates). A *lane* is one
API key and one model.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_contents(), *(line for part in PARTS for line in _section(part))])


def _contents() -> Iterator[str]:
    yield from (f"- [{HEADINGS[part]}](#{_anchor(part)})" for part in PARTS)
    yield ""


def _anchor(part: tuple[str, ...]) -> str:
    return HEADINGS[part].lower().replace(":", "").replace(" ", "-")


def _section(part: tuple[str, ...]) -> Iterator[str]:
    schema = _schema_of(part)
    yield from (f"## {HEADINGS[part]}", "", str(schema["description"]), "")
    yield from ("| key | type | default | meaning | example |", "|---|---|---|---|---|")
    for key, value in schema["properties"].items():
        path = ".".join((*part, key))
        required = key in schema.get("required", ()) and part
        default = DEFAULTS.get(path) or ("required" if required else _default(value))
        meaning = " ".join(filter(None, (value["description"], NOTES.get(path))))
        cells = (f"`{key}`", _type(value), default, meaning, f"`{EXAMPLES[path]}`")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _schema_of(part: tuple[str, ...]) -> dict[str, Any]:
    whole: Any = job_schema()
    found: dict[str, Any] = whole["$defs"][PARTS[part].__name__] if part else whole
    return found


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if value.get("$ref", "").endswith("Spec"):
        return "see below"
    if default is None or default == "":
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _type(value: dict[str, Any]) -> str:
    """The type in words."""
    for several in ("anyOf", "oneOf"):
        if several in value:
            return " or ".join(_type(one) for one in value[several] if one.get("type") != "null")
    if "$ref" in value:
        return _link(value["$ref"].rpartition("/")[2])
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    kind = str(value["type"])
    if kind == "array":
        inner = _type(value["items"])
        return f"list of ({inner})" if " or " in inner else f"list of {inner}"
    if kind == "object":
        return _mapping(value)
    return {"string": "text", "boolean": "`true`, `false`"}.get(kind) or _number(value, kind)


def _number(value: dict[str, Any], kind: str) -> str:
    name = {"integer": "whole number", "number": "number"}[kind]
    least, above, most = (value.get(bound) for bound in ("minimum", "exclusiveMinimum", "maximum"))
    bounds = [
        f"≥ {least:g}" if least is not None else "",
        f"> {above:g}" if above is not None else "",
        f"≤ {most:,.0f}" if most is not None else "",
    ]
    return f"{name} {', '.join(filter(None, bounds))}"


def _mapping(value: dict[str, Any]) -> str:
    inner = value.get("additionalProperties")
    if not isinstance(inner, dict) or inner.get("$ref", "").endswith("/JsonValue"):
        return "mapping"
    return f"mapping to {_type(inner)}"


def _link(name: str) -> str:
    if name == "JsonValue":
        return "any value"
    part = next(part for part, model in PARTS.items() if model.__name__ == name)
    return f"[mapping](#{_anchor(part)})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
