"""Applies ModelScope's picture rules to everything in a job file that becomes a parameter or a prompt."""

import re
from collections.abc import Iterator, Mapping

from batchrunner.core.job import Json
from batchrunner.core.picture_rules import LOCAL_PICTURE, NO_ADDRESS, params_mistakes, prompt_mistake
from batchrunner.spec.draft import Draft
from batchrunner.spec.models import SourceSpec
from batchrunner.spec.named_files import is_there, located
from batchrunner.spec.places import Fault, KeyPath, short
from batchrunner.spec.provider import dialect_of

_TEMPLATE = re.compile(r"\{[{%]")


def template_uses(draft: Draft, name: str) -> bool:
    """True when a template of the job names this variable: then the matrix name is no parameter."""
    word = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)")
    return any(
        word.search(inside)
        for text in _templates(draft)
        for inside in re.findall(r"\{\{(.*?)\}\}|\{%(.*?)%\}", text, re.DOTALL)
        for inside in inside
    )


def _templates(draft: Draft) -> Iterator[str]:
    spec = draft.spec
    if isinstance(spec.prompts, SourceSpec) and spec.prompts.template:
        yield spec.prompts.template
    for entry in draft.entries:
        yield entry.prompt or ""
        yield from entry.images or ()
    yield spec.system or ""
    yield from (turn.content for turn in spec.messages or ())
    yield from spec.images
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


def is_filled_later(draft: Draft, value: Json) -> bool:
    """True for a parameter with a template over the rows of a source: only its value can be judged."""
    return isinstance(draft.spec.prompts, SourceSpec) and any(map(_TEMPLATE.search, texts_in(value)))


def picture_faults(draft: Draft) -> Iterator[Fault]:
    """What ModelScope's image service would refuse. Silent while provider, kind or model are not known."""
    if not draft.knows("model") or not draft.knows("models") or dialect_of(draft) != "modelscope-images":
        return
    yield from _params(draft, ("params",), draft.spec.params)
    for place, entry in enumerate(draft.entries):
        yield from _params(draft, ("prompts", place, "params"), entry.params)
        problem = prompt_mistake(entry.prompt) if entry.prompt and not _TEMPLATE.search(entry.prompt) else None
        if problem:
            yield Fault(path=_prompt_path(draft, place), problem=problem)
    for name, values in draft.spec.matrix.items():
        if template_uses(draft, name):
            continue
        for place, value in enumerate(values):
            yield from _value(draft, ("matrix", name, place), name, value)


def _params(draft: Draft, path: KeyPath, params: Mapping[str, Json]) -> Iterator[Fault]:
    for name, value in params.items():
        if path == ("params",) and is_filled_later(draft, value):
            continue
        yield from _value(draft, (*path, name), name, value)


def _value(draft: Draft, path: KeyPath, name: str, value: Json) -> Iterator[Fault]:
    """One fault for each different thing that the job's models would say of the value."""
    found = {
        (problem, expected): None
        for model in draft.models
        for _key, problem, expected in params_mistakes(model, {name: value})
        if not _is_local(draft, value, problem)  # told for every dialect by the general rules
    }
    for problem, expected in found:
        shown = f"{short(value)} {problem}" if not isinstance(value, dict) else problem
        yield Fault(path=path, problem=shown, expected=expected)


def _is_local(draft: Draft, value: Json, problem: str) -> bool:
    if problem == NO_ADDRESS and isinstance(value, str):
        return is_there(located(draft.folder, value), as_file=True)
    return problem == LOCAL_PICTURE


def _prompt_path(draft: Draft, place: int) -> KeyPath:
    whole: KeyPath = ("prompts", place)
    return (*whole, "prompt") if draft.given(*whole, "prompt") else whole
