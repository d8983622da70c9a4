"""The dialects: an item becomes an HTTP request, a reply becomes an outcome. Pure: no clock, no network, no disk.

To add a provider: one file beside this one, and here one function and one line of `DIALECTS`. A dialect says what a
reply means; it never decides what to do about it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import DialectName, Job, Provider
from batchrunner.core.presets import PRESETS

if TYPE_CHECKING:
    from batchrunner.core.batch_ports import BatchDialect
    from batchrunner.core.ports import Dialect, TaskDialect
    from batchrunner.providers.batch_replies import Hide


def _anthropic_messages(provider: Provider) -> "Dialect":
    from batchrunner.providers.anthropic_messages import AnthropicMessages

    return AnthropicMessages(provider)


def _modelscope_images(provider: Provider) -> "TaskDialect":
    from batchrunner.providers.modelscope_images import ModelScopeImages

    return ModelScopeImages(provider)


def _openai_chat(provider: Provider) -> "Dialect":
    from batchrunner.providers.openai_chat import OpenAiChat

    return OpenAiChat(provider)


def _openai_images(provider: Provider) -> "Dialect":
    from batchrunner.providers.openai_images import OpenAiImages

    return OpenAiImages(provider)


def _openai_embeddings(provider: Provider) -> "Dialect":
    from batchrunner.providers.openai_embeddings import OpenAiEmbeddings

    return OpenAiEmbeddings(provider)


def _openai_transcriptions(provider: Provider) -> "Dialect":
    from batchrunner.providers.openai_transcriptions import OpenAiTranscriptions

    return OpenAiTranscriptions(provider)


def _openai_responses(provider: Provider) -> "Dialect":
    from batchrunner.providers.openai_responses import OpenAiResponses

    return OpenAiResponses(provider)


def _task(provider: Provider) -> "TaskDialect":
    """The server of a table. The simulator, and a rehearsal, have one kind of task for all of them: ModelScope's."""
    if provider.base_url == PRESETS["simulator"].base_url:
        return _modelscope_images(provider)
    from batchrunner.providers.tasks import TableTasks

    return TableTasks(provider)


DIALECTS: Final[dict[DialectName, "Callable[[Provider], Dialect | TaskDialect]"]] = {
    "openai-chat": _openai_chat,
    "openai-responses": _openai_responses,
    "anthropic-messages": _anthropic_messages,
    "modelscope-images": _modelscope_images,
    "openai-images": _openai_images,
    "task": _task,
    "openai-embeddings": _openai_embeddings,
    "openai-transcriptions": _openai_transcriptions,
}
"""Each is loaded when a run first uses it; a job is checked without any."""


def _openai_batches(provider: Provider, chat: "Dialect", hide: "Hide") -> "BatchDialect":
    from batchrunner.providers.openai_batches import OpenAiBatches

    return OpenAiBatches(provider, chat, hide)


def _anthropic_batches(provider: Provider, chat: "Dialect", hide: "Hide") -> "BatchDialect":
    from batchrunner.providers.anthropic_batches import AnthropicBatches

    return AnthropicBatches(provider, chat, hide)


BATCHES: Final[dict[DialectName, "Callable[[Provider, Dialect, Hide], BatchDialect]"]] = {
    "openai-chat": _openai_batches,
    "openai-responses": _openai_batches,
    "openai-embeddings": _openai_batches,
    "anthropic-messages": _anthropic_batches,
}
"""The batches of a dialect, over what reads its answers."""


def dialect_for(provider: Provider) -> "Dialect | TaskDialect":
    """The dialect of a provider. It is a `TaskDialect` when its POST may be accepted as a remote task.

    Raises:
        JobMistakesError: this version does not support it.
    """
    require_dialect(provider)
    return DIALECTS[provider.dialect](provider)


def batches_for(provider: Provider, chat: "Dialect", hide: "Hide" = lambda outcome: outcome) -> "BatchDialect | None":
    """The dialect of the provider's batches, over the one of its answers; None where there are none.

    `hide` takes keys out of what the lines of result files come to.
    """
    made = BATCHES.get(provider.dialect)
    return made(provider, chat, hide) if made is not None else None


def has_batches(job: Job) -> bool:
    """Whether the provider is known to have batches for this kind of job."""
    from batchrunner.providers.batch_hosts import is_known

    return is_known(job.provider)


def require_dialect(provider: Provider) -> None:
    """Refuse a dialect that is not in `DIALECTS`. Raises JobMistakesError."""
    if provider.dialect not in DIALECTS:
        problem = f"this version does not support the dialect {provider.dialect}"
        mistake = Mistake(key="provider.dialect", problem=problem, expected=f"one of {', '.join(sorted(DIALECTS))}")
        raise JobMistakesError((mistake,))
