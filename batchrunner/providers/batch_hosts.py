"""Which providers are known to have batches, and what differs between them: data, read without any dialect."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from batchrunner.core.job import DialectName, Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHost:
    """What differs from OpenAI's own batches."""

    most_items: int = 50_000
    most_bytes: int = 200_000_000
    window: str | None = "24h"
    """`completion_window`; None where the field does not exist."""
    metadata: bool = True
    """Whether metadata can be given. Without it a batch is found again by its input file."""


HOSTS: Final[dict[str, BatchHost]] = {
    "api.openai.com": BatchHost(),
    "openai.azure.com": BatchHost(),
    "api.groq.com": BatchHost(),
    "api.together.xyz": BatchHost(metadata=False),
    "api.together.ai": BatchHost(metadata=False),
    "dashscope.aliyuncs.com": BatchHost(most_bytes=100_000_000),
    "dashscope-intl.aliyuncs.com": BatchHost(most_bytes=100_000_000),
    "api.siliconflow.cn": BatchHost(most_items=5_000),
    "api.siliconflow.com": BatchHost(most_items=5_000),
    "open.bigmodel.cn": BatchHost(window=None),
    "api.z.ai": BatchHost(window=None),
    "api.novita.ai": BatchHost(),
}
"""By the end of the host's name. Sources and dates: docs/batches.md."""
KNOWN: Final[dict[DialectName, dict[str, BatchHost]]] = {
    "openai-chat": HOSTS,
    "anthropic-messages": {"api.anthropic.com": BatchHost(most_items=100_000, metadata=False)},
}
"""By dialect."""


def host_of(provider: Provider) -> BatchHost | None:
    """What is known of the provider's batches; None where nothing is."""
    name = urlsplit(provider.base_url).hostname or ""
    hosts = KNOWN.get(provider.dialect, {})
    return next((host for end, host in hosts.items() if name == end or name.endswith(f".{end}")), None)


def is_known(provider: Provider) -> bool:
    """Whether the provider is known to have batches."""
    return provider.dialect in KNOWN and (host_of(provider) is not None or provider.preset == "simulator")
