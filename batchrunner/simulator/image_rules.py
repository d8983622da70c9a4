"""What the image API rejects before it accepts a task: see docs/providers/modelscope.md#parameters."""

import re
from collections.abc import Mapping

from batchrunner.core.job import Json
from batchrunner.simulator.order import Order
from batchrunner.simulator.refusals import REFUSALS, Refusal, invalid
from batchrunner.simulator.script import as_text

DEFAULT_SIZE = (512, 512)
_LONGEST_PROMPT = 2000
_MOST_LORAS = 6
_SIDES = (("qwen-image", 64, 1664), ("z-image", 512, 2048), ("flux", 64, 1024), ("", 64, 2048))
"""(part of the model's name, least side, greatest side); the first that fits counts."""
_RANGES = (("seed", 0, 2**31 - 1, True), ("steps", 1, 100, True), ("guidance", 1.5, 20, False))
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def check_image(order: Order) -> Refusal | None:
    """The first rule that the request breaks."""
    if order.headers.get("x-modelscope-async-mode", "").lower() != "true" and "img-sync-result" not in order.chosen:
        return REFUSALS["needs-async"]
    problem = (
        _prompt_problem(order.body)
        or _size_problem(order.body.get("size"), order.base_model)
        or _range_problem(order.body, order.base_model)
        or _loras_problem(order.body.get("loras"))
        or _given_problem(order.body.get("image_url"))
    )
    return invalid(problem, shape="A-outside") if problem else None


def picture_size(body: Mapping[str, Json]) -> tuple[int, int]:
    """Width and height that a checked request asks for."""
    found = _SIZE.fullmatch(as_text(body.get("size")))
    return (int(found[1]), int(found[2])) if found else DEFAULT_SIZE


def _prompt_problem(body: Mapping[str, Json]) -> str | None:
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        return "prompt is required and must be a non-empty string"
    for name in ("prompt", "negative_prompt"):
        said = body.get(name)
        if said is not None and not isinstance(said, str):
            return f"{name} must be a string"
        if isinstance(said, str) and len(said) >= _LONGEST_PROMPT:
            return f"{name} must be shorter than {_LONGEST_PROMPT} characters"
    return None


def _size_problem(size: Json, model: str) -> str | None:
    if size is None:
        return None
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        return "size must look like 1024x1024"
    _, least, greatest = next(rule for rule in _SIDES if rule[0] in model.lower())
    if all(least <= int(side) <= greatest for side in found.groups()):
        return None
    return f"size out of range for {model}: each side must be between {least} and {greatest}"


def _range_problem(body: Mapping[str, Json], model: str) -> str | None:
    for name, least, greatest, whole in _RANGES:
        said = body.get(name)
        # Distilled models are documented elsewhere as wanting guidance 0
        if said is None or (name == "guidance" and "turbo" in model.lower()):
            continue
        kinds = int if whole else (int, float)
        if isinstance(said, bool) or not isinstance(said, kinds) or not least <= said <= greatest:
            return f"{name} must be {'an integer' if whole else 'a number'} between {least} and {greatest}"
    return None


def _given_problem(given: Json) -> str | None:
    """A picture to edit, or several: each by its URL, or as a data URL in a list."""
    if given is None:
        return None
    urls = given if isinstance(given, list) else [given]
    if not urls or not all(as_text(url).startswith(("http://", "https://", "data:image/")) for url in urls):
        return "image_url must be a URL or a list of URLs"
    return None


def _loras_problem(loras: Json) -> str | None:
    if loras is None or (isinstance(loras, str) and loras):
        return None
    if not isinstance(loras, dict) or not loras:
        return "loras must be a repository id or an object of weights"
    if len(loras) > _MOST_LORAS:
        return f"at most {_MOST_LORAS} loras are supported"
    weights = [float(w) for w in loras.values() if isinstance(w, int | float) and not isinstance(w, bool)]
    if len(weights) != len(loras) or not abs(sum(weights) - 1.0) <= 1e-3:
        return "the weights of loras must sum to 1.0"
    return None
