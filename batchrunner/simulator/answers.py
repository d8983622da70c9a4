"""What the pretend model says: plausible text and reasoning, all of it a function of seed, model and conversation.

Nothing here knows HTTP. `expected_text` tells a test what the answer to a prompt will be.
"""

import hashlib
import json
import re
from collections.abc import Mapping

from batchrunner.core.job import Json
from batchrunner.simulator.script import as_list, as_object, as_text

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


def _part_text(part: Mapping[str, Json]) -> str:
    if part.get("type") == "text":
        return as_text(part.get("text"))
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
