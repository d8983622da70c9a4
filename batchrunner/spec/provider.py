"""Which server a job speaks to: the preset, what overrides it, and the mistakes that can be made there.

A preset's key goes wherever the job says that preset is; a mapping without a preset has no key but a named one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from batchrunner.core.job import PRESETS, AuthScheme, DialectName, Kind, Preset, Provider
from batchrunner.spec.draft import Draft
from batchrunner.spec.hiding import names_variable, opaque, shows_secret
from batchrunner.spec.models import ProviderSpec
from batchrunner.spec.named_files import is_there, located
from batchrunner.spec.places import Fault
from batchrunner.spec.translate import meant
from batchrunner.spec.urls import is_loopback, normalised, url_problem

_KIND_OF: dict[DialectName, Kind] = {
    "openai-chat": "chat",
    "anthropic-messages": "chat",
    "modelscope-images": "image",
    "openai-images": "image",
}
_OPENAI_HOSTS = (".openai.com", ".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,39}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_CREDENTIAL = re.compile(
    r"auth(?!ors?$)|cookie|\btoken\b|secret|passw|credential|api-?key|^x-key$|bearer", re.IGNORECASE
)
_CREDENTIAL_VALUE = re.compile(r"(?i:bearer|token|key)\s+\S{6}|(?i:basic)\s+(?=\S*[0-9A-Z=+/])\S{6}")
_OWN_HEADERS = {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"}
_NO_KEYS_HERE = "name the key's environment variable in `provider.api_key_env`"
_PLACES = ("preset", "base_url")
_IN_PROCESS = ("base_url", "api_key_env", "proxy", "proxy_auth_env", "api_version", "ca_file", "auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A provider with its preset found; `own` is what the file says beside it."""

    preset: Preset
    own: ProviderSpec
    dialect: DialectName


def resolved_provider(draft: Draft) -> Provider:
    """The provider of a draft without faults; the simulator when the run is a simulated one."""
    choice = _choice(draft)
    if choice is None:
        raise AssertionError(f"{draft.file} has faults in its provider that no rule named")
    simulated = draft.simulate or choice.preset.name == "simulator"
    preset = PRESETS["simulator"] if simulated else choice.preset
    key_env = () if simulated else _key_env(choice)
    return Provider(
        preset=preset.name,
        dialect=choice.dialect,
        base_url=_base_url(choice, preset, own_url=None if simulated else choice.own.base_url),
        key_env=key_env,
        auth=_auth(choice) if key_env else "none",
        headers=dict(choice.own.headers),
        proxy=None if simulated else choice.own.proxy,
        proxy_auth_env=None if simulated else choice.own.proxy_auth_env,
        api_version=None if simulated else choice.own.api_version,
        edits_as_form=_edits_as_form(choice),
        allow_http=choice.own.allow_http and not simulated,
        ca_file=None if simulated else _ca_file(draft, choice.own),
        points_per_day=choice.own.points_per_day or choice.preset.points_per_day,
        points_per_call=points_of(draft) or {},
        points_assumed=_assumes_points(draft, choice),
        balance=choice.own.balance and not simulated,
    )


def points_of(draft: Draft) -> dict[str, float] | None:
    """Points of a call by model, none where calls cost none; None while the provider is not known."""
    choice = _choice(draft)
    if choice is None:
        return None
    given, usual = choice.own.points_per_call, choice.preset.points_per_call
    of_model = given if isinstance(given, dict) else {}
    rest = given if isinstance(given, int | float) else usual
    costs = {model: of_model.get(model, rest) for model in draft.models}
    return {model: cost for model, cost in costs.items() if cost is not None}


def _assumes_points(draft: Draft, choice: _Choice) -> bool:
    given = choice.own.points_per_call
    told = all(model in given for model in draft.models) if isinstance(given, dict) else given is not None
    return choice.preset.points_per_call is not None and not (told and choice.own.points_per_day is not None)


def is_simulated(draft: Draft) -> bool:
    """True when nothing real will be asked."""
    own = _own(draft)
    return draft.simulate or (own is not None and own.preset == "simulator")


def dialect_of(draft: Draft) -> DialectName | None:
    """The dialect, None while the provider is not known."""
    choice = _choice(draft)
    return choice.dialect if choice else None


def _own(draft: Draft) -> ProviderSpec | None:
    given = draft.spec.provider
    return ProviderSpec(preset=given) if isinstance(given, str) else given


def _choice(draft: Draft) -> _Choice | None:
    own = _own(draft)
    if own is None or not all(
        draft.knows(*key) for key in (("provider", "preset"), ("provider", "dialect"), ("kind",))
    ):
        return None
    preset = PRESETS[own.preset or "openai"]
    dialect = own.dialect or preset.dialects.get(draft.kind)
    return _Choice(preset=preset, own=own, dialect=dialect) if dialect else None


def _key_env(choice: _Choice) -> tuple[str, ...]:
    own = choice.own
    if own.auth == "none":
        return ()
    match own.api_key_env:
        case str() as name:
            return (name,)
        case list() as names:
            return tuple(names)
        case None:
            default = choice.preset.key_env
            return (default,) if default and own.preset else ()


def _auth(choice: _Choice) -> AuthScheme:
    if choice.own.auth is not None:
        return choice.own.auth
    if choice.own.preset and choice.dialect in choice.preset.dialects.values():
        return choice.preset.auth
    return "x-api-key" if choice.dialect == "anthropic-messages" else "bearer"


def _edits_as_form(choice: _Choice) -> bool:
    """OpenAI's own way, wherever the job names OpenAI or its host; a server that only speaks alike has its own."""
    if choice.dialect != "openai-images":
        return False
    host = (urlsplit((choice.own.base_url or "").strip()).hostname or "").lower()
    return choice.own.preset == "openai" or host.endswith(_OPENAI_HOSTS)


def _base_url(choice: _Choice, preset: Preset, *, own_url: str | None) -> str:
    of_modelscope = (choice.own.preset or "").startswith("modelscope")
    return normalised((own_url or preset.base_url).strip(), choice.dialect, of_modelscope=of_modelscope)


def _ca_file(draft: Draft, own: ProviderSpec) -> str | None:
    return located(draft.folder, own.ca_file) if own.ca_file else None


def provider_faults(draft: Draft) -> Iterator[Fault]:
    """Everything that is wrong with `provider` beyond the types of its keys, and with `scenario`."""
    own = _own(draft)
    if own is None:
        if not draft.given("provider"):
            names = ", ".join(PRESETS)
            yield Fault(path=("provider",), problem="is missing", expected=f"{names}; or a mapping with `base_url`")
        return
    yield from _where(draft, own)
    yield from _dialect_fits(draft, own)
    yield from _key_names(own)
    yield from _headers(own)
    yield from _proxy_auth(own)
    yield from _version(own)
    yield from _plain_http(draft, own)
    yield from _certificates(draft, own)
    yield from _in_process(draft, own)
    yield from _points(draft, own)
    if draft.spec.scenario and draft.knows("provider") and not is_simulated(draft):
        yield Fault(path=("scenario",), problem="is for the simulator only", hint="write `provider: simulator`")


def _where(draft: Draft, own: ProviderSpec) -> Iterator[Fault]:
    says_where = isinstance(draft.spec.provider, str) or any(draft.given("provider", key) for key in _PLACES)
    if not says_where:
        yield Fault(path=("provider",), problem="says neither `preset` nor `base_url`")
    for key, url in (("base_url", own.base_url), ("proxy", own.proxy)):
        problem = url_problem(url.strip()) if url else None
        if problem:
            yield Fault(path=("provider", key), problem=problem, expected="a URL like https://host:port/path")


def _dialect_fits(draft: Draft, own: ProviderSpec) -> Iterator[Fault]:
    if not all(draft.knows(*key) for key in (("kind",), ("provider", "preset"), ("provider", "dialect"))):
        return
    if own.dialect is not None and _KIND_OF[own.dialect] != draft.kind:
        fitting = " or ".join(name for name, kind in _KIND_OF.items() if kind == draft.kind)
        problem = f"is {own.dialect}, which does not fit `kind: {draft.kind}`"
        yield Fault(path=("provider", "dialect"), problem=problem, expected=fitting)
    if own.dialect is None and own.preset and draft.kind not in PRESETS[own.preset].dialects:
        yield Fault(path=("kind",), problem=f"is {draft.kind}, which {own.preset} does not have")


def _key_names(own: ProviderSpec) -> Iterator[Fault]:
    names = [own.api_key_env] if isinstance(own.api_key_env, str) else own.api_key_env or []
    for place, name in enumerate(names):
        path = ("provider", "api_key_env", *((place,) if isinstance(own.api_key_env, list) else ()))
        if shows_secret(name):
            continue  # said already, by the search for literal secrets
        if not names_variable(name):
            problem = "is not the name of an environment variable; it may be a key itself"
            yield Fault(path=path, problem=problem, expected="a name like MODELSCOPE_API_KEY")
        elif name in names[:place]:
            yield Fault(path=path, problem=f"names {name} twice")
    if names and own.auth == "none":
        yield Fault(path=("provider", "auth"), problem="is none, though `api_key_env` names a key")


def _proxy_auth(own: ProviderSpec) -> Iterator[Fault]:
    name = own.proxy_auth_env
    path = ("provider", "proxy_auth_env")
    if name is None or shows_secret(name):
        return
    if not names_variable(name):
        problem = "is not the name of an environment variable; it may be a password itself"
        yield Fault(path=path, problem=problem, expected="a name like PROXY_AUTH, whose value is user:password")
    elif own.proxy is None:
        yield Fault(path=path, problem="says how to log in at a proxy, but there is none", hint="add `proxy`")


def _version(own: ProviderSpec) -> Iterator[Fault]:
    if own.api_version is not None and not _VERSION.fullmatch(own.api_version):
        yield Fault(path=("provider", "api_version"), problem="is no version", expected="a version like 2024-10-21")


def _headers(own: ProviderSpec) -> Iterator[Fault]:
    for name, value in own.headers.items():
        path = ("provider", "headers", name)
        if not _HEADER.fullmatch(name):
            yield Fault(path=path, problem="is not a header's name")
        elif not _HEADER_VALUE.fullmatch(value):
            yield Fault(path=path, problem="has a line break or characters that a header cannot have")
        elif name.lower() in _OWN_HEADERS:
            yield Fault(path=path, problem="is a header that the program sets itself")
        elif _CREDENTIAL.search(name) or _CREDENTIAL_VALUE.match(value) or opaque(value):
            yield Fault(path=path, problem="looks like a header that carries a key", hint=_NO_KEYS_HERE)


def _plain_http(draft: Draft, own: ProviderSpec) -> Iterator[Fault]:
    choice = _choice(draft)
    if choice is None or own.base_url is None or url_problem(own.base_url.strip()) or own.allow_http:
        return
    if not draft.knows("provider", "allow_http") or not draft.knows("provider", "api_key_env"):
        return
    url = own.base_url.strip()
    if url.lower().startswith("http:") and not is_loopback(url) and _key_env(choice):
        yield Fault(
            path=("provider", "base_url"),
            problem="would carry the key over plain http to another machine",
            hint="use https, set `allow_http: true` for a server in your own network, or `auth: none`",
        )


def _certificates(draft: Draft, own: ProviderSpec) -> Iterator[Fault]:
    path = _ca_file(draft, own)
    if path is not None and not is_there(path, as_file=True):
        yield Fault(path=("provider", "ca_file"), problem=f"names a file that does not exist: {path}")


def _in_process(draft: Draft, own: ProviderSpec) -> Iterator[Fault]:
    if own.preset != "simulator":
        return
    for key in _IN_PROCESS:
        if draft.given("provider", key):
            yield Fault(path=("provider", key), problem="means nothing to the simulator, which runs in this process")


def _points(draft: Draft, own: ProviderSpec) -> Iterator[Fault]:
    if own.balance and draft.knows("provider", "preset") and not (own.preset or "").startswith("modelscope"):
        problem = "is for ModelScope only: nobody else has such a balance"
        yield Fault(path=("provider", "balance"), problem=problem)
    costs = own.points_per_call
    for model in costs if isinstance(costs, dict) and draft.knows("models") and draft.knows("model") else ():
        if draft.models and model not in draft.models:
            path = ("provider", "points_per_call", model)
            yield Fault(path=path, problem="is no model of this job", hint=meant(model, draft.models))
