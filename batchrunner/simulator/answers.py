"""What the simulated model answers: plausible text and reasoning, all of it a function of seed, model and conversation.

Independent of HTTP. `expected_text` gives tests the answer to a prompt.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping

from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, replace
from batchrunner.simulator.requests import Order
from batchrunner.simulator.script import as_list, as_object, as_text, digest_of, encode_json

TEXT_PARAMS = ("seed", "temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "stop")
"""The parameters that the text depends on."""

_OPENINGS = (
    "Here is one way to look at “{topic}”.",
    "Let us take “{topic}” step by step.",
    "“{topic}” — a short answer first, then the reason.",
    "Thinking about “{topic}”, three things stand out.",
    "In brief, regarding “{topic}”:",
)
_BODIES = (
    "The main point is easy to miss, so it is worth saying twice.",
    "Most of the effect comes from a single cause.",
    "There are exceptions, yet they do not change the picture.",
    "A careful reader would check the edges as well.",
    "It helps to start from what is known for certain.",
    "Two independent arguments lead to the same place.",
    "The simplest explanation turns out to be the right one.",
    "Small differences at the start grow large by the end.",
)
_CLOSINGS = (
    "That is the whole of it.",
    "So the short answer holds.",
    "Everything else follows from this.",
    "More detail would not change the result.",
)
_THOUGHTS = (
    "First, what is being asked?",
    "Let me see which facts are given.",
    "One reading seems more natural than the other.",
    "I should check this against a simple case.",
    "The result looks consistent.",
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def expected_text(
    model: str, prompt: str, *, system: str = "", params: Mapping[str, Json] | None = None, seed: int = 0
) -> str:
    """The answer's text to one user prompt, before any `max_tokens` cuts it.

    `model` is the id as sent, with or without its `#scenario`; `params` as sent, of which TEXT_PARAMS matter.
    """
    turns: list[Json] = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": prompt})
    return text_for({"model": model, "messages": turns, **(params or {})}, seed=seed)


def text_for(body: Mapping[str, Json], *, seed: int) -> str:
    """The text of the answer to a request body."""
    turns = as_list(body.get("messages"))
    users = [content_text(as_object(t).get("content")) for t in turns if as_object(t).get("role") == "user"]
    return _compose(users[-1] if users else "", _grain(body, seed=seed))


def reasoning_for(body: Mapping[str, Json], *, seed: int) -> str:
    """What the model thinks before it answers."""
    grain = _grain(body, seed=seed)
    return " ".join(_pick(_THOUGHTS, grain, at) for at in range(24, 24 + 2 + grain[30] % 3))


def content_text(content: Json) -> str:
    """The text of a message's content, string or parts; a picture counts as a mark of its URL."""
    if isinstance(content, str):
        return content
    return "\n".join(_part_text(as_object(part)) for part in as_list(content))


def count_tokens(text: str) -> int:
    """A plausible figure: a quarter of the characters, rounded up."""
    return (len(text) + 3) // 4


def prompt_tokens(body: Mapping[str, Json]) -> int:
    """What the conversation is counted as."""
    turns = as_list(body.get("messages"))
    return sum(count_tokens(content_text(as_object(turn).get("content"))) + 3 for turn in turns) + 3


_FILES = ("input_audio", "file", "document")


def _part_text(part: Mapping[str, Json]) -> str:
    if part.get("type") == "text":
        return as_text(part.get("text"))
    if part.get("type") in _FILES:
        matter = json.dumps(part, sort_keys=True).encode()
        return f"[file {hashlib.sha256(matter).hexdigest()[:8]}]"
    link = as_text(as_object(part.get("image_url")).get("url")) or as_text(as_object(part.get("source")).get("data"))
    return f"[picture {hashlib.sha256(link.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}]"


def _grain(body: Mapping[str, Json], *, seed: int) -> bytes:
    """32 bytes that decide every choice."""
    turns: list[Json] = [
        [as_text(as_object(turn).get("role")), content_text(as_object(turn).get("content"))]
        for turn in as_list(body.get("messages"))
    ]
    model = as_text(body.get("model")).partition("#")[0]
    matter: list[Json] = [seed, model, turns, [body[name] for name in TEXT_PARAMS if name in body]]
    return hashlib.blake2b(json.dumps(matter).encode(), digest_size=32).digest()


def _pick(choices: tuple[str, ...], grain: bytes, at: int) -> str:
    return choices[grain[at] % len(choices)]


def _compose(prompt: str, grain: bytes) -> str:
    topic = " ".join(prompt.split()[:8])[:60] or "nothing"
    opening = _pick(_OPENINGS, grain, 0).format(topic="{}").replace("{}", topic)
    body = [_pick(_BODIES, grain, at) for at in range(1, 2 + grain[10] % 4)]
    numbers = _NUMBER.findall(prompt)
    if not numbers:
        return " ".join([opening, *body, _pick(_CLOSINGS, grain, 11)])
    given = ", ".join(numbers[:4])
    result = int(sum(float(number) for number in numbers[:4]) + grain[12] % 7) % 1_000_000_007
    steps = f"We are given {given}."
    return "\n".join(
        [" ".join([opening, *body[:2]]), f"{steps} Putting them together gives {result}.", f"#### {result}"]
    )


# Values that satisfy a simple JSON Schema: for structured answers and for the arguments of tool calls.
#
# Knows types, enum, const, properties, items, anyOf/oneOf/allOf, local references and the common bounds. A schema
# beyond that gets a value of its type, which may miss a rule that is not read here (`pattern`, `format`, `not`).

_DEEPEST = 12
"""References may go round in circles; below this only null is given."""
_MOST_PARTS = 2000
_LARGEST = 1e12
_MOST_ITEMS = 100.0
_LONGEST = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _SchemaNode:
    """Where in the value the maker stands."""

    root: Mapping[str, Json]
    path: str
    grain: int
    text: str
    """What strings are cut from."""
    budget: Iterator[int]
    """One for each part of the value; shared by all places."""
    depth: int = 0

    def below(self, name: str) -> "_SchemaNode":
        return replace(self, path=f"{self.path}/{name}", depth=self.depth + 1)

    def choice(self, count: int) -> int:
        return digest_of(f"{self.grain}{self.path}") % max(1, count)


def value_for(schema: Mapping[str, Json], *, grain: int, text: str) -> Json:
    """A value that satisfies the schema; the same for the same `grain` and `text`."""
    return _make(schema, _SchemaNode(root=schema, path="", grain=grain, text=text, budget=iter(range(_MOST_PARTS))))


def _make(schema: Mapping[str, Json], place: _SchemaNode) -> Json:
    if place.depth > _DEEPEST or next(place.budget, None) is None:
        return None
    reference = as_text(schema.get("$ref"))
    if reference:
        return _make(_resolve(reference, place.root), place.below("$ref"))
    if "const" in schema:
        return schema["const"]
    if options := as_list(schema.get("enum")):
        return options[place.choice(len(options))]
    for word in ("anyOf", "oneOf"):
        if branches := as_list(schema.get(word)):
            return _make(as_object(branches[place.choice(len(branches))]), place.below(word))
    if parts := as_list(schema.get("allOf")):
        return _make(_joined(schema, parts, place.root), place.below("allOf"))
    return _MAKERS.get(_type(schema), _null)(schema, place)


def _resolve(reference: str, root: Mapping[str, Json]) -> Mapping[str, Json]:
    found: Json = dict(root)
    for step in reference.removeprefix("#").split("/"):
        if step:
            found = as_object(found).get(step.replace("~1", "/").replace("~0", "~"))
    return as_object(found)


def _joined(schema: Mapping[str, Json], parts: list[Json], root: Mapping[str, Json]) -> dict[str, Json]:
    joined = {name: value for name, value in schema.items() if name != "allOf"}
    for part in map(as_object, parts):
        whole = _resolve(as_text(part.get("$ref")), root) if "$ref" in part else part
        properties = {**as_object(joined.get("properties")), **as_object(whole.get("properties"))}
        required = [*as_list(joined.get("required")), *as_list(whole.get("required"))]
        joined = {**joined, **whole, "properties": properties, "required": required}
    return joined


def _type(schema: Mapping[str, Json]) -> str:
    said = schema.get("type")
    if isinstance(said, list):
        said = next((name for name in said if name != "null"), "null")
    if isinstance(said, str):
        return said
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _object(schema: Mapping[str, Json], place: _SchemaNode) -> Json:
    properties = as_object(schema.get("properties"))
    names = list(dict.fromkeys([*properties, *map(as_text, as_list(schema.get("required")))]))
    return {name: _make(as_object(properties.get(name)), place.below(name)) for name in names}


def _array(schema: Mapping[str, Json], place: _SchemaNode) -> Json:
    least, most = (
        int(min(_MOST_ITEMS, _bound(schema, name, end))) for name, end in (("minItems", 0), ("maxItems", 1e6))
    )
    count = min(most, max(least, 1 + place.choice(2)))
    return [_make(as_object(schema.get("items")), place.below(str(at))) for at in range(count)]


def _string(schema: Mapping[str, Json], place: _SchemaNode) -> Json:
    words = place.text.split() or ["nothing"]
    at = place.choice(len(words))
    text = " ".join(words[at : at + 4])
    least, most = (
        int(min(_LONGEST, _bound(schema, name, end))) for name, end in (("minLength", 0), ("maxLength", 1e6))
    )
    return text.ljust(least, "x")[: max(0, most)]


def _integer(schema: Mapping[str, Json], place: _SchemaNode) -> Json:
    low = int(_bound(schema, "minimum", _bound(schema, "exclusiveMinimum", -1) + 1))
    high = int(_bound(schema, "maximum", _bound(schema, "exclusiveMaximum", low + 100) - 1))
    step = max(1, int(_bound(schema, "multipleOf", 1)))
    first = -(-low // step) * step
    return first + step * place.choice(1 + max(0, high - first) // step)


def _number(schema: Mapping[str, Json], place: _SchemaNode) -> Json:
    low = _bound(schema, "minimum", _bound(schema, "exclusiveMinimum", 0.0))
    high = _bound(schema, "maximum", _bound(schema, "exclusiveMaximum", low + 1.0))
    return low + (high - low) * (1 + place.choice(7)) / 8


def _boolean(_schema: Mapping[str, Json], place: _SchemaNode) -> Json:
    return bool(place.choice(2))


def _null(_schema: Mapping[str, Json], _place: _SchemaNode) -> Json:
    return None


def _bound(schema: Mapping[str, Json], name: str, otherwise: float) -> float:
    said = schema.get(name)
    if not isinstance(said, int | float) or isinstance(said, bool) or (isinstance(said, float) and math.isnan(said)):
        return otherwise
    return float(max(-_LARGEST, min(_LARGEST, said)))


_MAKERS: dict[str, Callable[[Mapping[str, Json], _SchemaNode], Json]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "null": _null,
}


# Answers to requests for structured output: JSON that fits the schema, or surely does not when that is the trouble.
#
# A schema may stand in `response_format` or, where a server is asked for JSON of no stated shape, in the conversation
# itself: whatever there looks like a JSON Schema is one, as a model would take it.

_SCHEMA_KEYS = frozenset({"type", "properties", "$ref", "enum", "const", "anyOf", "oneOf", "allOf"})
_MOST_BRACES = 100
_LONGEST_TEXT = 200_000
_decoder = json.JSONDecoder()


def asks_for_json_schema(body: Mapping[str, Json]) -> bool:
    """True when `response_format` has a schema in it."""
    return as_object(body.get("response_format")).get("type") == "json_schema"


def schema_of_format(body: Mapping[str, Json]) -> dict[str, Json] | None:
    """The schema that a chat request wants its answer to fit; None when any text will do."""
    form = as_object(body.get("response_format"))
    if form.get("type") == "json_schema":
        return as_object(as_object(form.get("json_schema")).get("schema"))
    return _schema_in_words(body) if form.get("type") == "json_object" else None


def json_for(schema: Mapping[str, Json], order: Order, *, text: str) -> str:
    """The answer's JSON, or what it is instead when this answer is to break its schema."""
    value = value_for(schema, grain=order.random_source.content, text=text)
    if not order.breaks_schema:
        return encode_json(value).decode()
    broken = [said for way in _WAYS if (said := way(value, schema)) is not None]
    return [text, *broken][int(order.random_source.roll("way to break") * (1 + len(broken)))]


def input_for(schema: Mapping[str, Json], order: Order, *, text: str) -> dict[str, Json] | None:
    """The input of a tool; None where the model is to answer in words instead, which is how it breaks the schema."""
    value = value_for(schema, grain=order.random_source.content, text=text)
    if not order.breaks_schema:
        return as_object(value)
    broken = [said for way in (_without_a_key, _with_a_wrong_type) if (said := way(value, schema)) is not None]
    chosen = int(order.random_source.roll("way to break") * (1 + len(broken)))
    return as_object(json.loads(broken[chosen - 1])) if chosen else None


def _schema_in_words(body: Mapping[str, Json]) -> dict[str, Json] | None:
    """The last schema that somebody wrote into the conversation."""
    turns = [as_object(turn) for turn in as_list(body.get("messages"))]
    for turn in reversed([turn for turn in turns if turn.get("role") != "assistant"]):
        found = next(_schemas_in(content_text(turn.get("content"))[:_LONGEST_TEXT]), None)
        if found is not None:
            return found
    return None


def _schemas_in(text: str) -> Iterator[dict[str, Json]]:
    at = text.find("{")
    for _ in range(_MOST_BRACES):
        if at < 0:
            return
        try:
            value, end = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            if not _SCHEMA_KEYS.isdisjoint(as_object(value)):
                yield as_object(value)
        at = text.find("{", end)


# -- ways to miss a schema for sure


def _half(value: Json, _schema: Mapping[str, Json]) -> str | None:
    """JSON that stops in its middle. Half a number would be a number."""
    whole = encode_json(value).decode()
    return whole[: len(whole) // 2] if isinstance(value, dict | list) and len(whole) > 2 else None


def _without_a_key(value: Json, schema: Mapping[str, Json]) -> str | None:
    needed = [name for name in as_list(schema.get("required")) if name in as_object(value)]
    if not needed:
        return None
    return encode_json({name: part for name, part in as_object(value).items() if name != needed[-1]}).decode()


def _with_a_wrong_type(value: Json, schema: Mapping[str, Json]) -> str | None:
    for name in as_object(value):
        kind = as_object(as_object(schema.get("properties")).get(name)).get("type")
        if as_text(kind) in _OTHERS:
            return encode_json({**as_object(value), name: _OTHERS[as_text(kind)]}).decode()
    return None


_OTHERS: dict[str, Json] = {
    "string": 7,
    "number": "seven",
    "integer": "seven",
    "boolean": "yes",
    "array": "none",
    "object": "none",
    "null": "none",
}
"""Type to a value that is not of it."""

_WAYS: tuple[Callable[[Json, Mapping[str, Json]], str | None], ...] = (_half, _without_a_key, _with_a_wrong_type)
