"""What ModelScope's image models accept, checked before anything is paid. Pure.

The rules: docs/providers/modelscope.md#parameters.

Refuses only what the documentation refuses: parameters that it does not name pass untouched.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias
from urllib.parse import urlsplit

from batchrunner.core.job import Job, Json, Listing

Verdict: TypeAlias = "tuple[str, str] | None"
"""What is wrong and what was expected; None when nothing is."""

MAX_PROMPT_CHARS = 2000
MAX_SEED = 2**31 - 1
MAX_STEPS = 100
GUIDANCE = (1.5, 20.0)
MAX_LORAS = 6
LORA_TOLERANCE = 1e-3
_ANY_SIDE = (64, 2048)
NO_ADDRESS = "is not an http or https URL"
LOCAL_PICTURE = "is a local file, which the server cannot read"
_LOCAL = re.compile(
    r"file:|(\.{1,2}|~)?[/\\]|[A-Za-z]:[/\\]|[^\n:]*\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic|svg)\Z", re.IGNORECASE
)
_BARE_JPEG = "/9j/"
_LONGEST_ADDRESS = 4096
_INSIDE = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".intranet")

_SIDES: tuple[tuple[str, tuple[int, int]], ...] = (
    ("qwen-image", (64, 1664)),
    ("z-image", (512, 2048)),
    ("flux", (64, 1024)),
    ("stable-diffusion", _ANY_SIDE),
    ("sdxl", _ANY_SIDE),
)
"""Part of a model's id, and the shortest and longest side in pixels of its pictures."""


def prompt_mistake(text: str) -> str | None:
    """What is wrong with an image prompt as it will be sent; None when nothing is."""
    if not text.strip():
        return "is empty"
    if len(text) >= MAX_PROMPT_CHARS:
        return f"has {len(text)} characters; image prompts must have fewer than {MAX_PROMPT_CHARS}"
    return None


def params_mistakes(model: str, params: Mapping[str, Json]) -> list[tuple[str, str, str]]:
    """(key, what is wrong, what was expected) of every parameter that this model's service would refuse."""
    found = ((key, rule(model, params[key])) for key, rule in _RULES.items() if key in params)
    return [(key, *verdict) for key, verdict in found if verdict is not None]


def side_range(model: str) -> tuple[int, int]:
    """Shortest and longest side in pixels for a model; the widest range known, for undocumented families."""
    known = model.split("#", 1)[0].lower()
    return next((sides for part, sides in _SIDES if part in known), _ANY_SIDE)


def _size(model: str, value: Json) -> Verdict:
    shortest, longest = side_range(model)
    expected = f"WIDTHxHEIGHT, each side from {shortest} to {longest} for {model}, for example 1024x1024"
    sides = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", value) if isinstance(value, str) else None
    if sides is None:
        return ("is not a size", expected)
    if not all(shortest <= int(side) <= longest for side in sides.groups()):
        return ("is outside the range of the model", expected)
    return None


def _whole(value: Json, *, least: int, most: int) -> Verdict:
    expected = f"a whole number from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, int):
        return ("is not a whole number", expected)
    return None if least <= value <= most else ("is out of range", expected)


def _seed(_model: str, value: Json) -> Verdict:
    return _whole(value, least=0, most=MAX_SEED)


def _steps(_model: str, value: Json) -> Verdict:
    return _whole(value, least=1, most=MAX_STEPS)


def _guidance(model: str, value: Json) -> Verdict:
    least, most = GUIDANCE
    expected = f"a number from {least:g} to {most:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ("is not a number", expected)
    if value == 0 and "turbo" in model.lower():  # documented elsewhere as what distilled models want
        return None
    return None if least <= value <= most else ("is out of range", expected)


def _loras(_model: str, value: Json) -> Verdict:
    expected = f"the id of one LoRA, or a mapping of up to {MAX_LORAS} ids to weights that sum to 1"
    match value:
        case str():
            return None if value.strip() else ("is empty", expected)
        case dict():
            return _lora_weights(value, expected)
        case _:
            return ("is neither text nor a mapping", expected)


def _lora_weights(loras: Mapping[str, Json], expected: str) -> Verdict:
    if not 1 <= len(loras) <= MAX_LORAS:
        return (f"names {len(loras)} LoRAs", expected)
    weights = [weight for weight in loras.values() if isinstance(weight, int | float) and not isinstance(weight, bool)]
    if len(weights) < len(loras):
        return ("has a weight that is not a number", expected)
    total = math.fsum(weights)
    # A little slack for the sum itself: 1.001 written in decimals is still within the tolerance.
    if abs(total - 1) > LORA_TOLERANCE + 1e-9:
        return (f"has weights that sum to {total:g}", expected)
    return None


def _negative_prompt(_model: str, value: Json) -> Verdict:
    expected = f"text of fewer than {MAX_PROMPT_CHARS} characters"
    if not isinstance(value, str):
        return ("is not text", expected)
    return None if len(value) < MAX_PROMPT_CHARS else (f"has {len(value)} characters", expected)


def _image_url(_model: str, value: Json) -> Verdict:
    expected = "a URL that the server can reach (https://HOST/PATH), or a list of such URLs"
    if value is None:
        return None
    if isinstance(value, list):
        found = (_image_address(entry, expected) for entry in value)
        return next((verdict for verdict in found if verdict), None) if value else ("is empty", expected)
    return _image_address(value, expected)


def _image_address(value: Json, expected: str) -> Verdict:
    if not isinstance(value, str):
        return ("is not a URL", expected)
    text = value.strip()
    if not text:
        return ("is empty", expected)
    if text.lower().startswith("data:") or text.startswith(_BARE_JPEG) or len(text) > _LONGEST_ADDRESS:
        return None  # some models take the picture itself
    if _LOCAL.match(text):
        return (LOCAL_PICTURE, expected)
    return None if _host_of(text) is not None else (NO_ADDRESS, expected)


def _host_of(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    return host if parts.scheme in {"http", "https"} and host else None


def picture_notes(job: Job) -> tuple[str, ...]:
    """What a person should know of the addresses in `image_url`: the server cannot reach those inside a network."""
    if job.provider.dialect != "modelscope-images" or _is_inside(_host_of(job.provider.base_url) or ""):
        return ()
    places: list[tuple[str, Json]] = [("params.image_url", job.params.get("image_url"))]
    entries = job.prompts.entries if isinstance(job.prompts, Listing) else ()
    places += [
        (f"prompts[{place}].params.image_url", entry.params.get("image_url")) for place, entry in enumerate(entries)
    ]
    places += [(f"matrix.image_url[{place}]", value) for place, value in enumerate(job.matrix.get("image_url", ()))]
    return tuple(
        f"{place}: {host} is an address inside a network; the server must be able to reach it"
        for place, value in places
        for host in _hosts_in(value)
        if _is_inside(host)
    )


def _hosts_in(value: Json) -> Iterator[str]:
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, str) and (host := _host_of(entry.strip())):
            yield host


def _is_inside(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".").lower()
        return "." not in name or name.endswith(_INSIDE)


_RULES: dict[str, Callable[[str, Json], Verdict]] = {
    "size": _size,
    "seed": _seed,
    "steps": _steps,
    "guidance": _guidance,
    "loras": _loras,
    "image_url": _image_url,
    "negative_prompt": _negative_prompt,
}
