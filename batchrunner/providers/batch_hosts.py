"""Which providers are known to have batches, and what differs between them: data, read without any dialect."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from batchrunner.core.job import DialectName, Provider
from batchrunner.core.values import dataclass, field

Form: TypeAlias = Literal["openai", "mistral"]
"""Whose names the fields of an order have."""
ENDPOINTS: Final[dict[DialectName, str]] = {
    "openai-chat": "chat/completions",
    "openai-responses": "responses",
    "openai-embeddings": "embeddings",
}
"""What the requests of a file are for, by the dialect of their answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHost:
    """What differs from OpenAI's own batches."""

    most_items: int = 50_000
    most_bytes: int = 200_000_000
    window: str | None = "24h"
    """`completion_window`; None where the field does not exist."""
    metadata: bool = True
    """Whether metadata can be given. Without it a batch is found again by its input file."""
    route: str = "batches"
    form: Form = "openai"
    dialects: tuple[DialectName, ...] = ("openai-chat",)
    """Of the answers that its batches have."""
    endpoints: Mapping[str, str] = field(default_factory=dict)
    """Models whose requests go to an endpoint of their own."""


_OPENAI: Final = BatchHost(dialects=("openai-chat", "openai-responses", "openai-embeddings"))
_DASHSCOPE: Final = BatchHost(
    most_bytes=100_000_000,
    dialects=("openai-chat", "openai-embeddings"),
    endpoints={"batch-test-model": "/v1/chat/ds-test"},
)
_ZHIPU: Final = BatchHost(window=None, dialects=("openai-chat", "openai-embeddings"))
ANTHROPIC: Final = BatchHost(
    most_items=100_000, most_bytes=256_000_000, metadata=False, dialects=("anthropic-messages",)
)
"""Its limit of bytes is that of the order, which has the requests in it."""
HOSTS: Final[dict[str, BatchHost]] = {
    "api.openai.com": _OPENAI,
    "openai.azure.com": _OPENAI,
    "api.groq.com": BatchHost(),
    "api.together.xyz": BatchHost(metadata=False),
    "api.together.ai": BatchHost(metadata=False),
    "dashscope.aliyuncs.com": _DASHSCOPE,
    "dashscope-intl.aliyuncs.com": _DASHSCOPE,
    "api.mistral.ai": BatchHost(
        window=None, route="batch/jobs", form="mistral", dialects=("openai-chat", "openai-embeddings")
    ),
    "api.siliconflow.cn": BatchHost(most_items=5_000),
    "api.siliconflow.com": BatchHost(most_items=5_000),
    "open.bigmodel.cn": _ZHIPU,
    "api.z.ai": _ZHIPU,
    "api.novita.ai": BatchHost(),
}
"""By the end of the host's name. Sources and dates: docs/batches.md."""
KNOWN: Final[dict[DialectName, dict[str, BatchHost]]] = {
    **{dialect: {name: host for name, host in HOSTS.items() if dialect in host.dialects} for dialect in ENDPOINTS},
    "anthropic-messages": {"api.anthropic.com": ANTHROPIC},
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
