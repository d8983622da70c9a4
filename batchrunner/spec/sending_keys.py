"""The keys that say where requests go and what they may cost and take: provider, limits, deadlines, batches, budget.

Typed as in `models`, which holds the job as a whole.
"""

from typing import Annotated, Literal

from pydantic import Field, Tag

from batchrunner.core.job import NOTIFY_EVENTS, AuthScheme, DialectName, NotifyEvent, PresetName
from batchrunner.spec.parts import Amount, Count, Part, Rate, Seconds, Text, one_of


class PriceSpec(Part):
    """What one model costs, in the budget's currency."""

    input: Amount | None = Field(default=None, description="Price of a million tokens of input.")
    output: Amount | None = Field(default=None, description="Price of a million tokens of output.")
    cache_read: Amount | None = Field(
        default=None, description="Price of a million tokens of input that came from a cache. Default: that of input."
    )
    cache_write: Amount | None = Field(
        default=None, description="Price of a million tokens of input that went into a cache. Default: that of input."
    )
    picture: Amount | None = Field(default=None, description="Price of a picture.")
    call: Amount | None = Field(default=None, description="Price of a call, whatever its outcome.")
    batch: Amount | None = Field(
        default=None, le=1, description="What a call in a batch costs, as a share of these prices. 0.5 if left out."
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
    prices: Annotated[
        Annotated[Text, Tag("<text>")] | Annotated[dict[str, PriceSpec], Tag("<mapping>")],
        one_of("`litellm`, the name of a JSON file, or a mapping of models"),
    ] = Field(
        default_factory=dict,
        description="What each model costs, by its id; without `money` the cost is only shown. As a text it stands for "
        "`prices_from`.",
    )
    prices_from: Text | None = Field(
        default=None,
        description="Where to look up prices that `prices` does not have, in US dollars: `litellm`, the table of the "
        "installed package of that name, or a JSON file of the same shape, relative to the job file.",
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
    api_key_file: (
        Annotated[
            Annotated[Text, Tag("<text>")] | Annotated[list[Text], Tag("<list>")],
            one_of("the path of a file, or a list of paths"),
        ]
        | None
    ) = Field(
        default=None,
        description="A file that holds nothing but the key, relative to the job file, or a list of files: one lane "
        "each, beside those of `api_key_env`. A `~` or a `$VARIABLE` at its beginning is filled in when it is read.",
    )
    api_key_cmd: (
        Annotated[
            Annotated[Text, Tag("<text>")] | Annotated[list[Text], Tag("<list>")],
            one_of("a command, or a list of commands"),
        ]
        | None
    ) = Field(
        default=None,
        description="A command that prints the key, such as `pass show openai`, or a list of commands: one lane each. "
        "It is run without a shell, once when a run begins, and has 60 seconds; a program's path is relative to the "
        "job file.",
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
