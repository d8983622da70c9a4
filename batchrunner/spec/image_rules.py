"""What pictures in a job must be: the parameters that a picture server refuses, files that it cannot read.

Also which texts of a job are templates, as a value that is filled in later cannot be judged.
"""

import re
from collections.abc import Iterator, Mapping

from batchrunner.core.item import is_address
from batchrunner.core.job import Json
from batchrunner.core.picture_rules import LOCAL_PICTURE, NO_ADDRESS, params_mistakes, prompt_mistake
from batchrunner.core.text import late_pattern
from batchrunner.spec.job_errors import KeyPath, SpecError, short
from batchrunner.spec.partial import PartialSpec, is_there, located
from batchrunner.spec.provider import dialect_of
from batchrunner.spec.source_keys import SourceSpec

_TEMPLATE = late_pattern(r"\{[{%]")


def template_uses(partial: PartialSpec, name: str) -> bool:
    """True when a template of the job names this variable: then the matrix name is no parameter."""
    word = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)")
    return any(
        word.search(inside)
        for text in _templates(partial)
        for inside in re.findall(r"\{\{(.*?)\}\}|\{%(.*?)%\}", text, re.DOTALL)
        for inside in inside
    )


def _templates(partial: PartialSpec) -> Iterator[str]:
    spec = partial.spec
    if isinstance(spec.prompts, SourceSpec):
        yield spec.prompts.template or ""
        yield from spec.prompts.images or ()
    for entry in partial.entries:
        yield entry.prompt or ""
        yield from entry.images or ()
    yield spec.system or ""
    yield from (turn.content for turn in spec.messages or ())
    yield from (*spec.images, *spec.files)
    if isinstance(spec.prompts, SourceSpec):
        yield from texts_in(spec.params)


def texts_in(value: Json) -> Iterator[str]:
    """Every text in a value."""
    match value:
        case str():
            yield value
        case list():
            for part in value:
                yield from texts_in(part)
        case dict():
            for part in value.values():
                yield from texts_in(part)
        case _:
            return


def is_filled_later(partial: PartialSpec, value: Json) -> bool:
    """True for a parameter with a template over the rows of a source: only its value can be judged."""
    return isinstance(partial.spec.prompts, SourceSpec) and any(map(_TEMPLATE.search, texts_in(value)))


def picture_faults(partial: PartialSpec) -> Iterator[SpecError]:
    """What ModelScope's image service would refuse. Silent while provider, kind or model are not known."""
    if not partial.knows("model") or not partial.knows("models") or dialect_of(partial) != "modelscope-images":
        return
    yield from _params(partial, ("params",), partial.spec.params)
    for place, entry in enumerate(partial.entries):
        yield from _params(partial, ("prompts", place, "params"), entry.params)
        problem = prompt_mistake(entry.prompt) if entry.prompt and not _TEMPLATE.search(entry.prompt) else None
        if problem:
            yield SpecError(path=_prompt_path(partial, place), problem=problem)
    for name, values in partial.spec.matrix.items():
        if template_uses(partial, name):
            continue
        for place, value in enumerate(values):
            yield from _value(partial, ("matrix", name, place), name, value)


def _params(partial: PartialSpec, path: KeyPath, params: Mapping[str, Json]) -> Iterator[SpecError]:
    for name, value in params.items():
        if path == ("params",) and is_filled_later(partial, value):
            continue
        yield from _value(partial, (*path, name), name, value)


def _value(partial: PartialSpec, path: KeyPath, name: str, value: Json) -> Iterator[SpecError]:
    """One fault for each different thing that the job's models would say of the value."""
    found = {
        (problem, expected): None
        for model in partial.models
        for _key, problem, expected in params_mistakes(model, {name: value})
        if not _is_local(partial, value, problem)  # reported for every dialect by the general rules
    }
    for problem, expected in found:
        shown = f"{short(value)} {problem}" if not isinstance(value, dict) else problem
        yield SpecError(path=path, problem=shown, expected=expected)


def _is_local(partial: PartialSpec, value: Json, problem: str) -> bool:
    if problem == NO_ADDRESS and isinstance(value, str):
        return is_there(located(partial.folder, value), as_file=True)
    return problem == LOCAL_PICTURE


def _prompt_path(partial: PartialSpec, place: int) -> KeyPath:
    whole: KeyPath = ("prompts", place)
    return (*whole, "prompt") if partial.given(*whole, "prompt") else whole


def edited_picture_faults(partial: PartialSpec) -> Iterator[SpecError]:
    """Pictures to start from stand in `images` or in the dialect's own parameter: of both, one would be ignored."""
    if partial.kind == "chat" or not partial.knows("kind") or not partial.knows("provider"):
        return
    own = _PICTURE_PARAMS.get(dialect_of(partial) or "", "")
    for place, entry in enumerate(partial.entries):
        if entry.images and own in {**partial.spec.params, **entry.params}:
            yield SpecError(
                path=("prompts", place, "images"),
                problem=f"cannot be combined with the parameter `{own}`",
                expected="one of the two",
            )
    if partial.given("images") and own in partial.spec.params:
        yield SpecError(
            path=("images",), problem=f"cannot be combined with the parameter `{own}`", expected="one of the two"
        )


def local_picture_faults(partial: PartialSpec) -> Iterator[SpecError]:
    """A parameter is sent as it is: the name of a file on this machine means nothing to the server."""
    if partial.kind == "chat" or not partial.knows("kind"):
        return
    places: list[tuple[KeyPath, Json]] = []
    holders: list[tuple[KeyPath, dict[str, Json]]] = [(("params",), partial.spec.params)]
    holders += [
        (("prompts", place, "params"), entry.params) for place, entry in enumerate(partial.entries) if entry.params
    ]
    for path, params in holders:
        places += [
            ((*path, name), params[name])
            for name in sorted(_PICTURE_NAMES & params.keys())
            if path != ("params",) or not is_filled_later(partial, params[name])
        ]
    for name in sorted(_PICTURE_NAMES & partial.spec.matrix.keys()):
        if template_uses(partial, name):
            continue
        places += [(("matrix", name, place), value) for place, value in enumerate(partial.spec.matrix[name])]
    for path, value in places:
        inner = enumerate(value) if isinstance(value, list) else [(None, value)]
        for place, text in inner:
            if isinstance(text, str) and _local(partial, text):
                own = path if place is None else (*path, place)
                problem = f"{short(text)} is a local file, which the server cannot read"
                yield SpecError(path=own, problem=problem, hint="local pictures go into `images:`")


def _local(partial: PartialSpec, text: str) -> bool:
    if is_address(text) or text.startswith(("data:", _BARE_JPEG)) or len(text) > _LONGEST_PATH:
        return text.lower().startswith("file:")
    return bool(_PICTURE_PATH.match(text)) or is_there(located(partial.folder, text), as_file=True)


_PICTURE_PATH = late_pattern(
    r"(\.{1,2}|~)?[/\\]|[A-Za-z]:[/\\]|[^\n]*\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic|svg)\Z", re.IGNORECASE
)
_LONGEST_PATH = 1000
_BARE_JPEG = "/9j/"
"""How a JPEG begins in base64, which some servers take without `data:`."""
_PICTURE_NAMES = {"image_url", "image", "images", "mask"}
_PICTURE_PARAMS = {"modelscope-images": "image_url", "openai-images": "image"}
"""Where a dialect sends the pictures to start from."""
