"""What the keys of a job must be to each other. One function for each rule; `RULES` lists them all.

Each gives faults for what it can judge and stays silent about keys that are broken already.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from math import prod
from pathlib import PurePosixPath
from unicodedata import category

from batchrunner.core.item import is_address
from batchrunner.core.job import Json, Kind
from batchrunner.spec.answer_schema import schema_faults
from batchrunner.spec.draft import Draft
from batchrunner.spec.models import SourceSpec
from batchrunner.spec.named_files import folder_of, is_there, located, real_name
from batchrunner.spec.night import night_faults
from batchrunner.spec.picture_checks import is_filled_later, picture_faults, template_uses
from batchrunner.spec.places import Fault, KeyPath, short
from batchrunner.spec.provider import dialect_of, provider_faults

ADDRESS_PROBLEM = "results can be written to a local folder only"
ADDRESS_HINT = "name a local folder, and copy it when the run has ended"
SIMULATED_ENDING = ".simulated"

MAX_ITEMS = 10_000_000
"""A job with more would be read for hours before its first request: most likely a matrix with one axis too many."""

_FOLDER = re.compile(r"\w[\w .()+@=,~-]*")
_MAX_NAME_BYTES = 100
_CHAT_ONLY = ("system", "messages", "schema")
_NO_FOLDERS = {".", "..", "/", "//"}
_YAML_WORDS = {"yes", "no", "on", "off"}
_OWN_KEYS: dict[str, str] = {
    "model": "`model` or `models`",
    "prompt": "`prompts`",
    "messages": "`messages`",
    "stream": "`stream`",
}
"""Parameters that the program writes itself, and the key that is meant."""
_OWN_PARAMS: dict[Kind, tuple[str, ...]] = {"chat": ("model", "messages", "stream"), "image": ("model", "prompt")}


def job_name(draft: Draft) -> str:
    """Given, or the job file's name without its ending."""
    if draft.spec.name is not None:
        return draft.spec.name
    return re.sub(r"\.(ya?ml|json)$", "", real_name(draft.file).name, flags=re.IGNORECASE)


def _name(draft: Draft) -> Iterator[Fault]:
    if not draft.knows("name"):
        return
    name = job_name(draft)
    hint = None if draft.spec.name else "it comes from the file's name; give the job another with `name:`"
    expected = "letters, digits, spaces and .-_()+@=,~ with a letter or digit first"
    if not _FOLDER.fullmatch(name) or name[-1] in " ." or len(name.encode()) > _MAX_NAME_BYTES:
        yield Fault(path=("name",), problem="cannot be the name of a folder", expected=expected, hint=hint)
    elif name.endswith(SIMULATED_ENDING):
        yield Fault(path=("name",), problem=f"ends with {SIMULATED_ENDING}, as simulated runs do", hint=hint)


def _model(draft: Draft) -> Iterator[Fault]:
    if draft.given("model") and draft.given("models"):
        yield Fault(path=("models",), problem="stands beside `model`", expected="one of the two")
    elif not draft.given("model") and not draft.given("models"):
        yield Fault(path=("model",), problem="is missing", expected="the id of a model, or `models` with a list")
    seen: dict[str, int] = {}
    for place, model in enumerate(draft.spec.models or ()):
        if model in seen:
            yield Fault(path=("models", place), problem=f"is the same as models[{seen[model]}]")
        seen.setdefault(model, place)


def _prompts(draft: Draft) -> Iterator[Fault]:
    if not draft.given("prompts"):
        problem = "is empty" if _holds(draft, "prompts") else "is missing"
        yield Fault(path=("prompts",), problem=problem, expected="a list of prompts, or a mapping with `file`")
    first: dict[str, KeyPath] = {}
    for place, entry in enumerate(draft.entries):
        path: KeyPath = ("prompts", place)
        yield from _text_or_vars(draft, place)
        if entry.id is None:
            continue
        if any(category(char) in ("Cc", "Zl", "Zp") for char in entry.id):
            yield Fault(path=(*path, "id"), problem="has a control character in it")
        if entry.id in first:
            line = draft.reading.lines.get((*first[entry.id], "id"))
            hint = f"first on line {line}" if line else None
            yield Fault(path=(*path, "id"), problem=f'is "{entry.id}" again; ids are unique', hint=hint)
        first.setdefault(entry.id, path)


def _holds(draft: Draft, key: str) -> bool:
    return isinstance(draft.reading.tree, dict) and key in draft.reading.tree


def _text_or_vars(draft: Draft, place: int) -> Iterator[Fault]:
    """A listed prompt has a text, unless the messages have it."""
    written = draft.reading.tree["prompts"] if isinstance(draft.reading.tree, dict) else None
    entry = written[place] if isinstance(written, list) and place < len(written) else None
    if not isinstance(entry, dict):
        return
    if "prompt" not in entry and not draft.given("messages") and not any(k not in _ENTRY_KEYS for k in entry):
        yield Fault(path=("prompts", place), problem="has no `prompt`")
    variables = entry.get("vars")
    if "prompt" in entry and draft.given("messages") and isinstance(variables, dict) and "prompt" in variables:
        yield Fault(path=("prompts", place, "vars", "prompt"), problem="stands beside the entry's own `prompt`")


_ENTRY_KEYS = {"id", "prompt", "params", "vars", "images"}


def _source(draft: Draft) -> Iterator[Fault]:
    source = draft.spec.prompts
    if not isinstance(source, SourceSpec):
        return
    if not is_there(located(draft.folder, source.file)):
        folder = str(draft.folder)
        hint = f"paths are relative to the job file, in {folder}" if folder != "." else None
        yield Fault(path=("prompts", "file"), problem=f"there is no file or folder {source.file}", hint=hint)
    ending = PurePosixPath(source.file).suffix.lower()
    if source.encoding is not None and not _is_text_encoding(source.encoding):
        yield Fault(
            path=("prompts", "encoding"),
            problem=f"is {short(source.encoding)}, which is no text encoding that Python knows",
            expected="a name like gb18030, big5, shift_jis, utf-16-le or cp1252",
        )
    elif source.encoding is not None and ending == ".parquet":
        yield Fault(path=("prompts", "encoding"), problem="is for files of text; Parquet has an encoding of its own")
    if source.delimiter is not None and ending != ".csv":
        hint = "a .tsv file is cut at tabs" if ending == ".tsv" else None
        yield Fault(path=("prompts", "delimiter"), problem="is for .csv files only", hint=hint)
    elif source.delimiter is not None and source.delimiter in '\r\n"\0':
        yield Fault(path=("prompts", "delimiter"), problem=f"cannot be {short(source.delimiter)}", expected="like ;")
    if source.template and draft.given("messages"):
        problem = "stands beside `messages`, which say the same"
        yield Fault(path=("prompts", "template"), problem=problem, expected="one of the two")


def _is_text_encoding(name: str) -> bool:
    try:
        "".encode(name)
        return isinstance(b"".decode(name), str)
    except (LookupError, ValueError, TypeError):
        return False


def _messages(draft: Draft) -> Iterator[Fault]:
    turns = draft.spec.messages or []
    if turns and not any(turn.role == "user" for turn in turns):
        yield Fault(path=("messages",), problem="has no message of the user", expected="at least one with role: user")
    for place, turn in enumerate(turns):
        if turn.role == "system" and draft.given("system"):
            yield Fault(
                path=("messages", place), problem="is a system prompt beside `system`", expected="one of the two"
            )


def _chat_only(draft: Draft) -> Iterator[Fault]:
    if draft.kind == "chat" or not draft.knows("kind"):
        return
    for key in _CHAT_ONLY:
        if draft.given(key):
            yield Fault(path=(key,), problem="is for `kind: chat` only")
    if draft.spec.stream:
        yield Fault(path=("stream",), problem="is for `kind: chat` only")
    if draft.spec.output.each:
        yield Fault(path=("output", "each"), problem="is for `kind: chat` only")


def _edited(draft: Draft) -> Iterator[Fault]:
    """Pictures to start from stand in `images` or in the dialect's own parameter: of both, one would be ignored."""
    if draft.kind == "chat" or not draft.knows("kind") or not draft.knows("provider"):
        return
    own = _PICTURE_PARAMS.get(dialect_of(draft) or "", "")
    for place, entry in enumerate(draft.entries):
        if entry.images and own in {**draft.spec.params, **entry.params}:
            yield Fault(path=("prompts", place, "images"), problem=f"stands beside the parameter `{own}`, which wins")
    if draft.given("images") and own in draft.spec.params:
        yield Fault(path=("images",), problem=f"stands beside the parameter `{own}`, which wins")


def _local_pictures(draft: Draft) -> Iterator[Fault]:
    """A parameter is sent as it is: the name of a file on this machine means nothing to the server."""
    if draft.kind == "chat" or not draft.knows("kind"):
        return
    places: list[tuple[KeyPath, Json]] = []
    holders: list[tuple[KeyPath, dict[str, Json]]] = [(("params",), draft.spec.params)]
    holders += [
        (("prompts", place, "params"), entry.params) for place, entry in enumerate(draft.entries) if entry.params
    ]
    for path, params in holders:
        places += [
            ((*path, name), params[name])
            for name in sorted(_PICTURE_NAMES & params.keys())
            if path != ("params",) or not is_filled_later(draft, params[name])
        ]
    for name in sorted(_PICTURE_NAMES & draft.spec.matrix.keys()):
        if template_uses(draft, name):
            continue
        places += [(("matrix", name, place), value) for place, value in enumerate(draft.spec.matrix[name])]
    for path, value in places:
        inner = enumerate(value) if isinstance(value, list) else [(None, value)]
        for place, text in inner:
            if isinstance(text, str) and _local(draft, text):
                own = path if place is None else (*path, place)
                problem = f"{short(text)} is a local file, which the server cannot read"
                yield Fault(path=own, problem=problem, hint="local pictures go into `images:`")


def _local(draft: Draft, text: str) -> bool:
    if is_address(text) or text.startswith(("data:", _BARE_JPEG)) or len(text) > _LONGEST_PATH:
        return text.lower().startswith("file:")
    return bool(_PICTURE_PATH.match(text)) or is_there(located(draft.folder, text), as_file=True)


_PICTURE_PATH = re.compile(
    r"(\.{1,2}|~)?[/\\]|[A-Za-z]:[/\\]|[^\n]*\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic|svg)\Z", re.IGNORECASE
)
_LONGEST_PATH = 1000
_BARE_JPEG = "/9j/"
"""How a JPEG begins in base64, which some servers take without `data:`."""
_PICTURE_NAMES = {"image_url", "image", "images", "mask"}
_PICTURE_PARAMS = {"modelscope-images": "image_url", "openai-images": "image"}
"""Where a dialect sends the pictures to start from."""


def _own_params(draft: Draft) -> Iterator[Fault]:
    if not draft.knows("kind"):
        return
    places: list[tuple[KeyPath, Collection[str]]] = [
        (("params",), draft.spec.params),
        *((("prompts", place, "params"), entry.params) for place, entry in enumerate(draft.entries) if entry.params),
        (("matrix",), [name for name in draft.spec.matrix if not template_uses(draft, name)]),
    ]
    for path, params in places:
        for name in _OWN_PARAMS[draft.kind]:
            if name in params:
                problem = "is no parameter: the program writes it into every request"
                yield Fault(path=(*path, name), problem=problem, hint=f"write {_OWN_KEYS[name]} at the top of the file")


def _yaml_words(draft: Draft) -> Iterator[Fault]:
    """Where any value may stand, `no` could be meant as text or as false: only the writer knows."""
    for path, written in draft.reading.written.items():
        free = path[0] in ("params", "matrix") or (path[0] == "prompts" and path[2:3] in (("vars",), ("params",)))
        if path and free and written.lower() in _YAML_WORDS:
            truth = "true" if written.lower() in ("yes", "on") else "false"
            hint = f'put it in quotes if it is text: "{written}", else write {truth}'
            yield Fault(path=path, problem=f"is read by YAML as {truth}", hint=hint)


def _output(draft: Draft) -> Iterator[Fault]:
    folder = draft.spec.output.dir
    if folder is not None and is_address(folder):
        yield Fault(
            path=("output", "dir"), problem=f"is the address {short(folder)}; {ADDRESS_PROBLEM}", hint=ADDRESS_HINT
        )
    elif folder is not None and (os.path.normpath(folder) in _NO_FOLDERS or "\0" in folder or folder.startswith("~")):
        problem = "is no folder that a run could have for itself"
        yield Fault(path=("output", "dir"), problem=problem, expected="a path like outputs/NAME")
    each = draft.spec.output.each
    if each is not None and (each.startswith(("/", "~")) or ".." in PurePosixPath(each).parts or "\\" in each):
        problem = "leads out of the run's folder"
        yield Fault(path=("output", "each"), problem=problem, expected='a path below it, like "answers/{{ id }}.md"')


def _matrix(draft: Draft) -> Iterator[Fault]:
    for name in draft.spec.matrix:
        if not name.strip():
            yield Fault(path=("matrix", name), problem="has no name")


def _images_from(draft: Draft) -> Iterator[Fault]:
    given = draft.spec.images_from
    for place, name in enumerate([given] if isinstance(given, str) else given or ()):
        path: KeyPath = ("images_from",) if isinstance(given, str) else ("images_from", place)
        if folder_of(located(draft.folder, name)) != located(draft.folder, name):
            yield Fault(path=path, problem=f"there is no folder {name}", hint="paths are relative to the job file")


def _size(draft: Draft) -> Iterator[Fault]:
    """How many items the job has is a product: nobody has to make them to see that they are too many."""
    factors = [(len(draft.entries), ("prompts",), "prompts")] if draft.entries else []
    factors += [(len(values), ("matrix",), f"of {name}") for name, values in draft.spec.matrix.items()]
    factors += [(len(draft.models), ("models",), "models"), (draft.spec.replicas, ("replicas",), "replicas")]
    items = prod(number for number, _, _ in factors if number)
    if items <= MAX_ITEMS:
        return
    most = max(factors)[1]
    by_matrix = prod(len(values) for values in draft.spec.matrix.values()) > 1
    product = " × ".join(f"{number:,} {what[:40]}" for number, _, what in factors if number > 1)
    of_each = "" if draft.entries else " of each row"
    yield Fault(
        path=("matrix",) if by_matrix else most,
        problem=f"the job makes {items:,} items{of_each}: {product}",
        expected=f"at most {MAX_ITEMS:,} items",
        hint="leave out values, or split the job",
    )


RULES: tuple[Callable[[Draft], Iterator[Fault]], ...] = (
    _name,
    provider_faults,
    _model,
    _prompts,
    _source,
    _messages,
    _chat_only,
    _edited,
    _local_pictures,
    _matrix,
    _size,
    _images_from,
    _own_params,
    _yaml_words,
    schema_faults,
    _output,
    picture_faults,
    night_faults,
)


def broken_rules(draft: Draft) -> Iterator[Fault]:
    """Every fault that the rules find."""
    for rule in RULES:
        yield from rule(draft)
