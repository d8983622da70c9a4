"""The item: one prompt × model × parameters, the unit that is paid for."""

from dataclasses import dataclass, field

from batchrunner.core.job import Json, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPicture:
    """A picture given to a model."""

    name: str
    """The path or URL as the person wrote it; this is what rows show."""
    sha256: str
    """Hex digest of the bytes of a local file, or of the URL's text when it is passed on."""
    url: str
    """What is sent: a data URL for a local file, else the URL itself."""
    detail: str | None = None
    """How closely the model shall look, where a ready request says it and the dialect has a word for it."""


@dataclass(slots=True, kw_only=True)
class Item:
    """What is encoded, sent, decoded and recorded. Nobody changes an item, only its state changes.

    It is not frozen: that would cost three times as much, for every item of every pass.
    """

    id: str
    """Its name for people, unique in the job."""
    prompt_id: str
    """The prompt's own name, before matrix, model and replica suffixes."""
    index: int
    """1-based place in the job's order."""
    key: str
    """Content hash, 32 hex digits: what recognises the item across runs."""
    model: str
    prompt: str
    """The last rendered user text."""
    turns: tuple[Turn, ...]
    """The whole conversation as sent, system first; one user turn for images."""
    vars: dict[str, Json] = field(default_factory=dict)
    params: dict[str, Json] = field(default_factory=dict)
    pictures: tuple[InputPicture, ...] = ()
    schema: dict[str, Json] | None = None
    schema_sha256: str | None = None
    """Of `schema` as canonical JSON, hex; made once per job."""
    stream: bool = True
    replica: int = 1
    stem: str = ""
    """Safe file name without ending for its artifacts, unique in the job by casefold and NFC."""
    shows_messages: bool = False
    """True when the job has `messages:`: its row then has them too."""
