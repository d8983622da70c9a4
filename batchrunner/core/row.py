"""The lines of `results.jsonl` and `failures.jsonl`: a contract, so names never change with the provider.

What makes a row is declared as it is written: the encoder takes these values straight, in the order of their fields.
Optional fields are left out if they have their default; a field with `_always` stands in every row, None or not.
"""

from itertools import takewhile
from typing import Final, TypeAlias

import msgspec

from batchrunner.core.item import InputFile, InputPicture, Item
from batchrunner.core.job import Json
from batchrunner.core.outcome import Alternative, Answer, Problem, ToolCall, Usage
from batchrunner.core.values import dataclass

_SYSTEM_ROLES = ("system", "developer")
UNKNOWN_FORMAT: Final = "BIN"
"""Of files whose first bytes say nothing."""
_always = msgspec.field(default_factory=type(None))
"""None by default, and not left out: the encoder leaves out defaults, and does not know what a factory would make."""


class _Part(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A part of a row. Untracked by the garbage collector: nothing in it refers back to it."""


class Tokens(_Part, kw_only=True):
    """`usage` of a row; the cache fields are there only if they were reported."""

    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture on disk. `path` is relative to the run's directory, with `/`."""

    path: str
    sha256: str
    width: int | None
    """None, like `height`, of a picture that is kept as it came because it could not be checked."""
    height: int | None
    format: str
    """PNG, JPEG, WEBP, GIF; of others what their first bytes say, such as AVIF, or BIN."""
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureOrigin:
    """What a picture's file says of the item that it answers."""

    prompt: str
    model: str
    id: str
    key: str
    params: dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """A sound on disk. `path` is relative to the run's directory, with `/`."""

    path: str
    sha256: str
    format: str
    bytes: int
    transcript: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFile:
    """A video, a sound or any other file on disk. `path` is relative to the run's directory, with `/`."""

    path: str
    sha256: str
    type: str
    """By its first bytes, such as `video/mp4`; `application/octet-stream` where they say nothing."""
    format: str
    """The same in one word, such as MP4; BIN where it is not known."""
    bytes: int


class Missing(_Part, kw_only=True):
    """A picture or a sound of an answer that could not be fetched: where it lies, or its damaged bytes, and why."""

    reason: str
    url: str | None = None
    path: str | None = None


class ChatOutput(_Part, kw_only=True):
    """`output` of a chat row; absent things are null."""

    text: str
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...] | None
    parsed: Json
    finish_reason: str | None
    truncated: bool
    flags: tuple[str, ...] = ()
    path: str | None = None
    """The answer's own file when the job has `output.each`."""
    images: tuple[Picture, ...] = ()
    """Pictures in the answer."""
    audio: tuple[Audio, ...] = ()
    missing: tuple[Missing, ...] = ()
    choices: tuple[Alternative, ...] = ()
    """All answers where the request had several."""
    extras: dict[str, Json] = {}
    """What else came, under the server's own names; a row has these beside the other fields of `output`."""


class EmbeddingOutput(_Part, kw_only=True):
    """`output` of an embedding's row."""

    embedding: tuple[float, ...]
    dimensions: int
    flags: tuple[str, ...] = ()
    """What was odd: `usage_divided` (its tokens are its share of a request of several texts), `zero_vector`."""


class ImageOutput(_Part, kw_only=True):
    """`output` of an image row."""

    images: tuple[Picture, ...]
    flags: tuple[str, ...] = ()
    """What was odd: `fewer_pictures`, `shared_task`, `more_tasks`, `unknown_state`."""
    other_tasks: tuple[str, ...] = ()
    """Ids of further tasks that the same order made and that were not followed."""


class MediaOutput(_Part, kw_only=True):
    """`output` of a media row."""

    media: tuple[MediaFile, ...]
    flags: tuple[str, ...] = ()
    """As of `ImageOutput`, with `fewer_files`; `unchecked` where a file's type is not known."""
    other_tasks: tuple[str, ...] = ()


AnyOutput: TypeAlias = ChatOutput | ImageOutput | EmbeddingOutput | MediaOutput


class Effort(_Part, kw_only=True):
    """What an item took, over all runs."""

    attempts: int
    ambiguous: int
    """Sends that got no clear answer, cut off ones included: each may have been paid."""
    recovered: bool
    """True when a later process finished what an earlier one had begun."""
    started_at: str
    """UTC, RFC 3339 with milliseconds."""
    seconds: float


class ShownPicture(_Part, kw_only=True):
    """A picture, a document or a sound that was given to a model, as rows show it."""

    name: str
    sha256: str


class ResultRow(_Part, kw_only=True):
    """One succeeded item."""

    id: str
    prompt_id: str
    index: int
    model: str
    prompt: str
    system: str | None = _always
    """As sent; None where there was no system prompt."""
    vars: dict[str, Json]
    params: dict[str, Json]
    output: AnyOutput
    task_id: str | None
    usage: Tokens | Usage | None
    attempts: int
    ambiguous: int
    recovered: bool
    started_at: str
    seconds: float
    key: str
    messages: tuple[dict[str, str], ...] | None = None
    """The whole conversation as sent, where it is more than a prompt."""
    schema_sha256: str | None = None
    """Of the JSON Schema that the answer was asked to fit, as canonical JSON."""
    images: tuple[ShownPicture, ...] | None = None
    """Pictures given to the model."""
    files: tuple[ShownPicture, ...] | None = None
    """Documents and sound given to the model."""
    replica: int | None = None
    shared_with: str | None = None
    fallback_of: str | None = None
    """The id of the first model's item, which gave no answer, where another model was asked instead."""
    fallback_keys: tuple[str, ...] = ()
    """The keys of the items that this one was asked in place of, in order."""
    origin: dict[str, Json] | None = msgspec.field(name="from", default=None)
    """The run, and the item's id there, that the prompt was made of."""
    reused: dict[str, str] | None = None
    """The run, and the item's id there, that the answer was taken from; nothing was sent for it."""


class FailureRow(_Part, kw_only=True):
    """One item that failed for good."""

    id: str
    prompt_id: str
    index: int
    model: str
    prompt: str
    system: str | None = _always
    """As sent; None where there was no system prompt."""
    vars: dict[str, Json]
    params: dict[str, Json]
    error: dict[str, Json]
    """`class`, `message`, `status`, `code`, `request_id`."""
    task_id: str | None
    attempts: int
    ambiguous: int
    failed_at: str
    key: str
    messages: tuple[dict[str, str], ...] | None = None
    schema_sha256: str | None = None
    shared_with: str | None = None
    fallback_of: str | None = None
    """The id of the first model's item, which gave no answer, where another model was asked instead."""
    fallback_keys: tuple[str, ...] = ()
    """The keys of the items that this one was asked in place of, in order."""
    origin: dict[str, Json] | None = msgspec.field(name="from", default=None)
    """As of `ResultRow`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMedia:
    """What became of the pictures and sounds of a chat answer."""

    images: tuple[Picture, ...] = ()
    audio: tuple[Audio, ...] = ()
    missing: tuple[Missing, ...] = ()


NO_MEDIA: Final = KeptMedia()


def unchecked(pictures: tuple[Picture, ...]) -> tuple[str, ...]:
    """The flag of pictures that could not be checked."""
    return ("unchecked",) if any(picture.width is None for picture in pictures) else ()


def answer_output(answer: Answer, *, path: str | None, media: KeptMedia = NO_MEDIA) -> "ChatOutput | EmbeddingOutput":
    """The contract's shape of an answer: of a chat, or a vector."""
    if answer.embedding:
        return EmbeddingOutput(embedding=answer.embedding, dimensions=len(answer.embedding), flags=answer.flags)
    flags = answer.flags
    if media is not NO_MEDIA:
        flags = (*flags, *unchecked(media.images), *(("media_missing",) if media.missing else ()))
    return ChatOutput(
        text=answer.text,
        reasoning=answer.reasoning,
        tool_calls=answer.tool_calls or None,
        parsed=answer.parsed,
        finish_reason=answer.finish_reason,
        truncated=answer.truncated,
        flags=flags,
        path=path,
        images=media.images,
        audio=media.audio,
        missing=media.missing,
        choices=answer.choices,
        extras=answer.extras,
    )


def task_output(
    files: "tuple[Picture | MediaFile, ...]", *, flags: tuple[str, ...], other_tasks: tuple[str, ...]
) -> ImageOutput | MediaOutput:
    """The contract's shape of what a task made: pictures, or files of any type."""
    media = tuple(file for file in files if isinstance(file, MediaFile))
    if media:
        unknown = ("unchecked",) if any(file.format == UNKNOWN_FORMAT for file in media) else ()
        return MediaOutput(media=media, flags=(*flags, *unknown), other_tasks=other_tasks)
    pictures = tuple(file for file in files if isinstance(file, Picture))
    return ImageOutput(images=pictures, flags=(*flags, *unchecked(pictures)), other_tasks=other_tasks)


def files_of(output: AnyOutput) -> tuple[Picture | Audio | MediaFile, ...]:
    """The pictures, sounds and other files that a row names."""
    if isinstance(output, MediaOutput):
        return output.media
    if isinstance(output, ChatOutput):
        return (*output.images, *output.audio)
    return output.images if isinstance(output, ImageOutput) else ()


def system_of(item: Item) -> str | None:
    """The system prompt as sent: what stands before the conversation, several parts in paragraphs; None without one."""
    if not item.turns or item.turns[0].role not in _SYSTEM_ROLES:
        return None
    said = [turn.content for turn in takewhile(lambda turn: turn.role in _SYSTEM_ROLES, item.turns)]
    return "\n\n".join(said)


def tokens_of(usage: Usage | None) -> Tokens | None:
    """Usage as rows show it."""
    if usage is None:
        return None
    return Tokens(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )


def _messages(item: Item) -> tuple[dict[str, str], ...] | None:
    return tuple({"role": t.role, "content": t.content} for t in item.turns) or None if item.shows_messages else None


def _shown(given: tuple[InputPicture, ...] | tuple[InputFile, ...]) -> tuple[ShownPicture, ...]:
    return tuple(ShownPicture(name=one.name, sha256=one.sha256) for one in given)


def result_row(
    item: Item,
    output: AnyOutput,
    *,
    usage: Usage | None,
    task_id: str | None,
    effort: Effort,
) -> ResultRow:
    """The row of a succeeded item."""
    return ResultRow(
        id=item.id,
        prompt_id=item.prompt_id,
        index=item.index,
        model=item.model,
        prompt=item.prompt,
        system=system_of(item),
        vars=item.vars,
        params=item.params,
        output=output,
        task_id=task_id,
        usage=tokens_of(usage),
        attempts=effort.attempts,
        ambiguous=effort.ambiguous,
        recovered=effort.recovered,
        started_at=effort.started_at,
        seconds=effort.seconds,
        key=item.key,
        messages=_messages(item) if item.shows_messages else None,
        schema_sha256=item.schema_sha256,
        images=_shown(item.pictures) if item.pictures else None,
        files=_shown(item.files) if item.files else None,
        replica=item.replica if item.replica > 1 else None,
        fallback_of=item.fallback_of,
        fallback_keys=item.fallback_keys,
        origin=item.origin,
    )


def failure_row(
    item: Item, problem: Problem, *, task_id: str | None, attempts: int, ambiguous: int, at: str
) -> FailureRow:
    """The row of an item that failed for good."""
    return FailureRow(
        id=item.id,
        prompt_id=item.prompt_id,
        index=item.index,
        model=item.model,
        prompt=item.prompt,
        system=system_of(item),
        vars=item.vars,
        params=item.params,
        error={
            "class": problem.kind.value,
            "message": problem.message,
            "status": problem.status,
            "code": problem.code,
            "request_id": problem.request_id,
        },
        task_id=task_id,
        attempts=attempts,
        ambiguous=ambiguous,
        failed_at=at,
        key=item.key,
        messages=_messages(item),
        schema_sha256=item.schema_sha256,
        fallback_of=item.fallback_of,
        fallback_keys=item.fallback_keys,
        origin=item.origin,
    )
