"""What a job of transcriptions must be: one file of sound for each prompt, and words in a form that can be read.

A prompt is optional there: it tells the model how names are written. Everything else that a chat has besides is
refused, for it would be dropped in silence.
"""

from collections.abc import Iterator
from typing import Final

from batchrunner.core.job import Json
from batchrunner.spec.image_rules import is_filled_later, template_uses
from batchrunner.spec.job_errors import KeyPath, SpecError, short
from batchrunner.spec.partial import PartialSpec
from batchrunner.spec.source_keys import SourceSpec

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
