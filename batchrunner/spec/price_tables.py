"""`budget.prices_from`: prices of models from litellm's table, or from a JSON file of the same shape. In US dollars.

The table comes with the installed package litellm, which is looked for and not imported: that takes seconds. Nothing of
it is kept but the prices of the job's models. A model that the table does not know, or knows at another provider only,
is said, and costs nothing; prices that the job has itself come first.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from batchrunner.core.budget import Price
from batchrunner.core.job import Json, Kind
from batchrunner.core.values import dataclass, field, replace
from batchrunner.spec.job_errors import SpecError
from batchrunner.spec.partial import PartialSpec, first_bytes, located
from batchrunner.spec.provider import preset_of
from batchrunner.spec.sending_keys import ProviderSpec

LITELLM: Final = "litellm"
_FILE: Final = "model_prices_and_context_window_backup.json"
_MOST_BYTES: Final = 64 * 1024 * 1024
_MILLION: Final = 1e6
_DEAREST: Final = 1e6
"""Dollars for a token: more is no price."""
_PROVIDERS: Final = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gemini",
    "api.groq.com": "groq",
    "together.xyz": "together_ai",
    "together.ai": "together_ai",
    "fireworks.ai": "fireworks_ai",
    "deepinfra.com": "deepinfra",
    "openrouter.ai": "openrouter",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "xai",
    "dashscope.aliyuncs.com": "dashscope",
    "dashscope-intl.aliyuncs.com": "dashscope",
    "volces.com": "volcengine",
    "api.moonshot.cn": "moonshot",
    "api.moonshot.ai": "moonshot",
    "novita.ai": "novita",
    "modelscope.cn": "modelscope",
    "modelscope.ai": "modelscope",
}
"""A host, or what it ends with -> what the table calls its provider."""
_TIERS: Final = frozenset({"flex", "priority"})
"""Values of `service_tier` with prices of their own: their names end with these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPrices:
    """What a table has for the models of a job."""

    prices: dict[str, Price] = field(default_factory=dict)
    source: str = ""
    """The table with its version or date; empty where the job names none."""
    notes: tuple[str, ...] = ()
    faults: tuple[SpecError, ...] = ()

    @property
    def currency(self) -> str:
        """Of the table."""
        return "USD" if self.source else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PriceTable:
    entries: dict[str, Json] = field(default_factory=dict)
    source: str = ""
    is_installed: bool = False
    """It came with a package: a person cannot mend it."""
    problem: str = ""
    hint: str | None = None


def found_prices(partial: PartialSpec) -> FoundPrices:
    """Of the table that the job names, for its models without a price of their own. Blocks; never raises."""
    given = partial.spec.budget
    if given is None:
        return FoundPrices()
    key = "prices" if isinstance(given.prices, str) else "prices_from"
    named = given.prices if isinstance(given.prices, str) else given.prices_from
    if named is None:
        return FoundPrices()
    path = ("budget", key)
    if isinstance(given.prices, str) and given.prices_from is not None:
        return FoundPrices(faults=(SpecError(path=path, problem="is a table, and so is `prices_from`: name one"),))
    table = _litellm() if named == LITELLM else _file(located(partial.folder, named), named)
    if table.problem:
        return FoundPrices(faults=(SpecError(path=path, problem=table.problem, hint=table.hint),))
    own = given.prices if isinstance(given.prices, dict) else {}
    models = [model for model in partial.models if model not in own]
    faults = tuple(_of_another_currency(given.currency, path, named))
    tier = partial.spec.params.get("service_tier")
    wants = _Wants(path=path, sells_answers=partial.kind in _SPEAKING, is_limited=given.money is not None)
    found = _looked_up(
        table, models, provider=_provider_of(partial), tier=tier if tier in _TIERS else None, wants=wants
    )
    return replace(found, faults=(*faults, *found.faults))


def _of_another_currency(currency: str, path: tuple[str, ...], named: str) -> Iterator[SpecError]:
    if named == LITELLM and currency.strip().upper() not in {"", "USD", "US$", "$"}:
        problem = f"has prices in US dollars, and `currency` is {currency[:20]!r}"
        yield SpecError(path=path, problem=problem, hint="leave `currency` out, or give the prices yourself")


def _looked_up(
    table: _PriceTable, models: list[str], *, provider: str | None, tier: object, wants: "_Wants"
) -> FoundPrices:
    prices: dict[str, Price] = {}
    notes: list[str] = []
    unknown: list[str] = []
    faults: list[SpecError] = []
    for model in models:
        name, price, has_tier = _price_of(table.entries, model, provider=provider, tier=tier)
        found = table.entries.get(name)
        entry = found if isinstance(found, dict) else {}
        more_notes, more_faults = _about(table, entry, price, model, wants)
        faults += more_faults
        if price is None:
            notes += more_notes
            unknown.append(model)
            continue
        prices[model] = price
        if name != model:
            notes.append(f"prices: {model} is counted as {name} of {table.source}")
        if tier is not None and not has_tier:
            notes.append(
                f"prices: {table.source} has no price of `service_tier: {tier}` for {model}; the usual one counts"
            )
        notes += more_notes
    if unknown:
        named = ", ".join(unknown[:_MOST_NAMED]) + (
            f" and {len(unknown) - _MOST_NAMED} more" if unknown[_MOST_NAMED:] else ""
        )
        where = f" at {provider}" if provider is not None else ""
        notes.append(
            f"prices: {table.source} does not know {named}{where}: not counted in money; name it in `budget.prices`"
        )
    return FoundPrices(prices=prices, source=table.source, notes=tuple(notes), faults=tuple(faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wants:
    """What the job asks of its prices."""

    path: tuple[str, ...]
    """Of the key that names the table."""
    sells_answers: bool
    """Its answers are sold by the token."""
    is_limited: bool
    """It must not spend more than so much money."""


def _about(
    table: _PriceTable, entry: Mapping[str, Json], price: Price | None, model: str, wants: _Wants
) -> tuple[list[str], list[SpecError]]:
    """What is to be said of a model's entry, and what is wrong with it."""
    notes: list[str] = []
    faults: list[SpecError] = []
    broken = " and ".join(_broken(entry))
    if broken and table.is_installed:
        notes.append(f"prices: {broken} of {model} in {table.source}: no price, and not counted")
    elif broken:
        problem = f"names {table.source}, where {broken} of {model}: no price"
        faults.append(SpecError(path=wants.path, problem=problem, expected="dollars, as a number of 0 or more"))
    if price is None:
        return notes, faults
    half = _half(entry, price) if wants.sells_answers else ""
    if half and wants.is_limited:
        problem = f"names {table.source}, which has no price of {half} for {model}, and `money` needs it"
        hint = "name its prices in `budget.prices`, with 0 for what costs nothing"
        faults.append(SpecError(path=wants.path, problem=problem, hint=hint))
    elif half:
        notes.append(f"prices: {table.source} has no price of {half} for {model}: it is counted as 0")
    if left_out := _left_out(entry):
        notes.append(f"prices: {table.source} has more for {model} that is not counted: {', '.join(left_out)}")
    return notes, faults


_MOST_NAMED: Final = 5


def _price_of(
    entries: Mapping[str, Json], model: str, *, provider: str | None, tier: object
) -> tuple[str, Price | None, bool]:
    """(name of the entry, price, whether it has one of this tier); no price where the table has none that fits."""
    names = [model] if provider is None else [f"{provider}/{model}", model]
    for name in names:
        entry = entries.get(name)
        if not isinstance(entry, dict) or (provider is not None and not _is_of(entry, provider, name)):
            continue
        if (price := _read(entry, f"_{tier}" if tier is not None else "")) is not None:
            return name, price, tier is None or _number(entry, f"input_cost_per_token_{tier}") is not None
    return model, None, False


def _is_of(entry: Mapping[str, Json], provider: str, name: str) -> bool:
    return name.startswith(f"{provider}/") or str(entry.get("litellm_provider") or provider).startswith(provider)


_SPEAKING: Final[frozenset[Kind]] = frozenset({"chat", "transcription"})
"""Kinds of jobs whose answers are sold by the token."""
_SIDES: Final = ("input", "output")
_READ: Final = (
    *(
        f"{side}_cost_per_token{tier}"
        for side in ("input", "output")
        for tier in ("", "_batches", "_flex", "_priority")
    ),
    *(f"cache_{what}_input_token_cost{tier}" for what in ("read", "creation") for tier in ("", "_flex", "_priority")),
    "output_cost_per_image",
    "input_cost_per_image",
    "input_cost_per_request",
)
"""All that is read of an entry."""
_NOT_COUNTED: Final = (
    (r"search_context_cost_per_query|.*_grounding_cost_per_query|input_cost_per_query", "searches"),
    (r"output_cost_per_reasoning_token", "tokens of reasoning"),
    (r"(in|out)put_cost_per_audio_token|(in|out)put_cost_per(_audio)?_(per_)?second", "sound"),
    (r"(in|out)put_cost_per_character", "characters"),
    (r"off_peak_pricing", "hours at other prices"),
    (r"citation_cost_per_token", "citations"),
)
"""Names of prices -> what they are for, where a job may use it."""
_LENGTH: Final = re.compile(r"(?:in|out)put_cost_per_token_above_(\d+)k_tokens")


def _broken(entry: Mapping[str, Json]) -> Iterator[str]:
    """Prices that are none, with what they are."""
    for name in _READ:
        value = entry.get(name)
        if value is not None and _number(entry, name) is None:
            yield f"`{name}` is {json.dumps(value)[:40]}"


def _half(entry: Mapping[str, Json], price: Price) -> str:
    """What has no price although its other half has one; empty where the entry has both, or a price of calls."""
    if price.per_call or price.per_picture or entry.get("mode") in {"embedding", "rerank"}:
        return ""
    asked, answered = (_number(_with_first_step(entry), f"{side}_cost_per_token") is not None for side in _SIDES)
    return "" if asked == answered else ("output" if asked else "input")


def _left_out(entry: Mapping[str, Json]) -> list[str]:
    """What else the model costs, in words."""
    lengths = {int(found[1]) for name in entry if (found := _LENGTH.match(name)) and _number(entry, name)}
    steps = entry.get("tiered_pricing")
    more = [f"requests of more than {min(lengths):,},000 tokens"] if lengths else []
    if isinstance(steps, list) and len(steps) > 1 and not lengths:
        more.append("steps by the length of a request")
    for pattern, words in _NOT_COUNTED:
        names = [name for name in entry if re.fullmatch(pattern, name)]
        if any(entry[name] and entry[name] != entry.get("output_cost_per_token") for name in names):
            more.append(words)
    return more


def _with_first_step(entry: Mapping[str, Json]) -> Mapping[str, Json]:
    """With the prices of short requests where the entry has prices by the length of a request only."""
    steps = entry.get("tiered_pricing")
    first = steps[0] if isinstance(steps, list) and steps else None
    if not isinstance(first, dict):
        return entry
    return {**first, **{name: value for name, value in entry.items() if value is not None}}


def _read(entry: Mapping[str, Json], tier: str) -> Price | None:
    def cost(name: str) -> float | None:
        found = _number(entry, f"{name}{tier}") if tier else None
        return _number(entry, name) if found is None else found

    entry = _with_first_step(entry)
    asked, answered = cost("input_cost_per_token"), cost("output_cost_per_token")
    picture = _number(entry, "output_cost_per_image")
    if picture is None and entry.get("mode") == "image_generation":
        picture = _number(entry, "input_cost_per_image")
    call = _number(entry, "input_cost_per_request")
    if asked is None and answered is None and picture is None and call is None:
        return None
    batch = _share(_number(entry, "input_cost_per_token_batches"), asked)
    batch_output = _share(_number(entry, "output_cost_per_token_batches"), answered)
    return Price(
        input_per_million=(asked or 0.0) * _MILLION,
        output_per_million=(answered or 0.0) * _MILLION,
        per_picture=picture or 0.0,
        per_call=call or 0.0,
        batch=1.0 if batch is None else batch,
        batch_output=batch_output,
        cache_read_per_million=_per_million(cost("cache_read_input_token_cost")),
        cache_write_per_million=_per_million(cost("cache_creation_input_token_cost")),
    )


def _per_million(token: float | None) -> float | None:
    return None if token is None else token * _MILLION


def _share(part: float | None, whole: float | None) -> float | None:
    """None where either is not known."""
    return part / whole if part is not None and whole else None


def _number(entry: Mapping[str, Json], name: str) -> float | None:
    """A price; None for what is none."""
    value = entry.get(name)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return float(value) if usable and 0.0 <= value <= _DEAREST else None  # type: ignore[arg-type,operator]  # checked


def _provider_of(partial: PartialSpec) -> str | None:
    """What the table calls the provider; None for hosts that are not known, and for the simulator."""
    if not partial.knows("provider"):
        return None
    own = partial.spec.provider
    url = own.base_url if isinstance(own, ProviderSpec) else None
    try:
        host = (urlsplit(url or preset_of(partial).base_url).hostname or "").lower()
    except ValueError:
        return None
    return next((name for end, name in _PROVIDERS.items() if host == end or host.endswith(f".{end}")), None)


# -- the tables


def _litellm() -> _PriceTable:
    try:
        places = getattr(find_spec(LITELLM), "submodule_search_locations", None)
    except (ImportError, ValueError):
        places = None
    for place in places or ():
        path = Path(place) / _FILE
        if path.is_file():
            try:
                name = f"{LITELLM} {version(LITELLM)}"
            except PackageNotFoundError:
                name = LITELLM
            return replace(_loaded(path, name, "installed"), is_installed=True)
    hint = "`pip install litellm`, or name a JSON file of the same shape"
    return _PriceTable(problem="needs litellm's table of prices, and that package is not installed here", hint=hint)


def _file(path: str, shown: str) -> _PriceTable:
    return _loaded(Path(path), shown, "of")


def _loaded(path: Path, name: str, since: str) -> _PriceTable:
    try:
        stat = path.stat()
        day = datetime.fromtimestamp(stat.st_mtime, UTC).date().isoformat()
        return _loaded_once(path, f"{name} ({since} {day})", (stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except (OSError, ValueError, OverflowError) as error:
        return _PriceTable(
            problem=f"names a table that cannot be read: {path}: {getattr(error, 'strerror', None) or error}"
        )


@lru_cache(maxsize=4)
def _loaded_once(path: Path, source: str, _stamp: tuple[int, ...]) -> _PriceTable:
    """As long as the file stays what it is: rules and the job itself ask for it. Raises OSError."""
    raw = first_bytes(path, _MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        return _PriceTable(problem=f"names {path}, which is larger than {_MOST_BYTES // 2**20} MiB; no table is")
    try:
        entries = json.loads(raw)
    except json.JSONDecodeError as error:
        return _PriceTable(problem=f"names {path}, which is not JSON: line {error.lineno}: {error.msg}")
    except (ValueError, RecursionError) as error:
        return _PriceTable(problem=f"names {path}, which is not JSON: {error}")
    if not isinstance(entries, dict) or not any(isinstance(entry, dict) for entry in entries.values()):
        hint = 'an object like {"gpt-5-mini": {"input_cost_per_token": 2.5e-7, "output_cost_per_token": 2e-6}}'
        return _PriceTable(problem=f"names {path}, which is no table of prices", hint=hint)
    return _PriceTable(entries=entries, source=source)
