"""Transcripts as a server gives them: the same words for the same sound, in the form that was asked for.

The sound is not listened to: its bytes decide the words, and its length, or what a WAV's head says, the seconds. Models
called `gpt-4o…` count tokens and know no segments, as OpenAI's do; all others count seconds.
"""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from batchrunner.core.job import Json
from batchrunner.core.values import replace
from batchrunner.simulator.answers import count_tokens
from batchrunner.simulator.refusals import Refusal, invalid
from batchrunner.simulator.requests import Order, whole
from batchrunner.simulator.script import SSE_TYPE, Script, as_list, as_object, as_text, encode_json

FORM_TYPE: Final = "multipart/form-data"
_BOUNDARY: Final = re.compile(r'boundary="?([^";]+)')
_NAME: Final = re.compile(rb'[; ]name="([^"]*)"')
_FILE_NAME: Final = re.compile(rb'filename="([^"]*)"')
_HEAD_BYTES: Final = 64
_FORMATS: Final = ("json", "verbose_json", "text", "srt", "vtt", "diarized_json")
_TOKENS_ONLY: Final = "gpt-4o"
_TIMED: Final = frozenset({"verbose_json", "srt", "vtt"})
_SIGNS: Final = (
    (0, b"RIFF"),
    (0, b"ID3"),
    (0, b"\xff"),
    (0, b"fLaC"),
    (4, b"ftyp"),
    (0, b"OggS"),
    (0, b"\x1aE\xdf\xa3"),
)
_BYTES_A_SECOND: Final = 16_000
_WAV_RATE: Final = slice(28, 32)
_WORDS: Final = (
    "the harbour was quiet", "we walked along the river", "nobody had seen the letter", "it rained until noon",
    "the train came late", "she counted the boats", "they agreed on a price", "the lamp went out",
)  # fmt: skip


def form_of(body: bytes, content_type: str) -> dict[str, Json] | None:
    """A form as an object: of a file its digest, size and first bytes; None where it is none."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        return None
    fields: dict[str, Json] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + found[1].encode())[1:-1]:
        head, blank, content = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not blank or name is None:
            return None
        key, file_name = name[1].decode("utf-8", "replace"), _FILE_NAME.search(head)
        said: Json = content.decode("utf-8", "replace")
        if file_name is not None:
            said = {
                "sha256": sha256(content).hexdigest(),
                "size": len(content),
                "head": content[:_HEAD_BYTES].decode("latin-1"),
                "name": file_name[1].decode("utf-8", "replace"),
            }
        if key.endswith("[]"):
            said = [*as_list(fields.get(key[:-2])), said]
        fields[key.removesuffix("[]")] = said
    return fields


def check_transcription(order: Order) -> Refusal | None:
    """What a server rejects before it runs anything."""
    file, form = as_object(order.body.get("file")), order.body.get("response_format", "json")
    head = as_text(file.get("head")).encode("latin-1", "replace")
    if not file:
        return invalid("[{'type': 'missing', 'loc': ('body', 'file'), 'msg': 'Field required', 'input': None}]")
    if not any(head.startswith(sign, offset) for offset, sign in _SIGNS):
        return invalid("Invalid file format. Supported formats: ['flac', 'm4a', 'mp3', 'mp4', 'ogg', 'wav', 'webm']")
    if form not in _FORMATS:
        return invalid(f"response_format must be one of {', '.join(_FORMATS)}.")
    if order.base_model.startswith(_TOKENS_ONLY) and form in _TIMED:
        return invalid(f"response_format '{form}' is not compatible with model '{order.base_model}'.")
    if order.body.get("timestamp_granularities") and form != "verbose_json":
        return invalid("`timestamp_granularities` needs response_format 'verbose_json'.")
    if "tr-too-short" in order.chosen:
        return invalid("Audio file is too short. Minimum audio length is 0.1 seconds.")
    return None


def check_translation(order: Order) -> Refusal | None:
    """The same of a translation, which is always into English."""
    unknown = next((name for name in ("language", "timestamp_granularities") if name in order.body), None)
    if unknown is not None:
        return invalid(f"Unrecognized request argument supplied: {unknown}")
    return check_transcription(order)


def answer_transcription(order: Order, *, task: str = "transcribe") -> Script:
    """The transcript, or its translation into English, which every transcript here is."""
    form = as_text(order.body.get("response_format")) or "json"
    seconds = _seconds(as_object(order.body.get("file")))
    said = [] if "tr-silent" in order.chosen else _sentences(order)
    text = " ".join(said)
    if form in {"text", "srt", "vtt"} and "tr-json" not in order.chosen:
        shown = {"text": text + "\n", "srt": _srt(said, seconds), "vtt": _vtt(said, seconds)}[form]
        return replace(whole(shown.encode(), order), headers={"content-type": "text/plain; charset=utf-8"})
    usage: dict[str, Json] = {"type": "duration", "seconds": max(1, round(seconds + 0.5))}
    if order.base_model.startswith(_TOKENS_ONLY):
        heard, wrote = max(1, round(seconds * 10)), count_tokens(text)
        usage = {"type": "tokens", "input_tokens": heard, "output_tokens": wrote, "total_tokens": heard + wrote}
        usage["input_token_details"] = {"text_tokens": 0, "audio_tokens": heard}
    body: dict[str, Json] = {"text": text}
    if form in {"verbose_json", "diarized_json"}:
        body = {"task": task, "language": "english", "duration": seconds, **body}
        body["segments"] = [
            {"id": at, "start": begin, "end": end, "text": f" {words}"}
            for at, begin, end, words in _timed(said, seconds)
        ]
    if "word" in as_list(order.body.get("timestamp_granularities")):
        words = text.split()
        body["words"] = [{"word": word, "start": begin, "end": end} for _, begin, end, word in _timed(words, seconds)]
    if "tr-no-text" in order.chosen:
        del body["text"]
    body["usage"] = usage
    if "tr-streamed" in order.chosen:
        events: list[dict[str, Json]] = [{"type": "transcript.text.delta", "delta": words} for words in said]
        events.append({"type": "transcript.text.done", **body})
        stream = b"".join(b"data: " + encode_json(event) + b"\n\n" for event in events)
        return replace(whole(stream, order), headers={"content-type": SSE_TYPE})
    return whole(encode_json(body), order)


def _seconds(file: Mapping[str, Json]) -> float:
    size = file.get("size")
    head = as_text(file.get("head")).encode("latin-1", "replace")
    rate = int.from_bytes(head[_WAV_RATE], "little") if head.startswith(b"RIFF") else 0
    return round((size if isinstance(size, int) else 0) / (rate or _BYTES_A_SECOND), 2)


def _sentences(order: Order) -> list[str]:
    matter = json.dumps([order.random_source.seed, order.base_model, as_object(order.body.get("file")).get("sha256")])
    grain = sha256(matter.encode()).digest()
    said = [_WORDS[grain[at] % len(_WORDS)] for at in range(1, 3 + grain[0] % 3)]
    return [f"{words.capitalize()}." for words in said]


def _timed(said: list[str], seconds: float) -> list[tuple[int, float, float, str]]:
    """(number, start, end, words), in equal parts."""
    part = seconds / (len(said) or 1)
    return [(at, round(at * part, 3), round((at + 1) * part, 3), words) for at, words in enumerate(said)]


def _clock(seconds: float, point: str) -> str:
    whole_s, rest = divmod(round(seconds * 1000), 1000)
    return f"{whole_s // 3600:02}:{whole_s // 60 % 60:02}:{whole_s % 60:02}{point}{rest:03}"


def _srt(said: list[str], seconds: float) -> str:
    cues = [
        f"{at + 1}\n{_clock(begin, ',')} --> {_clock(end, ',')}\n{words}\n"
        for at, begin, end, words in _timed(said, seconds)
    ]
    return "\n".join(cues) + "\n"


def _vtt(said: list[str], seconds: float) -> str:
    cues = [f"{_clock(begin, '.')} --> {_clock(end, '.')}\n{words}\n" for _, begin, end, words in _timed(said, seconds)]
    return "\n".join(["WEBVTT\n", *cues]) + "\n"
