"""The job as values: what `spec` makes of a job file and everyone else reads. Nothing here is optional by accident."""

from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from batchrunner.core.budget import Budget
from batchrunner.core.fallback import Fallback
from batchrunner.core.places import is_remote
from batchrunner.core.rate_limiter_tuning import CEILING
from batchrunner.core.schedule import Deadline, Window
from batchrunner.core.values import dataclass, field, replace

if TYPE_CHECKING:
    from batchrunner.core.part import Shard
    from batchrunner.core.task_table import TaskTable

    Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
else:  # a recursive alias means nothing to those who read annotations when the program runs, like msgspec
    Json = Any

Kind = Literal["chat", "image", "embedding", "media", "transcription"]
TASK_KINDS: tuple[Kind, ...] = ("image", "media")
"""Kinds whose answers are files, made by tasks that may cost much and end late."""
PresetName = Literal["modelscope", "modelscope-anthropic", "openai", "azure", "gemini", "anthropic", "simulator"]
DialectName = Literal[
    "openai-chat",
    "openai-responses",
    "anthropic-messages",
    "modelscope-images",
    "openai-images",
    "task",
    "openai-embeddings",
    "openai-transcriptions",
]
AuthScheme = Literal["bearer", "x-api-key", "api-key", "none"]
NotifyEvent = Literal["ended", "paused", "all_parked", "first_failure"]
NOTIFY_EVENTS: tuple[NotifyEvent, ...] = get_args(NotifyEvent)
PictureFormat = Literal["png", "jpeg", "webp", "gif"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Where requests go, in which dialect, and with whose keys (their names only)."""

    preset: PresetName
    dialect: DialectName
    base_url: str
    """Normalised: no end slash, no pasted endpoint path; `http://simulator.invalid/v1` for the simulator in process."""
    key_env: tuple[str, ...]
    """Names of environment variables, one account each."""
    auth: AuthScheme
    key_files: dict[str, str] = field(default_factory=dict)
    """Files with one key each, by account: `file:` and the name as the job has it. May begin with `~` or `$NAME`."""
    key_commands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Commands that print one key each, by account: `cmd:` and the command as the job has it."""
    headers: dict[str, str] = field(default_factory=dict)
    proxy: str | None = None
    proxy_auth_env: str | None = None
    """The NAME of the environment variable that has the proxy's `user:password`."""
    api_version: str | None = None
    """Goes onto every URL as `api-version`, as Azure wants it."""
    edits_as_form: bool = False
    """Pictures to start from go as files to `images/edits`, as OpenAI has it; else as `image` of the usual request."""
    allow_http: bool = False
    ca_file: str | None = None
    points_per_day: float | None = None
    """Points that an account gets a day; None where calls cost none."""
    points_per_call: dict[str, float] = field(default_factory=dict)
    """By model; empty where calls cost none."""
    points_assumed: bool = False
    """True while either is the preset's guess rather than the person's word."""
    balance: bool = False
    """Ask ModelScope for the balance of points before a run and in `plan`."""
    task: "TaskTable | None" = None
    """What the server of `dialect: task` is like."""
    key_header: str = ""
    """The header that carries the key where `auth` has no name for it; empty: as `auth` says."""
    key_prefix: str = ""
    """What stands before the key in that header."""
    cache_system: bool = False
    """Ask the server to keep what all requests begin with, where a dialect has words for that; no part of a key."""

    @property
    def accounts(self) -> tuple[str, ...]:
        """What the ledger calls each key: the name of its variable, its file or its command."""
        return (*self.key_env, *self.key_files, *self.key_commands)


FILE_ACCOUNT, COMMAND_ACCOUNT = "file:", "cmd:"
"""What accounts begin with whose keys come from no variable: no variable's name has a colon."""


def setting_of_account(account: str) -> str:
    """The key of the job file that names where this account's API key comes from."""
    if account.startswith(FILE_ACCOUNT):
        return "provider.api_key_file"
    return "provider.api_key_cmd" if account.startswith(COMMAND_ACCOUNT) else "provider.api_key_env"


@dataclass(slots=True, unsafe_hash=True)
class Turn:
    """One message of a conversation; `content` is a template in a job and rendered text in an item.

    Nobody changes one. It is not frozen: that would cost three times as much, for every turn of every item.
    """

    role: str
    content: str
    raw: dict[str, Json] | None = field(default=None, compare=False)
    """The message of a ready request where it is more than a text: sent as it stands. `content` is then its words."""
    raw_decides: bool = field(default=False, compare=False)
    """True when `raw` says what role, content and the item's pictures do not: the key has it then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPrompt:
    """An entry of `prompts:` when it is a list. `prompt` is a template (matrix names and `vars`)."""

    prompt: str | None
    """None only when the job has `messages:`, which then use `vars`, or this text as `prompt`."""
    id: str | None = None
    params: dict[str, Json] = field(default_factory=dict)
    vars: dict[str, Json] = field(default_factory=dict)
    images: tuple[str, ...] | None = None
    line: int | None = None
    """1-based line in the job file, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """`prompts:` as a list."""

    entries: tuple[ListedPrompt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A part of a source's rows, chosen by hash so that the choice is the same in every pass."""

    n: int
    """Values of `by`."""
    seed: int = 0
    by: str | None = None
    """A name of the row; None is a run's `id`, or the whole row of other sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Several rows in one prompt."""

    by: str
    """A name of the row; rows with the same value go together."""
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A name whose value is drawn at random for each row."""

    name: str
    values: tuple[Json, ...] = ()
    path: str | None = None
    """A file whose rows are the values; as `Source.path`."""
    shown: str = ""
    column: str | None = None
    """Of the file; None takes whole rows, or the only column."""
    size: int | None = None
    """So many different values at a time, as a list; None is one value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`prompts:` from a file, a folder or a run, or made by drawing; rows are streamed."""

    path: str
    """Absolute, or relative to the working directory: `spec` has resolved it against the job file's folder."""
    shown: str
    """As the person wrote it; of a run that a simulated job reads, the simulated twin."""
    run: bool = False
    """`path` is the results folder of another job; its rows are those that are done."""
    count: int | None = None
    """So many rows, of drawn values alone; then there is no file, and `path` is empty."""
    template: str | None = None
    id: str | None = None
    images: tuple[str, ...] | None = None
    """Templates of the pictures of each row; None: those of the job."""
    where: str | None = None
    """An expression; rows for which it does not hold are left out."""
    sample: Sample | None = None
    explode: str | None = None
    """An expression that gives a list; each entry becomes a row."""
    dedupe: str | None = None
    """An expression; of rows for which it gives the same text the first is used."""
    group: Group | None = None
    draw: tuple[Draw, ...] = ()
    seed: int = 0
    """Of what is drawn."""
    takes_unfinished: bool = False
    """A run with items left is read as it is, instead of being refused."""
    pair: tuple[str, str] | None = None
    """Of a judge: two models of the run; a row is a prompt with the answers of both, in either order."""
    limit: int | None = None
    on_bad_row: Literal["fail", "skip"] = "fail"
    encoding: str | None = None
    """Of a file that is no UTF-8; None reads UTF-8, or UTF-16 and UTF-32 that say so with their first bytes."""
    delimiter: str | None = None
    """Between the columns of a `.csv`; None is a comma."""
    line: int | None = None
    """1-based line of `file` or `run` in the job file, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What must not be exceeded, per lane unless it says otherwise; None is no limit of its own."""

    concurrency: int | None = None
    """None is `auto`."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    requests_per_day: int | None = None
    in_flight_tasks: int | None = None
    poll_per_second: float | None = None
    """Per account."""
    inputs_per_request: int | None = None
    """Texts of a request for embeddings; None for other jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """`batch:`: whether items go through the provider's batch API, and what becomes of them there."""

    use: Literal["auto", "always", "never"] = "never"
    """`never` orders none, and still follows those that an earlier run ordered."""
    max_items: int | None = None
    """Of a batch; None is what the provider takes."""
    max_wait_s: float = 24 * 3600.0
    """How long a run waits for its batches."""
    look_every_s: float | None = None
    """Between two questions how a batch stands; None begins with 30 seconds and ends with five minutes."""
    rest: Literal["online", "wait"] = "online"
    """What a batch gave back, where that is too little for another one: the ordinary way, or a small batch."""
    on_lost: Literal["hold", "resend"] = "hold"
    give_up_s: float | None = None
    """After a batch was accepted; None is an hour after it expires at the server, or 26 hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often an item is tried, and the longest wait between tries, in seconds."""

    attempts: int = 5
    max_wait_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Deadlines in seconds."""

    connect_s: float = 10.0
    first_byte_s: float = 120.0
    idle_s: float = 120.0
    total_s: float = 600.0
    task_s: float = 600.0
    download_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where results land and how artifacts are called."""

    dir: str
    """Relative to the working directory, or absolute."""
    former_dirs: tuple[str, ...] = ()
    """Where earlier versions may have put the same results: below the working directory, below the job file's folder.

    Without `dir` itself.
    """
    format: PictureFormat | None = None
    """None keeps what the server sent."""
    name: str = "{{ id }}"
    each: str | None = None
    """Template of a path below `dir`: every answer also goes into a file of its own."""
    max_mb: int = 500
    """The most megabytes of one file, with `kind: media`."""
    upload: str | None = None
    """Address of a store to which finished files are copied."""
    ledger: str | None = None
    """Address of a store in which the ledger and the rows are, too."""
    report: bool = True
    """Write `report.html` at the end, and thumbnails of pictures as they come."""


CheckKind: TypeAlias = Literal[
    "equals", "contains", "any", "regex", "number", "json", "length", "within", "python", "picture", "judge"
]
CHECK_KINDS: tuple[CheckKind, ...] = get_args(CheckKind)
CheckedPart: TypeAlias = Literal["text", "reasoning", "parsed", "tool_calls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One entry of `checks:`."""

    name: str
    """Unique among the job's checks."""
    kind: CheckKind
    expected: Json = None
    """What is compared with, by kind: a template, a list of texts, a pattern, a path, limits or a function's place."""
    options: dict[str, Json] = field(default_factory=dict)
    """What else the kind takes, as the job file has it; nothing for what was left out."""
    of: CheckedPart = "text"
    when: str | None = None
    """A template; the check applies where it comes to true."""
    counts: bool = True
    """Whether it is part of the item's `pass`."""
    negated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job file, read, checked and resolved."""

    name: str
    file: str
    """The job file as the person named it, for messages and for the command that continues the run."""
    folder: PurePath
    """The job file's folder: local pictures and schema files are relative to it."""
    kind: Kind
    provider: Provider
    models: tuple[str, ...]
    prompts: Listing | Source
    matrix: dict[str, tuple[Json, ...]]
    params: dict[str, Json]
    system: str | None
    """A template."""
    messages: tuple[Turn, ...]
    """Templates; empty when the prompt itself is the one user message."""
    images: tuple[str, ...]
    """Templates of local paths or URLs of pictures given to the model."""
    schema: dict[str, Json] | None
    stream: bool
    replicas: int
    limits: Limits
    retry: RetryPolicy
    timeouts: Timeouts
    output: Output
    durability: Literal["full", "result"]
    on_ambiguous: Literal["resend", "hold"]
    on_quota: Literal["wait", "stop"]
    breaker: int
    picture_folders: tuple[str, ...] = ()
    """Local pictures lie below `folder` or one of these: the project's folder, the source's own, `images_from`."""
    files: tuple[str, ...] = ()
    """Templates of local paths or URLs of documents and sound given to the model."""
    images_from: tuple[str, ...] = ()
    """Folders in which a relative name of a picture is looked for where `folder` has none."""
    simulated: bool
    """True for `provider: simulator` and `--simulate`: such a run never mixes with a real one."""
    scenario: str | None = None
    """Faults for the in-process simulator to simulate, for example `throttle:3`."""
    window: Window | None = None
    """The part of each day in which it sends."""
    timezone: str | None = None
    """IANA name of the zone of `window` and `deadline`; None is the machine's own."""
    deadline: Deadline | None = None
    budget: Budget | None = None
    batch: BatchPolicy = BatchPolicy()
    fallback: Fallback | None = None
    """The models are asked one after another; None: every prompt goes to each of them."""
    notify: tuple[str, ...] = ()
    """The words of a command that is told; empty for none."""
    notify_apprise_env: str | None = None
    """The NAME of the environment variable that has the addresses for Apprise."""
    notify_on: tuple[NotifyEvent, ...] = ()
    """What is told; empty where nobody is."""
    overridden: tuple[str, ...] = ()
    """Keys that the command line set: `batchrunner set` does not change them in this run."""
    checks: tuple[Check, ...] = ()
    """In the job's order."""
    reuse: tuple[tuple[str, str], ...] = ()
    """(path, as the person wrote it) of the results folders of other runs whose answers it takes."""
    body: dict[str, Json] | None = None
    """What `provider.body_file` holds; its texts are templates."""
    shard: "Shard | None" = None
    """Of several processes that share the job: this one's items. None has all."""

    @property
    def first_models(self) -> tuple[str, ...]:
        """Those that every prompt goes to."""
        return self.models if self.fallback is None else self.models[:1]


def seen_from_its_folder(job: Job, real: Callable[[str], str]) -> Job:
    """The same job with its paths relative to its own folder, so that it is equal from every working directory.

    For digests: its own file's path is left out, and so are its checks, its batches and what it reuses, which change no
    request, and where the results lie, of which the digest stands in them.
    `real` gives the real path of a name, as `os.path.realpath`; a name with which it cannot deal stays as it is.
    """

    def real_or_as_it_is(path: str) -> str:
        try:
            return real(path)
        except (OSError, ValueError):  # the working directory is gone, or no file can have this name
            return path

    here = PurePath(real_or_as_it_is(str(job.folder))).parts

    def relative(path: str) -> str:
        if is_remote(path):
            return path
        parts = PurePath(real_or_as_it_is(path)).parts
        common = 0
        while common < min(len(here), len(parts)) and here[common] == parts[common]:
            common += 1
        return str(PurePath(*[".."] * (len(here) - common), *parts[common:]))

    prompts, ca_file = job.prompts, job.provider.ca_file
    key_files = {account: relative(path) for account, path in job.provider.key_files.items()}
    commands = {
        account: (relative(words[0]) if "/" in words[0] else words[0], *words[1:])
        for account, words in job.provider.key_commands.items()
    }
    return replace(
        job,
        file="",
        folder=PurePath(),
        provider=replace(
            job.provider,
            ca_file=relative(ca_file) if ca_file else ca_file,
            key_files=key_files,
            key_commands=commands,
        ),
        prompts=_source_from(prompts, relative) if isinstance(prompts, Source) else prompts,
        output=replace(job.output, dir="", former_dirs=(), upload=None, ledger=None),
        checks=(),
        batch=BatchPolicy(),
        reuse=(),
        picture_folders=tuple(map(relative, job.picture_folders)),
        images_from=tuple(map(relative, job.images_from)),
        overridden=(),
    )


def _source_from(source: Source, relative: Callable[[str], str]) -> Source:
    draws = tuple(replace(one, path=relative(one.path)) if one.path is not None else one for one in source.draw)
    path = relative(source.path) if source.count is None else ""
    return replace(source, path=path, draw=draws, line=None)


def has_judges(job: Job) -> bool:
    """Whether a check of the job asks a model."""
    return any(check.kind == "judge" for check in job.checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """What a lane is made with."""

    concurrency: int
    """Sends in flight at once: the job's number, or where `auto` starts."""
    adaptive: bool
    in_flight_tasks: int | None
    """None for dialects without remote tasks."""
    limits: Limits
    breaker: int
    day_offset_s: float
    ceiling: int = CEILING
    """What `auto` never exceeds."""
    shard: "Shard | None" = None
    """Whose share `limits` is."""
