"""What the keys of a job must be to each other. One function for each rule; `RULES` lists them all.

Each gives faults for what it can judge and stays silent about keys that are broken already.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from math import prod
from pathlib import PurePosixPath
from typing import Final
from unicodedata import category

from batchrunner.core.item import is_address
from batchrunner.core.job import Json, Kind
from batchrunner.spec.answer_schema import schema_faults
from batchrunner.spec.check_keys import check_faults
from batchrunner.spec.image_rules import (
    edited_picture_faults,
    is_filled_later,
    local_picture_faults,
    picture_faults,
    template_uses,
)
from batchrunner.spec.job_errors import KeyPath, SpecError, short
from batchrunner.spec.partial import PartialSpec, folder_of, located, real_name
from batchrunner.spec.provider import provider_faults, responses_faults, table_of_job
from batchrunner.spec.schedule_keys import schedule_faults
from batchrunner.spec.source_keys import SourceSpec
from batchrunner.spec.source_rules import source_faults, store_faults

ADDRESS_PROBLEM = "results can be written to a local folder only"
ADDRESS_HINT = "name a local folder; `output.upload` copies finished files to an address"
SIMULATED_ENDING = ".simulated"

MAX_ITEMS = 10_000_000
"""A job with more would be read for hours before its first request: most likely a matrix with one axis too many."""

_FOLDER = re.compile(r"\w[\w .()+@=,~-]*")
_MAX_NAME_BYTES = 100
_CHAT_ONLY = ("system", "messages", "schema", "files")
_NO_FOLDERS = {".", "..", "/", "//"}
_YAML_WORDS = {"yes", "no", "on", "off"}
_OWN_KEYS: dict[str, str] = {
    "model": "`model` or `models`",
    "prompt": "`prompts`",
    "messages": "`messages`",
    "stream": "`stream`",
    "input": "`prompts`",
    "file": "`files`",
}
"""Parameters that the program writes itself, and the key that is meant."""
_OWN_PARAMS: dict[Kind, tuple[str, ...]] = {
    "chat": ("model", "messages", "stream"),
    "image": ("model", "prompt"),
    "media": ("model", "prompt"),
    "embedding": ("model", "input"),
    "transcription": ("model", "file", "prompt", "stream"),
}


def job_name(partial: PartialSpec) -> str:
    """Given, or the job file's name without its ending."""
    if partial.spec.name is not None:
        return partial.spec.name
    return re.sub(r"\.(ya?ml|json)$", "", real_name(partial.file).name, flags=re.IGNORECASE)


def _name(partial: PartialSpec) -> Iterator[SpecError]:
    if not partial.knows("name"):
        return
    name = job_name(partial)
    hint = None if partial.spec.name else "it comes from the file's name; give the job another with `name:`"
    expected = "letters, digits, spaces and .-_()+@=,~ with a letter or digit first"
    if not _FOLDER.fullmatch(name) or name[-1] in " ." or len(name.encode()) > _MAX_NAME_BYTES:
        yield SpecError(path=("name",), problem="cannot be the name of a folder", expected=expected, hint=hint)
    elif name.endswith(SIMULATED_ENDING):
        yield SpecError(path=("name",), problem=f"ends with {SIMULATED_ENDING}, as simulated runs do", hint=hint)


def _model(partial: PartialSpec) -> Iterator[SpecError]:
    if partial.given("model") and partial.given("models"):
        yield SpecError(path=("models",), problem="cannot be combined with `model`", expected="one of the two")
    elif not partial.given("model") and not partial.given("models"):
        yield SpecError(path=("model",), problem="is missing", expected="the id of a model, or `models` with a list")
    seen: dict[str, int] = {}
    for place, model in enumerate(partial.spec.models if isinstance(partial.spec.models, list) else ()):
        if model in seen:
            yield SpecError(path=("models", place), problem=f"is the same as models[{seen[model]}]")
        seen.setdefault(model, place)


def _prompts(partial: PartialSpec) -> Iterator[SpecError]:
    if not partial.given("prompts"):
        problem = "is empty" if _holds(partial, "prompts") else "is missing"
        yield SpecError(
            path=("prompts",), problem=problem, expected="a list of prompts, or a mapping with `file` or `run`"
        )
    first: dict[str, KeyPath] = {}
    for place, entry in enumerate(partial.entries):
        path: KeyPath = ("prompts", place)
        yield from _text_or_vars(partial, place)
        if entry.id is None:
            continue
        if any(category(char) in ("Cc", "Zl", "Zp") for char in entry.id):
            yield SpecError(path=(*path, "id"), problem="has a control character in it")
        if entry.id in first:
            line = partial.reading.lines.get((*first[entry.id], "id"))
            hint = f"first on line {line}" if line else None
            yield SpecError(
                path=(*path, "id"), problem=f'is a duplicate of "{entry.id}"; ids must be unique', hint=hint
            )
        first.setdefault(entry.id, path)


def _holds(partial: PartialSpec, key: str) -> bool:
    return isinstance(partial.reading.tree, dict) and key in partial.reading.tree


def _text_or_vars(partial: PartialSpec, place: int) -> Iterator[SpecError]:
    """A listed prompt has a text, unless the messages have it."""
    written = partial.reading.tree["prompts"] if isinstance(partial.reading.tree, dict) else None
    entry = written[place] if isinstance(written, list) and place < len(written) else None
    if not isinstance(entry, dict):
        return
    needs_text = partial.kind != "transcription" and not partial.given("messages")
    if "prompt" not in entry and needs_text and not any(k not in _ENTRY_KEYS for k in entry):
        yield SpecError(path=("prompts", place), problem="has no `prompt`")
    variables = entry.get("vars")
    if "prompt" in entry and partial.given("messages") and isinstance(variables, dict) and "prompt" in variables:
        yield SpecError(
            path=("prompts", place, "vars", "prompt"), problem="cannot be combined with the entry's own `prompt`"
        )


_ENTRY_KEYS = {"id", "prompt", "params", "vars", "images"}


def _messages(partial: PartialSpec) -> Iterator[SpecError]:
    turns = partial.spec.messages or []
    if turns and not any(turn.role == "user" for turn in turns):
        yield SpecError(
            path=("messages",), problem="has no message with `role: user`", expected="at least one with role: user"
        )
    for place, turn in enumerate(turns):
        if turn.role == "system" and partial.given("system"):
            yield SpecError(
                path=("messages", place),
                problem="is a system message although `system` is set",
                expected="one of the two",
            )


def _chat_only(partial: PartialSpec) -> Iterator[SpecError]:
    for name, kinds in (("format", ("image", "chat")), ("max_mb", ("media",))):
        if partial.given("output", name) and partial.kind not in kinds and partial.knows("kind"):
            yield SpecError(path=("output", name), problem=f"is for `kind: {kinds[0]}` only")
    if partial.kind == "chat" or not partial.knows("kind"):
        return
    hears = partial.kind == "transcription"
    given = [(key,) for key in _CHAT_ONLY if partial.given(key) and not (hears and key == "files")]
    given += [("stream",)] if partial.spec.stream else []
    for path in (*given, *([("output", "each")] if partial.spec.output.each and not hears else [])):
        yield SpecError(path=path, problem="is for `kind: chat` only")


def _embedded(partial: PartialSpec) -> Iterator[SpecError]:
    """What an embedding cannot be made of, and parameters that no server knows."""
    if partial.kind != "embedding" or not partial.knows("kind"):
        if partial.spec.limits.inputs_per_request is not None and partial.knows("kind"):
            yield SpecError(path=("limits", "inputs_per_request"), problem="is for `kind: embedding` only")
        return
    source = partial.spec.prompts
    given: list[tuple[KeyPath, bool]] = [(("images",), bool(partial.spec.images))]
    given += [(("prompts", place, "images"), bool(entry.images)) for place, entry in enumerate(partial.entries)]
    if isinstance(source, SourceSpec):
        given.append((("prompts", "images"), bool(source.images)))
    for path, is_given in given:
        if is_given:
            yield SpecError(path=path, problem="is not for `kind: embedding`, which is made of the prompt's text")
    holders: list[tuple[KeyPath, dict[str, Json]]] = [(("params",), partial.spec.params)]
    holders += [(("prompts", place, "params"), entry.params) for place, entry in enumerate(partial.entries)]
    holders += [
        (("matrix", name), {name: value})
        for name, values in partial.spec.matrix.items()
        for value in (() if template_uses(partial, name) else values)
    ]
    for path, params in holders:
        for name, value in params.items():
            own = path if path[0] == "matrix" else (*path, name)
            yield from _vector_param(partial, own, name, value)


def _vector_param(partial: PartialSpec, path: KeyPath, name: str, value: Json) -> Iterator[SpecError]:
    if path[0] == "params" and is_filled_later(partial, value):
        return
    if name == "encoding_format" and value not in _ENCODINGS:
        yield SpecError(path=path, problem=f"cannot be {short(value)}", expected=" or ".join(_ENCODINGS))
    if name == "dimensions" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        yield SpecError(path=path, problem=f"cannot be {short(value)}", expected="a whole number of at least 1")


_ENCODINGS = ("float", "base64")
"""How a vector may be written in a reply."""


def _places_in_table(partial: PartialSpec) -> Iterator[SpecError]:
    """What the body of a task server's table has no place for would be dropped in silence."""
    table = table_of_job(partial)
    if table is None:
        return
    holes = table.holes()
    own = {hole.removeprefix("params.") for hole in holes}
    places: list[tuple[KeyPath, Collection[str]]] = [
        (("params",), partial.spec.params),
        *((("prompts", place, "params"), entry.params) for place, entry in enumerate(partial.entries) if entry.params),
        (("matrix",), [name for name in partial.spec.matrix if not template_uses(partial, name)]),
    ]
    for path, params in places if not holes & {"params", "body"} else ():
        for name in params:
            if name not in own:
                yield SpecError(path=(*path, name), problem="has no place in the body of the table in `provider.task`")
    if not partial.knows("images"):
        return
    source = partial.spec.prompts
    given: list[tuple[KeyPath, Collection[str]]] = [(("images",), partial.spec.images)]
    given += [(("prompts", place, "images"), entry.images or ()) for place, entry in enumerate(partial.entries)]
    if isinstance(source, SourceSpec):
        given.append((("prompts", "images"), source.images or ()))
    for path, images in given:
        if images and not holes & {"image", "images"}:
            yield SpecError(path=path, problem="has no place in the body of the table in `provider.task`")
        elif len(images) > 1 and "images" not in holes:
            yield SpecError(path=path, problem="is more than the table in `provider.task` takes: one picture")


def _own_params(partial: PartialSpec) -> Iterator[SpecError]:
    if not partial.knows("kind"):
        return
    places: list[tuple[KeyPath, Collection[str]]] = [
        (("params",), partial.spec.params),
        *((("prompts", place, "params"), entry.params) for place, entry in enumerate(partial.entries) if entry.params),
        (("matrix",), [name for name in partial.spec.matrix if not template_uses(partial, name)]),
    ]
    for path, params in places:
        for name in _OWN_PARAMS[partial.kind]:
            if name in params:
                problem = "is reserved: set by batchrunner, cannot be in `params`"
                yield SpecError(
                    path=(*path, name), problem=problem, hint=f"write {_OWN_KEYS[name]} at the top of the file"
                )


def _yaml_words(partial: PartialSpec) -> Iterator[SpecError]:
    """Where any value may stand, `no` could be meant as text or as false: only the author knows."""
    for path, written in partial.reading.written.items():
        free = path[0] in ("params", "matrix") or (path[0] == "prompts" and path[2:3] in (("vars",), ("params",)))
        if path and free and written.lower() in _YAML_WORDS:
            truth = "true" if written.lower() in ("yes", "on") else "false"
            hint = f'put it in quotes if it is text: "{written}", else write {truth}'
            yield SpecError(path=path, problem=f"is read by YAML as {truth}", hint=hint)


def _output(partial: PartialSpec) -> Iterator[SpecError]:
    folder = partial.spec.output.dir
    if folder is not None and is_address(folder):
        yield SpecError(
            path=("output", "dir"), problem=f"is the address {short(folder)}; {ADDRESS_PROBLEM}", hint=ADDRESS_HINT
        )
    elif folder is not None and (os.path.normpath(folder) in _NO_FOLDERS or "\0" in folder or folder.startswith("~")):
        problem = "cannot be the folder of a run"
        yield SpecError(path=("output", "dir"), problem=problem, expected="a path like outputs/NAME")
    yield from store_faults("upload", partial.spec.output.upload)
    yield from store_faults("ledger", partial.spec.output.ledger)
    each = partial.spec.output.each
    if each is not None and (each.startswith(("/", "~")) or ".." in PurePosixPath(each).parts or "\\" in each):
        problem = "leads out of the run's folder"
        yield SpecError(
            path=("output", "each"), problem=problem, expected='a path below it, like "answers/{{ id }}.md"'
        )


def _matrix(partial: PartialSpec) -> Iterator[SpecError]:
    for name in partial.spec.matrix:
        if not name.strip():
            yield SpecError(path=("matrix", name), problem="has no name")


def _images_from(partial: PartialSpec) -> Iterator[SpecError]:
    given = partial.spec.images_from
    for place, name in enumerate([given] if isinstance(given, str) else given or ()):
        path: KeyPath = ("images_from",) if isinstance(given, str) else ("images_from", place)
        if folder_of(located(partial.folder, name)) != located(partial.folder, name):
            yield SpecError(path=path, problem=f"there is no folder {name}", hint="paths are relative to the job file")


def _size(partial: PartialSpec) -> Iterator[SpecError]:
    """The number of items is a product: too many are noticed without making them."""
    factors = [(len(partial.entries), ("prompts",), "prompts")] if partial.entries else []
    factors += [(len(values), ("matrix",), f"of {name}") for name, values in partial.spec.matrix.items()]
    factors += [(len(partial.first_models), ("models",), "models"), (partial.spec.replicas, ("replicas",), "replicas")]
    items = prod(number for number, _, _ in factors if number)
    if items <= MAX_ITEMS:
        return
    most = max(factors)[1]
    by_matrix = prod(len(values) for values in partial.spec.matrix.values()) > 1
    product = " × ".join(f"{number:,} {what[:40]}" for number, _, what in factors if number > 1)
    of_each = "" if partial.entries else " of each row"
    yield SpecError(
        path=("matrix",) if by_matrix else most,
        problem=f"the job makes {items:,} items{of_each}: {product}",
        expected=f"at most {MAX_ITEMS:,} items",
        hint="leave out values, or split the job",
    )


def _checks(partial: PartialSpec) -> Iterator[SpecError]:
    yield from check_faults(partial.spec.checks)


# What a job of transcriptions must be: one file of sound for each prompt, and words in a form that can be read.
#
# A prompt is optional there: it tells the model how names are written. Everything else that a chat has besides is
# refused, for it would be dropped in silence.

_FORMATS: Final = ("json", "verbose_json", "diarized_json", "text", "srt", "vtt")
_ENDPOINTS: Final = ("transcriptions", "translations")
_GRANULARITIES: Final = ("word", "segment")
_TIMES: Final = "timestamp_granularities"


def transcription_faults(partial: PartialSpec) -> Iterator[SpecError]:
    """What is wrong with a job of `kind: transcription`; nothing for other jobs."""
    if partial.kind != "transcription" or not partial.knows("kind"):
        return
    source = partial.spec.prompts
    shown: list[tuple[KeyPath, bool]] = [(("images",), bool(partial.spec.images))]
    shown += [(("prompts", place, "images"), bool(entry.images)) for place, entry in enumerate(partial.entries)]
    if isinstance(source, SourceSpec):
        shown.append((("prompts", "images"), bool(source.images)))
    for path, is_given in shown:
        if is_given:
            yield SpecError(path=path, problem="is not for `kind: transcription`, which is made of sound")
    if len(partial.spec.files) > 1:
        yield SpecError(
            path=("files",), problem="names several files", expected="one: a transcript is that of one file of sound"
        )
    for path, name, value in _params(partial):
        if path[0] != "params" or not is_filled_later(partial, value):
            yield from _param_faults(path, name, value)


def _param_faults(path: KeyPath, name: str, value: Json) -> Iterator[SpecError]:
    """What no server knows. Names that are not here are the server's business."""
    if name == "response_format" and value not in _FORMATS:
        yield SpecError(path=path, problem=f"cannot be {short(value)}", expected=f"one of {', '.join(_FORMATS)}")
    if name == "endpoint" and value not in _ENDPOINTS:
        expected = f"one of {', '.join(_ENDPOINTS)}"
        yield SpecError(path=path, problem=f"cannot be {short(value)}", expected=expected)
    if name == _TIMES and not (isinstance(value, list) and all(one in _GRANULARITIES for one in value)):
        expected = f"a list of {' and '.join(_GRANULARITIES)}"
        yield SpecError(path=path, problem=f"cannot be {short(value)}", expected=expected)
    if name == f"{_TIMES}[]":
        yield SpecError(path=path, problem="is how the form calls it", hint=f"write `{_TIMES}`, a list")


def _params(partial: PartialSpec) -> Iterator[tuple[KeyPath, str, Json]]:
    """Where a parameter stands, its name and its value."""
    holders: list[tuple[KeyPath, dict[str, Json]]] = [(("params",), partial.spec.params)]
    holders += [(("prompts", place, "params"), entry.params) for place, entry in enumerate(partial.entries)]
    for path, params in holders:
        for name, value in params.items():
            yield (*path, name), name, value
    for name, values in partial.spec.matrix.items():
        if not template_uses(partial, name):
            for value in values:
                yield ("matrix", name), name, value


RULES: tuple[Callable[[PartialSpec], Iterator[SpecError]], ...] = (
    _name,
    provider_faults,
    _model,
    _prompts,
    source_faults,
    _messages,
    _chat_only,
    _embedded,
    transcription_faults,
    edited_picture_faults,
    _places_in_table,
    local_picture_faults,
    _matrix,
    _size,
    _images_from,
    _own_params,
    _yaml_words,
    schema_faults,
    _output,
    picture_faults,
    responses_faults,
    schedule_faults,
    _checks,
)


def broken_rules(partial: PartialSpec) -> Iterator[SpecError]:
    """Every fault that the rules find."""
    for rule in RULES:
        yield from rule(partial)
