"""Which server a job uses: the preset, what overrides it, and the mistakes that can be made there.

A preset's key goes wherever the job says that preset is; a mapping without a preset has no key but a named one.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit, urlunsplit

from batchrunner.core.job import TASK_KINDS, AuthScheme, DialectName, Json, Kind, Provider
from batchrunner.core.presets import INPUTS_PER_REQUEST, PRESETS, Preset
from batchrunner.core.values import dataclass
from batchrunner.spec.account_keys import (
    KEY_SOURCES,
    commands_of_keys,
    files_of_keys,
    key_source_faults,
    key_variables,
)
from batchrunner.spec.job_errors import SpecError, header_problem, names_variable, shows_secret
from batchrunner.spec.partial import PartialSpec, is_there, located
from batchrunner.spec.pydantic_errors import meant
from batchrunner.spec.sending_keys import ProviderSpec
from batchrunner.spec.task_tables import BODY, KEY, found_body, found_table

if TYPE_CHECKING:
    from batchrunner.core.task_table import TaskAuth, TaskTable

# Base URLs as people paste them, in the one form that the dialects expect.
#
# See docs/providers/README.md#presets-and-families.

_ENDPOINTS = re.compile(
    r"(/chat/completions|/responses|/images/(generations|edits)|/messages|/completions|/models|/embeddings|/audio/transcriptions|/tasks(/[^/]*)?)$"
)
_MODELSCOPE_HOSTS = ("modelscope.cn", "modelscope.ai")


def url_problem(url: str) -> str | None:
    """What keeps a text from being a base URL or a proxy; None when it is one. Never repeats the text."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return "is not an http or https URL"
    if parts.username is not None or parts.password is not None:
        return "contains a user name or password"
    if parts.query or parts.fragment:
        return "has a query or a fragment"
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        return "has spaces or characters that a URL cannot have"
    return None


def normalised(url: str, dialect: DialectName, *, of_modelscope: bool) -> str:
    """Without end slash and pasted endpoint; with or without `/v1` as dialect and server want it."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if dialect == "task":  # its table says what stands behind it
        return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
    path = _ENDPOINTS.sub("", path).rstrip("/")
    of_modelscope = of_modelscope or _below(parts.hostname or "", _MODELSCOPE_HOSTS)
    if dialect == "anthropic-messages":
        path = path.removesuffix("/v1")
    elif (of_modelscope or dialect == "modelscope-images") and not path.endswith("/v1"):
        path += "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def is_loopback(url: str) -> bool:
    """True when the URL's host is this machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _below(host: str, domains: tuple[str, ...]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def _split(url: str) -> SplitResult | None:
    """The parts, None when not even a port or an IPv6 address can be read."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


_KINDS_OF: dict[DialectName, tuple[Kind, ...]] = {
    "openai-chat": ("chat",),
    "openai-responses": ("chat",),
    "anthropic-messages": ("chat",),
    "modelscope-images": ("image",),
    "openai-images": ("image",),
    "task": TASK_KINDS,
    "openai-embeddings": ("embedding",),
    "openai-transcriptions": ("transcription",),
}
_OPENAI_HOSTS = (".openai.com", ".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,39}")
_NO_KEYS_HERE = "name the key's environment variable in `provider.api_key_env`"
_PLACES = ("preset", "base_url")
_AZURE_FORM = "https://NAME.openai.azure.com/openai/v1"
_IN_PROCESS = ("base_url", *KEY_SOURCES, "proxy", "proxy_auth_env", "api_version", "ca_file", "auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A provider with its preset found; `own` is what the file says besides."""

    preset: Preset
    own: ProviderSpec
    dialect: DialectName


def resolved_provider(partial: PartialSpec) -> Provider:
    """The provider of a draft without faults; the simulator when the run is a simulated one."""
    choice = _choice(partial)
    if choice is None:
        raise AssertionError(f"{partial.file} has faults in its provider that no rule named")
    simulated = partial.simulate or choice.preset.name == "simulator"
    preset = PRESETS["simulator"] if simulated else choice.preset
    table = table_of_job(partial)
    key_env = () if simulated else key_variables(choice.own, choice.preset, table)
    key_files = {} if simulated else files_of_keys(choice.own, partial.folder)
    key_commands = {} if simulated else commands_of_keys(choice.own, partial.folder)
    has_key = bool(key_env or key_files or key_commands)
    own_url = choice.own.base_url or (table.base if table is not None else None)
    header = _key_header(choice, table) if has_key else None
    return Provider(
        preset=preset.name,
        dialect=choice.dialect,
        base_url=_base_url(choice, preset, own_url=None if simulated else own_url),
        key_env=key_env,
        key_files=key_files,
        key_commands=key_commands,
        auth=_auth(choice) if has_key else "none",
        key_header=header.header if header is not None else "",
        key_prefix=header.prefix if header is not None else "",
        task=table,
        headers=dict(choice.own.headers),
        proxy=None if simulated else choice.own.proxy,
        proxy_auth_env=None if simulated else choice.own.proxy_auth_env,
        api_version=None if simulated else choice.own.api_version,
        edits_as_form=_edits_as_form(choice),
        allow_http=choice.own.allow_http and not simulated,
        ca_file=None if simulated else _ca_file(partial, choice.own),
        points_per_day=choice.own.points_per_day or choice.preset.points_per_day,
        points_per_call=points_of(partial) or {},
        points_assumed=_assumes_points(partial, choice),
        balance=choice.own.balance and not simulated,
        cache_system=partial.spec.cache == "system",
    )


def points_of(partial: PartialSpec) -> dict[str, float] | None:
    """Points of a call by model, none where calls cost none; None while the provider is not known."""
    choice = _choice(partial)
    if choice is None:
        return None
    given, usual = choice.own.points_per_call, choice.preset.points_per_call
    of_model = given if isinstance(given, dict) else {}
    rest = given if isinstance(given, int | float) else usual
    costs = {model: of_model.get(model, rest) for model in partial.models}
    return {model: cost for model, cost in costs.items() if cost is not None}


def _assumes_points(partial: PartialSpec, choice: _Choice) -> bool:
    given = choice.own.points_per_call
    calls_priced = all(model in given for model in partial.models) if isinstance(given, dict) else given is not None
    return choice.preset.points_per_call is not None and not (calls_priced and choice.own.points_per_day is not None)


def preset_of(partial: PartialSpec) -> Preset:
    """The preset of a draft without faults: of a simulated run the one that it stands for."""
    choice = _choice(partial)
    assert choice is not None, "the draft has no faults"
    return choice.preset


def inputs_per_request(partial: PartialSpec) -> int:
    """Texts of a request for embeddings by default: a server of one's own is no preset's, whatever it speaks."""
    choice = _choice(partial)
    assert choice is not None, "the draft has no faults"
    own_host = _host(choice.own.base_url or choice.preset.base_url) != _host(choice.preset.base_url)
    return INPUTS_PER_REQUEST if own_host else choice.preset.inputs_per_request


def _host(url: str) -> str:
    return (urlsplit(url.strip()).hostname or "").lower()


def is_simulated(partial: PartialSpec) -> bool:
    """True when nothing real will be asked."""
    own = _own(partial)
    return partial.simulate or (own is not None and own.preset == "simulator")


def dialect_of(partial: PartialSpec) -> DialectName | None:
    """The dialect, None while the provider is not known."""
    choice = _choice(partial)
    return choice.dialect if choice else None


def _own(partial: PartialSpec) -> ProviderSpec | None:
    given = partial.spec.provider
    return ProviderSpec(preset=given) if isinstance(given, str) else given


def _choice(partial: PartialSpec) -> _Choice | None:
    own = _own(partial)
    if own is None or not all(
        partial.knows(*key) for key in (("provider", "preset"), ("provider", "dialect"), ("kind",))
    ):
        return None
    preset = PRESETS[own.preset or "openai"]
    dialect = own.dialect or preset.dialects.get(partial.kind)
    return _Choice(preset=preset, own=own, dialect=dialect) if dialect else None


def table_of_job(partial: PartialSpec) -> "TaskTable | None":
    """The table of a job with `dialect: task`; None for other jobs, and while it is wrong."""
    own = _own(partial)
    if own is None or own.task is None or dialect_of(partial) != "task":
        return None
    return found_table(partial, own.task).table


def _key_header(choice: _Choice, table: "TaskTable | None") -> "TaskAuth | None":
    """The header of the table, unless the job says another way."""
    if table is None or choice.own.auth is not None or table.auth == "none":
        return None
    return table.auth


def _auth(choice: _Choice) -> AuthScheme:
    if choice.own.auth is not None:
        return choice.own.auth
    if choice.own.preset and (choice.dialect in choice.preset.dialects.values() or choice.preset.auth == "api-key"):
        return choice.preset.auth
    return "x-api-key" if choice.dialect == "anthropic-messages" else "bearer"


def _edits_as_form(choice: _Choice) -> bool:
    """OpenAI's own way, wherever the job names OpenAI or its host; another server with the same dialect has its own."""
    if choice.dialect != "openai-images":
        return False
    return choice.own.preset in {"openai", "azure"} or _host(choice.own.base_url or "").endswith(_OPENAI_HOSTS)


def _base_url(choice: _Choice, preset: Preset, *, own_url: str | None) -> str:
    of_modelscope = (choice.own.preset or "").startswith("modelscope")
    if own_url and preset.name == "azure" and not urlsplit(own_url.strip()).path.strip("/"):
        own_url = f"{own_url.strip().rstrip('/')}/openai/v1"  # the resource's address, as the portal shows it
    return normalised((own_url or preset.base_url).strip(), choice.dialect, of_modelscope=of_modelscope)


def _ca_file(partial: PartialSpec, own: ProviderSpec) -> str | None:
    return located(partial.folder, own.ca_file) if own.ca_file else None


def provider_faults(partial: PartialSpec) -> Iterator[SpecError]:
    """Everything that is wrong with `provider` beyond the types of its keys, and with `scenario`."""
    own = _own(partial)
    if own is None:
        if not partial.given("provider"):
            names = ", ".join(PRESETS)
            yield SpecError(path=("provider",), problem="is missing", expected=f"{names}; or a mapping with `base_url`")
        return
    yield from _where(partial, own)
    yield from _table(partial, own)
    yield from _dialect_fits(partial, own)
    yield from key_source_faults(own)
    yield from _headers(own)
    yield from _proxy_auth(own)
    yield from _version(own)
    yield from _plain_http(partial, own)
    yield from _certificates(partial, own)
    yield from _in_process(partial, own)
    yield from _points(partial, own)
    yield from _cache(partial)
    if partial.spec.scenario and partial.knows("provider") and not is_simulated(partial):
        yield SpecError(path=("scenario",), problem="is for the simulator only", hint="write `provider: simulator`")


def _where(partial: PartialSpec, own: ProviderSpec) -> Iterator[SpecError]:
    says_where = isinstance(partial.spec.provider, str) or own.dialect == "task"
    says_where = says_where or any(partial.given("provider", key) for key in _PLACES)
    if not says_where:
        yield SpecError(path=("provider",), problem="needs `preset` or `base_url`")
    if own.preset and not PRESETS[own.preset].base_url and not own.base_url and partial.knows("provider", "base_url"):
        hint = f"write `provider: {{preset: {own.preset}, base_url: …}}`"
        needed = f"needs `base_url`: {own.preset} has an address for each account"
        yield SpecError(path=("provider",), problem=needed, expected=_AZURE_FORM, hint=hint)
    for key, url in (("base_url", own.base_url), ("proxy", own.proxy)):
        problem = url_problem(url.strip()) if url else None
        if problem:
            yield SpecError(path=("provider", key), problem=problem, expected="a URL like https://host:port/path")


def _dialect_fits(partial: PartialSpec, own: ProviderSpec) -> Iterator[SpecError]:
    if not all(partial.knows(*key) for key in (("kind",), ("provider", "preset"), ("provider", "dialect"))):
        return
    if own.dialect is not None and partial.kind not in _KINDS_OF[own.dialect]:
        fitting = " or ".join(name for name, kinds in _KINDS_OF.items() if partial.kind in kinds)
        problem = f"is {own.dialect}, which does not fit `kind: {partial.kind}`"
        yield SpecError(path=("provider", "dialect"), problem=problem, expected=fitting)
    if own.dialect is None and own.preset and partial.kind not in PRESETS[own.preset].dialects:
        yield SpecError(path=("kind",), problem=f"is {partial.kind}, which {own.preset} does not have")


def _table(partial: PartialSpec, own: ProviderSpec) -> Iterator[SpecError]:
    if not partial.knows("provider", "dialect") or not partial.knows(*KEY):
        return
    if own.dialect != "task":
        if own.task is not None:
            yield SpecError(path=KEY, problem="is for `dialect: task` only", hint="add `dialect: task`")
        if own.body_file is not None:
            yield SpecError(path=BODY, problem="is for `dialect: task` only", hint="add `dialect: task`")
        return
    if own.task is None:
        yield SpecError(path=KEY, problem="is missing: it says what the server is like", expected=_TABLES)
        return
    if own.preset not in {None, "simulator"}:
        problem = "has no place beside `dialect: task`, whose table names the server"
        yield SpecError(path=("provider", "preset"), problem=problem, hint="remove it")
    found = found_table(partial, own.task)
    yield from found.faults
    if found.table is not None and partial.knows(*BODY):
        yield from _body(partial, own, wanted="body" in found.table.holes())
    without_key = found.table is not None and found.table.auth == "none" and own.auth is None
    for key in KEY_SOURCES:
        if without_key and getattr(own, key):
            problem = "names a key, and the table says that the server takes none"
            yield SpecError(path=("provider", key), problem=problem, hint="remove it, or say how with `auth`")


def _body(partial: PartialSpec, own: ProviderSpec, *, wanted: bool) -> Iterator[SpecError]:
    if own.body_file is None:
        if wanted:
            problem = "is missing: the table in `provider.task` sends what it holds"
            yield SpecError(path=BODY, problem=problem, expected="a JSON file, such as a graph of ComfyUI")
    elif not wanted:
        yield SpecError(path=BODY, problem="has no place in the body of the table in `provider.task`")
    else:
        yield from found_body(partial, own.body_file).faults


def body_of_job(partial: PartialSpec) -> dict[str, Json] | None:
    """What `provider.body_file` holds; None where there is none, and while it is wrong."""
    own = _own(partial)
    if own is None or own.body_file is None or dialect_of(partial) != "task":
        return None
    return found_body(partial, own.body_file).body


_TABLES = "the name of a table, see docs/providers/tasks.md, or a file that ends with .yaml"


def _proxy_auth(own: ProviderSpec) -> Iterator[SpecError]:
    name = own.proxy_auth_env
    path = ("provider", "proxy_auth_env")
    if name is None or shows_secret(name):
        return
    if not names_variable(name):
        problem = "is not the name of an environment variable; it may be a password itself"
        yield SpecError(path=path, problem=problem, expected="a name like PROXY_AUTH, whose value is user:password")
    elif own.proxy is None:
        yield SpecError(path=path, problem="has credentials for a proxy, but there is no proxy", hint="add `proxy`")


def _version(own: ProviderSpec) -> Iterator[SpecError]:
    if own.preset == "azure" and own.api_version is None and "/deployments/" in (own.base_url or ""):
        problem = "is missing: the address of a deployment needs it"
        yield SpecError(path=("provider", "api_version"), problem=problem, expected="a version like 2024-10-21")
    if own.api_version is not None and not _VERSION.fullmatch(own.api_version):
        yield SpecError(
            path=("provider", "api_version"), problem="is not a version", expected="a version like 2024-10-21"
        )


def _headers(own: ProviderSpec) -> Iterator[SpecError]:
    for name, value in own.headers.items():
        problem = header_problem(name, value)
        if problem is not None:
            hint = _NO_KEYS_HERE if "key" in problem else None
            yield SpecError(path=("provider", "headers", name), problem=problem, hint=hint)


def _plain_http(partial: PartialSpec, own: ProviderSpec) -> Iterator[SpecError]:
    choice = _choice(partial)
    table = table_of_job(partial)
    url = (own.base_url or (table.base if table is not None else "")).strip()
    if choice is None or not url or url_problem(url) or own.allow_http:
        return
    if not all(partial.knows("provider", key) for key in ("allow_http", *KEY_SOURCES)):
        return
    has_key = key_variables(own, choice.preset, table) or (own.auth != "none" and (own.api_key_file or own.api_key_cmd))
    if url.lower().startswith("http:") and not is_loopback(url) and has_key:
        yield SpecError(
            path=("provider", "base_url"),
            problem="would send the key over plain http to another machine",
            hint="use https, set `allow_http: true` for a server in your own network, or `auth: none`",
        )


def _certificates(partial: PartialSpec, own: ProviderSpec) -> Iterator[SpecError]:
    path = _ca_file(partial, own)
    if path is not None and not is_there(path, as_file=True):
        yield SpecError(path=("provider", "ca_file"), problem=f"names a file that does not exist: {path}")


def _in_process(partial: PartialSpec, own: ProviderSpec) -> Iterator[SpecError]:
    if own.preset != "simulator":
        return
    for key in _IN_PROCESS:
        if partial.given("provider", key):
            yield SpecError(
                path=("provider", key), problem="has no effect on the simulator, which runs in this process"
            )


def _cache(partial: PartialSpec) -> Iterator[SpecError]:
    dialect = dialect_of(partial) if partial.knows("cache") and partial.spec.cache else "anthropic-messages"
    if dialect not in {None, "anthropic-messages"}:
        problem = f"is for Anthropic's dialect: with {dialect} a server keeps equal beginnings unasked, or not at all"
        yield SpecError(path=("cache",), problem=problem, hint="remove it")


def _points(partial: PartialSpec, own: ProviderSpec) -> Iterator[SpecError]:
    if own.balance and partial.knows("provider", "preset") and not (own.preset or "").startswith("modelscope"):
        problem = "is for ModelScope only: other providers have no such balance"
        yield SpecError(path=("provider", "balance"), problem=problem)
    costs = own.points_per_call
    for model in costs if isinstance(costs, dict) and partial.knows("models") and partial.knows("model") else ():
        if partial.models and model not in partial.models:
            path = ("provider", "points_per_call", model)
            yield SpecError(path=path, problem="is not a model of this job", hint=meant(model, partial.models))


_CALLED_OTHERWISE = {
    "max_tokens": "`max_output_tokens`",
    "max_completion_tokens": "`max_output_tokens`",
    "response_format": "`schema` of the job, or `text: {format: ...}`",
    "reasoning_effort": "`reasoning: {effort: ...}`",
}
"""Parameters of chat completions, and what they are in Responses, which refuses them by these names."""


def responses_faults(partial: PartialSpec) -> Iterator[SpecError]:
    """What `openai-responses` would refuse for every item, or would answer later than anybody asks for it."""
    if dialect_of(partial) != "openai-responses":
        return
    for name in partial.spec.params:
        if name in _CALLED_OTHERWISE:
            problem = "is a parameter of `openai-chat`, which `openai-responses` refuses"
            yield SpecError(path=("params", name), problem=problem, hint=f"write {_CALLED_OTHERWISE[name]}")
    if partial.spec.params.get("background") is True:
        problem = "has the answer made later, and `openai-responses` does not follow it"
        yield SpecError(path=("params", "background"), problem=problem, hint="remove it")
