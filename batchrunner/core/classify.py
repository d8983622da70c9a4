"""What a refusal means, by the tables of `signs`. Reads plain values; opens, decodes and decides nothing."""

from typing import Final, Literal

from batchrunner.core.job import PresetName, Provider
from batchrunner.core.outcome import Adaptation, Hints, ProblemKind
from batchrunner.core.signs import SIGNS, Family, Form, Sign

__all__ = ["FAMILIES", "SIGNS", "Family", "Form", "adaptation_of", "classify", "family_of"]

K = ProblemKind

FAMILIES: Final[dict[PresetName, Family]] = {
    "modelscope": "modelscope",
    "modelscope-anthropic": "modelscope",
    "openai": "openai",
    "anthropic": "anthropic",
    "simulator": "simulator",
}

_ADAPTATIONS: Final[tuple[tuple[tuple[str, ...], Adaptation], ...]] = (
    (("enable thinking can not be support when", "stream=false"), "stream"),
    (("enable_thinking", "must be set to false for non-streaming"), "stream"),
    (("enable_thinking", "restricted to true"), "no_thinking_switch"),
    (("stream_options",), "no_stream_options"),
    *(
        ((words,), "no_stream")
        for words in (
            "verified to stream",
            "not support stream",
            "streaming is not supported",
            "streaming not supported",
            "streaming is unsupported",
            "streaming is not available",
            "streaming is not allowed",
            "streaming is disabled",
            "stream is not supported",
            "stream is not allowed",
            "stream mode is not supported",
            "stream mode not supported",
            "stream must be false",
            "stream=true is not",
            "'stream' does not support true",
            "set stream to false",
            "set stream=false",
            "disable streaming",
        )
    ),
)
"""All the words of a row, and what to change."""

_ADAPTED_PARAMS: Final[dict[str, Adaptation]] = {"stream": "no_stream", "stream_options": "no_stream_options"}
"""What to change where only the parameter is named; a request that did not stream cannot be helped so."""
_ADAPTABLE: Final = frozenset[int | None]({400, 403, 405, 422, 501, None})


def family_of(provider: Provider) -> Family:
    """Whose words a provider's refusals are; a `base_url` of one's own keeps the preset's family.

    The simulator has ModelScope's quotas and throttles in every dialect, and Anthropic's bills.
    """
    return FAMILIES[provider.preset]


def classify(
    family: Family,
    *,
    status: int | None,
    message: str,
    code: str | None,
    error_type: str | None,
    hints: Hints | None,
    param: str | None = None,
    form: Form = "json",
    waits: bool = False,
) -> ProblemKind:
    """The kind of a refusal. `status` is None for an error inside a 200: unless it names itself, the server failed.

    `message` may have more behind it than is shown to people; `param` is the parameter that the server complains of.
    """
    text = _plain(message)
    if status in _ADAPTABLE and adaptation_of(message, param=param) is not None:
        return K.ADAPTABLE
    names = {name.lower() for name in (code, error_type) if name}
    for sign in SIGNS[family]:
        if _holds(sign, status=status, text=text, names=names, hints=hints) and (
            (not sign.forms or form in sign.forms) and (waits or not sign.waits)
        ):
            return sign.kind
    return K.SERVER_ERROR


def adaptation_of(message: str, *, param: str | None = None) -> Adaptation | None:
    """What a server asks to be changed before it takes the request, if that is what its message says."""
    text = _plain(message)
    for words, adaptation in _ADAPTATIONS:
        if all(word in text for word in words):
            return adaptation
    return _ADAPTED_PARAMS.get(param or "")


def _holds(sign: Sign, *, status: int | None, text: str, names: set[str], hints: Hints | None) -> bool:
    return (
        (not sign.statuses or status in sign.statuses)
        and (not sign.words or any(word in text for word in sign.words))
        and (not sign.exact or text.strip(" .") in sign.exact)
        and (not sign.also or any(word in text for word in sign.also))
        and (not sign.names or not sign.names.isdisjoint(names))
        and (sign.spent is None or _spent(sign.spent, hints))
    )


def _spent(what: Literal["model", "account"], hints: Hints | None) -> bool:
    if hints is None:
        return False
    match what:
        case "model":
            return hints.model_remaining == 0
        case "account":
            return hints.account_remaining == 0


def _plain(message: str) -> str:
    return message.lower().replace("’", "'").replace("`", "")
