"""`budget.prices_from`: prices of models from litellm's table, or from a JSON file of the same shape. In US dollars.

The table comes with the installed package litellm, which is looked for and not imported: that takes seconds. Nothing of
it is kept but the prices of the job's models. A model that the table does not know, or knows at another provider only,
is said, and costs nothing; prices that the job has itself come first.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from batchrunner.core.budget import Price
from batchrunner.core.job import Json
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
    return _looked_up(
        table, models, provider=_provider_of(partial), tier=tier if tier in _TIERS else None, faults=faults
    )


def _of_another_currency(currency: str, path: tuple[str, ...], named: str) -> Iterator[SpecError]:
    if named == LITELLM and currency.strip().upper() not in {"", "USD", "US$", "$"}:
        problem = f"has prices in US dollars, and `currency` is {currency[:20]!r}"
        yield SpecError(path=path, problem=problem, hint="leave `currency` out, or give the prices yourself")


def _looked_up(
    table: _PriceTable, models: list[str], *, provider: str | None, tier: object, faults: tuple[SpecError, ...]
) -> FoundPrices:
    prices: dict[str, Price] = {}
    notes: list[str] = []
    unknown: list[str] = []
    for model in models:
        name, price, has_tier = _price_of(table.entries, model, provider=provider, tier=tier)
        if price is None:
            unknown.append(model)
            continue
        prices[model] = price
        if name != model:
            notes.append(f"prices: {model} is counted as {name} of {table.source}")
        if tier is not None and not has_tier:
            notes.append(
                f"prices: {table.source} has no price of `service_tier: {tier}` for {model}; the usual one counts"
            )
    if unknown:
        named = ", ".join(unknown[:_MOST_NAMED]) + (
            f" and {len(unknown) - _MOST_NAMED} more" if unknown[_MOST_NAMED:] else ""
        )
        where = f" at {provider}" if provider is not None else ""
        notes.append(
            f"prices: {table.source} does not know {named}{where}: not counted in money; name it in `budget.prices`"
        )
    return FoundPrices(prices=prices, source=table.source, notes=tuple(notes), faults=faults)


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


def _read(entry: Mapping[str, Json], tier: str) -> Price | None:
    def cost(name: str) -> float | None:
        found = _number(entry, f"{name}{tier}") if tier else None
        return _number(entry, name) if found is None else found

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
            return _loaded(path, name, "installed")
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
