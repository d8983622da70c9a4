"""The job file's keys as types: what each may be, and the sentence that an editor shows for it.

Cross-field rules live in `rules`; defaults that depend on other keys (None here) are settled in `resolve`.
"""

from functools import cache
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Tag

from batchrunner.core.job import Kind, PictureFormat, PresetName
from batchrunner.spec.check_keys import (
    CheckSpec,
    JsonCheckSpec,
    JudgeSpec,
    LengthSpec,
    PictureCheckSpec,
    WithinSpec,
)
from batchrunner.spec.fallback_keys import FallbackSpec, ModelsChoice
from batchrunner.spec.parts import Count, ModelId, Params, Part, Text, WhenGiven, one_of
from batchrunner.spec.sending_keys import (
    BatchSpec,
    BudgetSpec,
    LimitsSpec,
    NotifySpec,
    PriceSpec,
    ProviderSpec,
    RetrySpec,
    TimeoutsSpec,
)
from batchrunner.spec.source_keys import DrawSpec, GroupSpec, SampleSpec, SourceSpec
from batchrunner.spec.window_keys import WindowKey, WindowSpec

MAX_REPLICAS = 10_000


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
    upload: Text | None = Field(
        default=None,
        description="Also copy finished files to an object store, for example s3://my-bucket/night.",
    )
    ledger: Text | None = Field(
        default=None,
        description="Also keep ledger and rows in an object store, for example s3://my-bucket/night-ledger: another "
        "machine can go on, and no two work at once.",
    )
    report: bool = Field(
        default=True,
        description="Write the page report.html at the end of a run, and small pictures for it as pictures come.",
    )


ProviderChoice: TypeAlias = Annotated[
    Annotated[PresetName, Tag("<text>")] | Annotated[ProviderSpec, WhenGiven(), Tag("<mapping>")],
    one_of("the name of a preset, or a mapping"),
]
Prompt: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[PromptSpec, WhenGiven(), Tag("<mapping>")],
    one_of("text, or a mapping with `prompt`"),
]
Prompts: TypeAlias = Annotated[
    Annotated[list[Prompt], Field(min_length=1), Tag("<list>")] | Annotated[SourceSpec, WhenGiven(), Tag("<mapping>")],
    one_of("a list of prompts, or a mapping with `file` or `run`"),
]
AnswerSchema: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[Params, Tag("<mapping>")],
    one_of("a file name, or a JSON Schema as a mapping"),
]


def no_entries() -> list[Any]:
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
        description="modelscope, modelscope-anthropic, openai, azure, gemini, anthropic or simulator; or a mapping "
        "with more.",
    )
    kind: Kind = Field(
        default="chat",
        description="What is asked for: `chat` answers, an `image`, `media` (a video, a sound or any other file), "
        "the `embedding` of each prompt, or the `transcription` of sound.",
    )
    model: ModelId | None = Field(default=None, description="The model's id. Either this or `models`.")
    models: ModelsChoice | None = Field(
        default=None,
        description="Several models: a list, and every prompt goes to each of them; or `{first, then, on, after}`, and "
        "the next one is asked where the first gives no answer.",
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
    messages: Annotated[list[Annotated[TurnSpec, WhenGiven()]], Field(min_length=1)] | None = Field(
        default=None, description="A conversation of several turns; each content is a template. Chat only."
    )
    images: list[Text] = Field(
        default_factory=no_entries,
        description="Pictures shown to the model, or edited with `kind: image`: templates of local files or URLs.",
    )
    files: list[Text] = Field(
        default_factory=no_entries,
        description="PDF documents and sound (WAV, MP3) given to a chat model: templates of local files, or URLs where "
        "the dialect takes them. With `kind: transcription`: the one file; `{{ file }}` if left out.",
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
    timeouts: Annotated[TimeoutsSpec, WhenGiven()] = Field(
        default_factory=TimeoutsSpec, description="Deadlines, in seconds."
    )
    limits: Annotated[LimitsSpec, WhenGiven()] = Field(
        default_factory=LimitsSpec, description="Limits of each lane (one API key and one model)."
    )
    retry: Annotated[RetrySpec, WhenGiven()] = Field(
        default_factory=RetrySpec, description="Attempts for each item, and the waits between them."
    )
    output: Annotated[OutputSpec, WhenGiven()] = Field(
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
    budget: Annotated[BudgetSpec, WhenGiven()] | None = Field(
        default=None,
        description="What must not be exceeded over all runs of the job; a run pauses before it would be.",
    )
    batch: Annotated[BatchSpec, WhenGiven()] | None = Field(
        default=None,
        description="Send items in batches through the provider's batch API, often at half the price. Default: no.",
    )
    cache: Literal["system"] | None = Field(
        default=None,
        description="`system`: ask the server to keep the tools and the system prompt that every request begins with; "
        "read again, they cost less. For Anthropic's dialect; servers of the others keep equal beginnings unasked.",
    )
    reuse: list[Text] = Field(
        default_factory=no_entries,
        description="Results folders of other runs: answers to the same requests are taken from there, not paid again.",
    )
    notify: (
        Annotated[
            Annotated[Text, Tag("<text>")]
            | Annotated[list[Text], Tag("<list>")]
            | Annotated[NotifySpec, WhenGiven(), Tag("<mapping>")],
            one_of("a command, a list of its words, or a mapping with `command` or `apprise_env`"),
        ]
        | None
    ) = Field(
        default=None,
        description="A command that is run when a run has ended, without a shell, with the closing JSON on its stdin "
        "and without the providers' keys in its environment. Or a mapping, which can tell a phone, and more often.",
    )
    checks: list[Annotated[CheckSpec, WhenGiven()]] = Field(
        default_factory=no_entries,
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
    ("models",): FallbackSpec,
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
