"""The dialects: an item becomes an HTTP request, a reply becomes an outcome. Pure: no clock, no network, no disk.

To add a provider: one file beside this one, one line in `DIALECTS`. A dialect says what a reply means; it never decides
what to do about it.
"""

from collections.abc import Callable
from typing import Final

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import DialectName, Provider
from batchrunner.core.ports import Dialect, TaskDialect
from batchrunner.providers.anthropic_messages import AnthropicMessages
from batchrunner.providers.modelscope_images import ModelScopeImages
from batchrunner.providers.openai_chat import OpenAiChat
from batchrunner.providers.openai_images import OpenAiImages

DIALECTS: Final[dict[DialectName, Callable[[Provider], Dialect | TaskDialect]]] = {
    "openai-chat": OpenAiChat,
    "anthropic-messages": AnthropicMessages,
    "modelscope-images": ModelScopeImages,
    "openai-images": OpenAiImages,
}


def dialect_for(provider: Provider) -> Dialect | TaskDialect:
    """The dialect that a provider speaks. It is a `TaskDialect` when its POST may be accepted as a remote task.

    Raises:
        JobMistakesError: this version does not speak it.
    """
    made = DIALECTS.get(provider.dialect)
    if made is None:
        problem = f"the dialect {provider.dialect} is not spoken by this version"
        mistake = Mistake(key="provider.dialect", problem=problem, expected=f"one of {', '.join(sorted(DIALECTS))}")
        raise JobMistakesError((mistake,))
    return made(provider)
