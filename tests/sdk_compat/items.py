"""The item and the provider that our side of a judgement works for."""

from batchrunner.core.item import Item
from batchrunner.core.job import DialectName, Json, PresetName, Provider, Turn


def provider(preset: PresetName, dialect: DialectName) -> Provider:
    """A provider on this machine."""
    return Provider(
        preset=preset, dialect=dialect, base_url="http://127.0.0.1:8000/v1", key_env=(), auth="none", allow_http=True
    )


def item(prompt: str, *, model: str, params: dict[str, Json] | None = None, stream: bool = True) -> Item:
    """An item with one user turn."""
    return Item(
        id="a",
        prompt_id="a",
        index=1,
        key="0" * 32,
        model=model,
        prompt=prompt,
        turns=(Turn(role="user", content=prompt),),
        params=params or {},
        stream=stream,
    )
