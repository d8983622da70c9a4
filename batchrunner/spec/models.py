"""The job file's keys as types: what each may be, and the sentence that an editor shows for it.

Cross-field rules live in `rules`; defaults that depend on other keys (None here) are settled in `resolve`.
"""

from functools import cache
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Tag

from batchrunner.core.job import NOTIFY_EVENTS, AuthScheme, DialectName, Kind, NotifyEvent, PictureFormat, PresetName
from batchrunner.spec.check_keys import (
    CheckSpec,
    JsonCheckSpec,
    JudgeSpec,
    LengthSpec,
    PictureCheckSpec,
    WithinSpec,
)
from batchrunner.spec.parts import Amount, Count, ModelId, Params, Part, Rate, Seconds, Text, one_of
from batchrunner.spec.source_keys import DrawSpec, GroupSpec, SampleSpec, SourceSpec
from batchrunner.spec.window_keys import WindowKey, WindowSpec

# The keys of a budget as types.


class PriceSpec(Part):
    """What one model costs, in the budget's currency."""

    input: Amount | None = Field(default=None, description="Price of a million tokens of input.")
    output: Amount | None = Field(default=None, description="Price of a million tokens of output.")
    picture: Amount | None = Field(default=None, description="Price of a picture.")
    call: Amount | None = Field(default=None, description="Price of a call, whatever its outcome.")
    batch: Amount | None = Field(
        default=None, le=1, description="What a call in a batch costs, as a share of these prices. 0.5 if left out."
    )


class NotifySpec(Part):
    """Who is told of what happens to a run."""

    command: (
        Annotated[
            Annotated[Text, Tag("<text>")] | Annotated[list[Text], Tag("<list>")],
            one_of("a command, or a list of its words"),
        ]
        | None
    ) = Field(
        default=None,
        description="A command that is run without a shell, with the JSON of `status` on its stdin and without the "
        "providers' keys in its environment.",
    )
    apprise_env: Text | None = Field(
        default=None,
        description="The NAME of the environment variable that has Apprise URLs, for a phone or a chat; needs "
        "`pip install apprise`.",
    )
    on: Annotated[list[NotifyEvent], Field(min_length=1)] = Field(
        default=list(NOTIFY_EVENTS),
        description="What is told: the `ended` run, a `paused` one, lanes that are `all_parked`, a `first_failure`.",
    )


class BudgetSpec(Part):
    """What all runs of the job together may use up."""

    calls: Count | None = Field(default=None, description="Requests that were not rejected.")
    tokens: Count | None = Field(
        default=None, description="Tokens, input and output together. Guessed before a request, corrected after it."
    )
    points: Rate | None = Field(default=None, description="Points, by `provider.points_per_call`.")
    money: Rate | None = Field(default=None, description="Money, by `prices`, which must name every model of the job.")
    currency: str = Field(default="", max_length=20, description="The currency's name, for people, for example CNY.")
    prices: dict[str, PriceSpec] = Field(
        default_factory=dict, description="What each model costs, by its id; without `money` the cost is only shown."
    )


MAX_REPLICAS = 10_000


class ProviderSpec(Part):
    """A provider spelled out."""

    preset: PresetName | None = Field(
        default=None, description="The preset to start from; keys beside it override what it says."
    )
    dialect: DialectName | None = Field(
        default=None, description="The wire protocol. Default: from the preset and `kind`."
    )
    task: Text | None = Field(
        default=None,
        description="With `dialect: task`: the table that says what the server is like, one that comes with "
        "batchrunner by its name, or a YAML file relative to the job file.",
    )
    body_file: Text | None = Field(
        default=None,
        description="The JSON file that becomes `$body` of the table, such as a graph of ComfyUI; texts in it are "
        "templates over `prompt`, `model`, the parameters and the row.",
    )
    base_url: Text | None = Field(
        default=None, description="Where requests go, for example http://127.0.0.1:8000/v1. Default: the preset's."
    )
    api_key_env: (
        Annotated[
            Annotated[str, Tag("<text>")] | Annotated[list[str], Tag("<list>")],
            one_of("the name of an environment variable, or a list of names"),
        ]
        | None
    ) = Field(
        default=None,
        description="The NAME of the environment variable that has the key, or a list of names: one lane each. "
        "Keys themselves must not be in a job file. An empty list: no key.",
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="More request headers. Nothing that carries a key: see `api_key_env`."
    )
    proxy: Text | None = Field(
        default=None, description="HTTP proxy, for example http://proxy:3128; never from the environment."
    )
    proxy_auth_env: Text | None = Field(
        default=None,
        description="The NAME of the environment variable that has the proxy's `user:password`, never its value.",
    )
    api_version: Text | None = Field(
        default=None, description="Azure's `api-version`, which goes onto every URL, for example 2024-10-21."
    )
    allow_http: bool = Field(
        default=False,
        description="Allow a key to go over plain http to a host that is not this machine.",
    )
    auth: AuthScheme | None = Field(
        default=None,
        description="How the key is sent: `bearer`, `x-api-key`, `api-key` or `none`. Default: the preset's.",
    )
    ca_file: Text | None = Field(
        default=None, description="Certificates to trust besides the system's: a PEM file, relative to the job file."
    )
    points_per_day: Rate | None = Field(
        default=None,
        description="Points an account gets a day, for `plan`. Default at ModelScope: 200, an assumption; they are "
        "claimed by logging in.",
    )
    points_per_call: (
        Annotated[
            Annotated[Amount, Tag("<number>")] | Annotated[dict[str, Amount], Tag("<mapping>")],
            one_of("a number of points, or a mapping of models to numbers"),
        ]
        | None
    ) = Field(
        default=None,
        description="Points that a call costs: a number, or a mapping of models to numbers. Default at ModelScope: 1, "
        "an assumption.",
    )
    balance: bool = Field(
        default=False,
        description="Ask ModelScope for the account's balance of points in `plan` and before a run; costs nothing.",
    )


class PromptSpec(Part):
    """One entry of `prompts:` with more than its text."""

    id: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Its name in results and file names; unique. Default: made from the text."
    )
    prompt: Text | None = Field(default=None, description="The text; a template over `vars` and `matrix` names.")
    params: Params = Field(default_factory=dict, description="Parameters of this prompt, over the job's.")
    vars: Params = Field(default_factory=dict, description="Values for the templates.")
    images: list[Text] | None = Field(
        default=None, description="Pictures given to the model with this prompt: files or URLs."
    )


class TurnSpec(Part):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"] = Field(description="The role of the speaker.")
    content: Text = Field(description="The text; a template.")


class LimitsSpec(Part):
    """What must not be exceeded, for each lane: one key and one model."""

    concurrency: (
        Annotated[
            Annotated[Literal["auto"], Tag("<text>")] | Annotated[Count, Tag("<number>")],
            one_of("`auto` or a whole number of at least 1"),
        ]
        | None
    ) = Field(
        default=None, description="Requests in flight: `auto` (default) finds the limit by itself, a number caps it."
    )
    requests_per_minute: Rate | None = Field(default=None, description="Requests that may start in a minute.")
    tokens_per_minute: Rate | None = Field(default=None, description="Tokens that may be used in a minute.")
    requests_per_day: Count | None = Field(default=None, description="Requests in a day; then the lane waits.")
    in_flight_tasks: Count | None = Field(default=None, description="Remote image tasks in progress at a time.")
    poll_per_second: Rate | None = Field(
        default=None, description="Polls of remote tasks per second, for each account."
    )
    inputs_per_request: Annotated[int, Field(ge=1, le=2048)] | None = Field(
        default=None, description="With `kind: embedding`: prompts that one request carries, at most."
    )


class RetrySpec(Part):
    """How often an item is tried."""

    attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        default=5,
        description="Attempts for each item before it counts as failed. Rate-limit rejections are not attempts.",
    )
    max_wait_s: Seconds = Field(default=120.0, description="The longest wait between two attempts, in seconds.")


class TimeoutsSpec(Part):
    """Deadlines in seconds."""

    connect_s: Seconds = Field(default=10.0, description="Until the connection is established, in seconds.")
    first_byte_s: Seconds = Field(default=120.0, description="Until the answer begins, in seconds.")
    idle_s: Seconds = Field(default=120.0, description="Between two pieces of an answer, in seconds.")
    total_s: Seconds = Field(default=600.0, description="For a whole answer, in seconds.")
    task_s: Seconds = Field(
        default=600.0, description="For a remote image task, in seconds; the next run continues polling."
    )
    download_s: Seconds = Field(
        default=120.0,
        description="For the download of a picture, in seconds. With `kind: media`: 1800 by default.",
    )


class BatchSpec(Part):
    """Batches at the provider's batch API, which cost less and take longer."""

    use: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="`auto` orders batches where the provider is known to have them, at least 20 items of a model are "
        "left, and `max_wait` fits into the deadline and the window; `always` everywhere; `never` orders none.",
    )
    max_items: Count | None = Field(
        default=None, description="Items of a batch, at most. Default: as many as the provider takes."
    )
    max_wait: Text = Field(
        default="24h", description="How long a run waits for its batches, for example 24h; the next run goes on."
    )
    look_every: Text | None = Field(
        default=None,
        description="How often it is asked how a batch stands, for example 2m. Default: after 30s, later every 5m.",
    )
    rest: Literal["online", "wait"] = Field(
        default="online",
        description="What batches gave back, where fewer than 20 items are left: sent `online`, at the full price, or "
        "`wait` for another batch.",
    )
    on_lost: Literal["hold", "resend"] = Field(
        default="hold",
        description="Items of a batch of which nothing is known any more and which may have been billed: `hold` them "
        "for `adopt` and `--resend-held`, or `resend` them.",
    )
    give_up: Text | None = Field(
        default=None,
        description="How long after its order a batch that does not end counts as lost, for example 48h. Default: an "
        "hour after it expires at the server, 26 hours where that is not known.",
    )


class OutputSpec(Part):
    """Where results land."""

    dir: Text | None = Field(
        default=None,
        description="The folder of the results, relative to the job file's folder, or to its parent if that folder is "
        "called jobs. Default: outputs/NAME.",
    )
    format: PictureFormat | None = Field(
        default=None, description="Convert pictures to this. Default: keep what the server sent."
    )
    name: Text = Field(default="{{ id }}", description="Template of the pictures' file names, without ending.")
    each: Text | None = Field(
        default=None, description='Also write every answer into a file of its own, for example "answers/{{ id }}.md".'
    )
    max_mb: int = Field(
        default=500,
        ge=1,
        le=100_000,
        description="With `kind: media`: the most megabytes of a file. A larger one is not fetched.",
    )
    report: bool = Field(
        default=True,
        description="Write the page report.html at the end of a run, and small pictures for it as pictures come.",
    )


ProviderChoice: TypeAlias = Annotated[
    Annotated[PresetName, Tag("<text>")] | Annotated[ProviderSpec, Tag("<mapping>")],
    one_of("the name of a preset, or a mapping"),
]
Prompt: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[PromptSpec, Tag("<mapping>")],
    one_of("text, or a mapping with `prompt`"),
]
Prompts: TypeAlias = Annotated[
    Annotated[list[Prompt], Field(min_length=1), Tag("<list>")] | Annotated[SourceSpec, Tag("<mapping>")],
    one_of("a list of prompts, or a mapping with `file` or `run`"),
]
AnswerSchema: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[Params, Tag("<mapping>")],
    one_of("a file name, or a JSON Schema as a mapping"),
]


def _no_pictures() -> list[str]:
    """Pydantic looks at a factory's signature: that of `list` is text, for which a whole tokenizer is compiled."""
    return []


class JobSpec(Part):
    """A job: prompts, a provider, and how far to go."""

    model_config = ConfigDict(
        title="batchrunner job",
        json_schema_extra={
            "required": ["provider", "prompts"],
            "oneOf": [{"required": ["model"]}, {"required": ["models"]}],
        },
    )

    name: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="The job's name, usable as a folder. Default: the file's name without its ending."
    )
    provider: ProviderChoice | None = Field(
        default=None,
        description="modelscope, modelscope-anthropic, openai, anthropic or simulator; or a mapping with more.",
    )
    kind: Kind = Field(
        default="chat",
        description="What is asked for: `chat` answers, an `image`, `media` (a video, a sound or any other file), or "
        "the `embedding` of each prompt.",
    )
    model: ModelId | None = Field(default=None, description="The model's id. Either this or `models`.")
    models: Annotated[list[ModelId], Field(min_length=1)] | None = Field(
        default=None, description="Several models: every prompt goes to each of them."
    )
    prompts: Prompts | None = Field(
        default=None, description="A list of prompts, or a source: a mapping with `file` or `run`."
    )
    matrix: dict[str, Annotated[list[JsonValue], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Lists of values; every prompt goes with every combination. "
        "A name that a template uses is a variable, any other a parameter.",
    )
    params: Params = Field(
        default_factory=dict,
        description="Parameters sent with every request, as they are; over a source "
        'its values may be templates over the row, for example "{{ temperature }}", which keeps the column\'s type.',
    )
    system: Text | None = Field(default=None, description="The system prompt; a template. Chat only.")
    messages: Annotated[list[TurnSpec], Field(min_length=1)] | None = Field(
        default=None, description="A conversation of several turns; each content is a template. Chat only."
    )
    images: list[Text] = Field(
        default_factory=_no_pictures,
        description="Pictures shown to the model, or edited with `kind: image`: templates of local files or URLs.",
    )
    files: list[Text] = Field(
        default_factory=_no_pictures,
        description="PDF documents and sound (WAV, MP3) given to a chat model: templates of local files, or URLs where "
        "the dialect takes them.",
    )
    images_from: (
        Annotated[
            Annotated[Text, Tag("<text>")] | Annotated[list[Text], Tag("<list>")],
            one_of("a folder, or a list of folders"),
        ]
        | None
    ) = Field(
        default=None,
        description="Folders from which local pictures and files may be sent, besides the project's and the source's "
        "own; relative to the job file. Relative names are looked up in the job file's folder, then there.",
    )
    answer_schema: AnswerSchema | None = Field(
        default=None,
        alias="schema",
        description="JSON Schema of the answer: a mapping, or a file relative to the job file. Chat only.",
    )
    stream: bool | None = Field(
        default=None, description="Receive answers in pieces; they are put together. Default for chat: true."
    )
    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = Field(
        default=1, description="Answers for each item. Without it, identical items are sent once."
    )
    durability: Literal["full", "result"] | None = Field(
        default=None,
        description="What is on disk before it continues: `full` every step (default for images), `result` (for chat).",
    )
    on_ambiguous: Literal["resend", "hold"] = Field(
        default="resend",
        description="When a request got no clear answer and may have been billed: `resend` it, or `hold` it back.",
    )
    on_quota: Literal["wait", "stop"] = Field(
        default="wait", description="When the quota is spent: `wait` for it, or `stop`."
    )
    breaker: Count = Field(default=20, description="Stop a lane after this many items in a row fail in the same way.")
    timeouts: TimeoutsSpec = Field(default_factory=TimeoutsSpec, description="Deadlines, in seconds.")
    limits: LimitsSpec = Field(
        default_factory=LimitsSpec, description="Limits of each lane (one API key and one model)."
    )
    retry: RetrySpec = Field(
        default_factory=RetrySpec, description="Attempts for each item, and the waits between them."
    )
    output: OutputSpec = Field(
        default_factory=OutputSpec, description="Where results are written, and how files are named."
    )
    window: WindowKey | None = Field(
        default=None,
        description="The part of each day in which requests are sent, for example 22:00-07:00, or a list of such hours "
        "with days of the week. A run waits for it, and pauses at its end.",
    )
    timezone: Text | None = Field(
        default=None,
        description="The zone of `window` and `deadline`, for example Asia/Shanghai. Default: the machine's own.",
    )
    deadline: Text | None = Field(
        default=None,
        description='When a run pauses: "07:00" (the next), "2026-11-23T07:00", or a time from its start like 8h.',
    )
    budget: BudgetSpec | None = Field(
        default=None,
        description="What must not be exceeded over all runs of the job; a run pauses before it would be.",
    )
    batch: BatchSpec | None = Field(
        default=None,
        description="Send items in batches through the provider's batch API, often at half the price. Default: no.",
    )
    cache: Literal["system"] | None = Field(
        default=None,
        description="`system`: ask the server to keep the tools and the system prompt that every request begins with; "
        "read again, they cost less. For Anthropic's dialect; servers of the others keep equal beginnings unasked.",
    )
    notify: (
        Annotated[
            Annotated[Text, Tag("<text>")]
            | Annotated[list[Text], Tag("<list>")]
            | Annotated[NotifySpec, Tag("<mapping>")],
            one_of("a command, a list of its words, or a mapping with `command` or `apprise_env`"),
        ]
        | None
    ) = Field(
        default=None,
        description="A command that is run when a run has ended, without a shell, with the closing JSON on its stdin "
        "and without the providers' keys in its environment. Or a mapping, which can tell a phone, and more often.",
    )
    checks: list[CheckSpec] = Field(
        default_factory=list,
        description="Checks on every answer; their verdicts go to scores.jsonl, which `score` makes again for nothing.",
    )
    scenario: Text | None = Field(
        default=None, description='Faults to simulate, for example "throttle:3"; only with `provider: simulator`.'
    )


PARTS: dict[tuple[str, ...], type[BaseModel]] = {
    (): JobSpec,
    ("provider",): ProviderSpec,
    ("prompts",): SourceSpec,
    ("prompts", "sample"): SampleSpec,
    ("prompts", "group"): GroupSpec,
    ("prompts", "draw", "{}"): DrawSpec,
    ("prompts", "[]"): PromptSpec,
    ("messages", "[]"): TurnSpec,
    ("timeouts",): TimeoutsSpec,
    ("limits",): LimitsSpec,
    ("retry",): RetrySpec,
    ("output",): OutputSpec,
    ("budget",): BudgetSpec,
    ("batch",): BatchSpec,
    ("window", "[]"): WindowSpec,
    ("notify",): NotifySpec,
    ("budget", "prices", "{}"): PriceSpec,
    ("checks", "[]"): CheckSpec,
    ("checks", "[]", "json"): JsonCheckSpec,
    ("checks", "[]", "length"): LengthSpec,
    ("checks", "[]", "within"): WithinSpec,
    ("checks", "[]", "picture"): PictureCheckSpec,
    ("checks", "[]", "judge"): JudgeSpec,
}
"""Where each part stands in a job file; `[]` is any place in a list, `{}` any name."""


@cache
def keys_of(part: type[BaseModel]) -> tuple[str, ...]:
    """The keys of a part, as they are written."""
    return tuple(known.alias or name for name, known in part.model_fields.items())
