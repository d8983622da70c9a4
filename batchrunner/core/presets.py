"""The provider presets as a table: base URLs, dialects, where keys come from, what is known of their limits.

See docs/providers/README.md#presets-and-families.
"""

from batchrunner.core.job import AuthScheme, DialectName, Kind, PresetName
from batchrunner.core.values import dataclass

INPUTS_PER_REQUEST = 25
"""Texts of a request for embeddings at a server of which nothing more is known: what ModelScope takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What `provider: NAME` stands for."""

    name: PresetName
    base_url: str
    """Empty where every account has an address of its own: the job names it."""
    dialects: dict[Kind, DialectName]
    key_env: str | None
    auth: AuthScheme
    first_concurrency: int
    """What `concurrency: auto` starts with on each lane."""
    in_flight_tasks: int = 0
    """Remote image tasks followed at a time on each lane unless the job says otherwise."""
    poll_per_second: float = 10.0
    """Polls of one account unless the job says otherwise."""
    day_offset_s: float = 0.0
    """Where daily counters turn: seconds east of UTC of the zone whose midnight it is."""
    points_per_day: float | None = None
    """What an account can claim a day by logging in: an assumption, the job's own figure wins."""
    points_per_call: float | None = None
    """The middle tier's price of a call: an assumption, too."""
    inputs_per_request: int = INPUTS_PER_REQUEST
    """Texts of a request for embeddings unless the job says otherwise."""


_SHANGHAI_S = 8 * 3600.0
_PACIFIC_S = -8 * 3600.0
_MODELSCOPE = "https://api-inference.modelscope.cn"

PRESETS: dict[PresetName, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="modelscope",
            base_url=f"{_MODELSCOPE}/v1",
            dialects={"chat": "openai-chat", "image": "modelscope-images", "embedding": "openai-embeddings"},
            key_env="MODELSCOPE_API_KEY",
            auth="bearer",
            first_concurrency=1,
            in_flight_tasks=20,
            day_offset_s=_SHANGHAI_S,
            points_per_day=200.0,
            points_per_call=1.0,
        ),
        Preset(
            name="modelscope-anthropic",
            base_url=_MODELSCOPE,
            dialects={"chat": "anthropic-messages"},
            key_env="MODELSCOPE_API_KEY",
            auth="x-api-key",
            first_concurrency=1,
            day_offset_s=_SHANGHAI_S,
            points_per_day=200.0,
            points_per_call=1.0,
        ),
        Preset(
            name="openai",
            base_url="https://api.openai.com/v1",
            dialects={
                "chat": "openai-chat",
                "image": "openai-images",
                "embedding": "openai-embeddings",
                "transcription": "openai-transcriptions",
            },
            key_env="OPENAI_API_KEY",
            auth="bearer",
            first_concurrency=4,
            inputs_per_request=128,
        ),
        Preset(
            name="azure",
            base_url="",
            dialects={
                "chat": "openai-chat",
                "image": "openai-images",
                "embedding": "openai-embeddings",
                "transcription": "openai-transcriptions",
            },
            key_env="AZURE_OPENAI_API_KEY",
            auth="api-key",
            first_concurrency=4,
            inputs_per_request=128,
        ),
        Preset(
            name="gemini",
            base_url="https://generativelanguage.googleapis.com/v1beta/openai",
            dialects={"chat": "openai-chat", "image": "openai-images", "embedding": "openai-embeddings"},
            key_env="GEMINI_API_KEY",
            auth="bearer",
            first_concurrency=2,
            day_offset_s=_PACIFIC_S,
        ),
        Preset(
            name="anthropic",
            base_url="https://api.anthropic.com",
            dialects={"chat": "anthropic-messages"},
            key_env="ANTHROPIC_API_KEY",
            auth="x-api-key",
            first_concurrency=4,
        ),
        Preset(
            name="simulator",
            base_url="http://simulator.invalid/v1",
            dialects={
                "chat": "openai-chat",
                "image": "modelscope-images",
                "embedding": "openai-embeddings",
                "transcription": "openai-transcriptions",
            },
            key_env=None,
            auth="none",
            first_concurrency=16,
            in_flight_tasks=64,
            poll_per_second=50.0,
            day_offset_s=_SHANGHAI_S,
        ),
    )
}
