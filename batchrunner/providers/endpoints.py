"""Where requests go: the base URL as it was given, and what a dialect puts behind it."""

from typing import Final

from batchrunner.core.job import PresetName, Provider

_V1: Final = "/v1"
_VERSIONED: Final[frozenset[PresetName]] = frozenset({"modelscope", "modelscope-anthropic", "simulator"})
"""Presets whose base URL may stand with or without `/v1`: the path always has it."""


def openai_url(provider: Provider, path: str) -> str:
    """The URL of a path of the OpenAI kind, such as `chat/completions`."""
    base = provider.base_url.rstrip("/")
    if provider.preset in _VERSIONED:
        base = base.removesuffix(_V1) + _V1
    return f"{base}/{path}"


def anthropic_url(provider: Provider, path: str) -> str:
    """The URL of a path of the Anthropic kind, such as `messages`: behind `/v1`, which is not doubled."""
    return f"{provider.base_url.rstrip('/').removesuffix(_V1)}{_V1}/{path}"
