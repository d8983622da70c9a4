"""Threat 2 for what servers say back: the key is out of every value before anybody could write it down."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.http import Ending, ResponseHead
from batchrunner.core.item import InputPicture, Item
from batchrunner.core.job import Json, Turn
from batchrunner.core.outcome import (
    Answer,
    PictureBytes,
    Pictures,
    PictureUrl,
    Problem,
    ProblemKind,
    TaskAccepted,
    TaskAddresses,
    ToolCall,
)
from batchrunner.core.remote_batch import BatchLine
from batchrunner.providers.openai_batches import OpenAiBatches
from batchrunner.providers.openai_chat import OpenAiChat
from batchrunner.stores.batch_files import BatchFolder
from batchrunner.transport import Secret
from batchrunner.transport.secrets import KeylessItems, Masker, masked
from tests.sdk_compat.items import item, provider
from tests.transport.servers import ACCOUNT, CANARY, api, downloads, post, reply, sends, serve

pytestmark = pytest.mark.usefixtures("way")  # every test here runs on both ways of the transport

SECRETS = [Secret(CANARY), Secret("short")]
DEEP: Json = [CANARY]
for _ in range(5000):
    DEEP = [DEEP]

SAID: dict[str, object] = {
    "a problem": Problem(kind=ProblemKind.AUTH, message=f"bad key {CANARY}", code=CANARY, request_id=CANARY),
    "a problem cut off within the key": Problem(kind=ProblemKind.AUTH, message=f"bad key {CANARY[:-4]}"),
    "a problem cut off with a mark": Problem(kind=ProblemKind.AUTH, message=f"bad key {CANARY[:-4]}…"),
    "an answer": Answer(text=f"{CANARY}{CANARY}", reasoning=CANARY, finish_reason=CANARY, flags=(CANARY,)),
    "a tool call": Answer(text="", tool_calls=(ToolCall(id=CANARY, name=CANARY, arguments=f'{{"a": "{CANARY}"}}'),)),
    "a parsed value": Answer(text="", parsed={CANARY: [CANARY, {"a": (CANARY)}], "n": 1, "x": None}),
    "a parsed value without end": Answer(text="", parsed=DEEP),
    "a task": TaskAccepted(task_id=CANARY),
    "the addresses of a task": TaskAddresses(poll=f"https://h.example/t?key={CANARY}"),
    "a task with addresses": TaskAccepted(task_id="t-1", addresses=TaskAddresses(f"https://h.example/t?key={CANARY}")),
    "a URL": Pictures(refs=(PictureUrl(url=f"https://h.example/{CANARY}.png?a={CANARY}"),)),
    "a picture": Pictures(refs=(PictureBytes(data=b"\x89PNG" + CANARY.encode() + b"rest"),)),
}


@pytest.mark.parametrize("name", SAID)
def test_no_value_keeps_the_key(name: str) -> None:
    """Threat 2."""
    value = SAID[name]
    clean = masked(value, SECRETS)
    assert type(clean) is type(value)
    if isinstance(clean, TaskAccepted):
        assert type(clean.addresses) is TaskAddresses
    try:
        shown = repr(clean)
    except RecursionError:
        shown = ""
    assert CANARY not in shown
    assert CANARY[: len(CANARY) // 2] not in shown


def test_bytes_keep_their_length_and_a_deep_value_its_shallow_part() -> None:
    """Threat 2: what is masked can still be read as what it is."""
    assert masked(b"a" + CANARY.encode() + b"b", SECRETS) == b"a" + b"*" * len(CANARY) + b"b"
    clean = masked(DEEP, SECRETS)
    for _ in range(50):
        assert isinstance(clean, list)
        (clean,) = clean


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_what_holds_no_key_is_left_as_it_is(value: Json) -> None:
    """Threat 2: the very same object, also where a short key could be a word of the text."""
    assert masked(value, SECRETS) is value
    answer = Answer(text="a short answer", parsed=value)
    assert masked(answer, SECRETS) is answer


@given(JSON, st.lists(st.booleans(), min_size=1, max_size=4))
def test_a_key_anywhere_in_a_value_is_out_of_it(value: Json, path: list[bool]) -> None:
    """Threat 2."""
    spoilt: Json = f"<{CANARY}>"
    for as_list in path:
        spoilt = [value, spoilt] if as_list else {"a": value, CANARY: spoilt}
    assert CANARY not in json.dumps(masked(spoilt, SECRETS))


SPELT = {
    "plain": json.dumps(f"the key is {CANARY}."),
    "in numbers": '"' + "".join(f"\\u{ord(char):04x}" for char in CANARY) + '"',
    "in JSON in a text": json.dumps(json.dumps({"a": CANARY.replace("-", "\\u002d")})),
    "behind many escapes": '"' + "\\" * 18 + "\\u" + f"{ord(CANARY[0]):04x}{CANARY[1:]}" + '"',
    "in base64": json.dumps(base64.b64encode(CANARY.encode()).decode()),
}


@pytest.mark.parametrize("name", SPELT)
def test_lines_of_json_lose_the_key_and_are_lines_of_json_still(name: str) -> None:
    """Threat 2: result files of batches, line by line; a line without a key keeps its bytes."""
    other = b'{"text":  "caf\\u00e9 100%", "n": 1e400}'
    line = b'{"custom_id": "a", "body": %b}' % SPELT[name].encode()
    clean = Masker(SECRETS).masked_lines(b"%b\n%b\n%b\n" % (other, line, other)).split(b"\n")
    assert (clean[0], clean[2:]) == (other, [other, b""])
    body = json.loads(clean[1])["body"]
    assert "***" in body
    assert masked(body, SECRETS) == body


def test_lines_that_are_no_json_lose_the_key() -> None:
    """Threat 2."""
    clean = Masker(SECRETS).masked_lines(b"\xff {" + CANARY.encode() + b"\nno key\n")
    assert clean == b"\xff {***\nno key\n"


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_a_result_file_that_comes_in_pieces_is_masked_as_a_whole(tmp_path: Path, piece: int) -> None:
    """Threat 2: the key lies across pieces, and the last line has no end."""
    data = json.dumps({"a": CANARY}).encode() + b'\n{"b": 1}\n' + json.dumps({"c": CANARY}).encode()
    folder = BatchFolder(tmp_path, clean=Masker(SECRETS).masked_lines)
    writing = folder.begin("000001.out.jsonl")
    for start in range(0, len(data), piece):
        writing.write(data[start : start + piece])
    kept = writing.finish()
    assert (tmp_path / kept[0]).read_bytes() == b'{"a": "***"}\n{"b": 1}\n{"c": "***"}'
    assert folder.stands(kept)


def test_a_key_that_comes_in_two_parts_of_an_answer_is_not_in_what_is_made_of_them() -> None:
    """Threat 2: no line of the file has the whole of it."""
    server = provider("openai", "openai-chat")
    parts: Json = [{"type": "text", "text": CANARY[:20]}, {"type": "text", "text": CANARY[20:]}]
    body: Json = {"choices": [{"message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}]}
    line = BatchLine(key="a" * 32, status=200, body=json.dumps(body).encode())
    batches = OpenAiBatches(server, OpenAiChat(server), Masker(SECRETS).masked)
    answer = batches.answer(item("a", model="m"), line, received_at=0.0)
    assert isinstance(answer, Answer)
    assert answer.text == "***"


@dataclass
class Received:
    """A decoder whose outcome is what the server said."""

    text: str = ""

    def begin(self, head: ResponseHead) -> None:
        self.text = repr(head.headers)

    def feed(self, data: bytes) -> bool:
        self.text += data.decode("latin-1")
        return False

    def end(self, ending: Ending) -> str:
        return self.text


def test_no_exchange_gives_the_key_back() -> None:
    """Threat 2, on a socket: in a header and in the body."""

    async def scene() -> None:
        echo = reply(f"your key is {CANARY}".encode(), headers=f"X-Key: {CANARY}\r\n")
        async with serve(sends(echo)) as server, api(server.url("/v1")) as transport:
            said: str = await transport.exchange(post(server.url()), Received(), account=ACCOUNT)
            assert CANARY.encode() in server.requests[0]
            assert CANARY not in said
            assert "your key is ***" in said

    asyncio.run(scene())


def test_no_download_brings_the_key() -> None:
    """Threat 2: a storage host in league with the server that knows the key."""

    async def scene() -> None:
        hide = [Secret(CANARY)]
        async with serve(sends(reply(b"\x89PNG" + CANARY.encode()))) as server, downloads(hide=hide) as loader:
            assert await loader.fetch(server.url("/a.png")) == b"\x89PNG" + b"*" * len(CANARY)
        async with serve(sends(reply(b"", status="404 No"))) as server, downloads(hide=hide) as loader:
            assert CANARY not in repr(await loader.fetch(server.url(f"/{CANARY}.png")))

    asyncio.run(scene())


class Listed:
    """Items of a job."""

    skipped_rows = 3
    of_job = 0

    def __init__(self, *prompts: str) -> None:
        self.prompts = prompts

    async def batches(self, models: frozenset[str] | None = None) -> AsyncGenerator[Sequence[Item]]:
        yield [
            Item(
                id=f"i{index}",
                prompt_id="p",
                index=index,
                key="0" * 32,
                model="m",
                prompt=prompt,
                turns=(Turn(role="user", content=prompt),),
            )
            for index, prompt in enumerate(self.prompts, 1)
        ]


SPOILT = {
    "as it is": CANARY,
    "its beginning, cut off": CANARY[: len(CANARY) // 2 + 1],
    "in percent": "".join(f"%{ord(char):02x}" for char in CANARY),
    "in JSON": "".join(f"\\u00{ord(char):02x}" for char in CANARY),
    "in base64": base64.b64encode(CANARY.encode()).decode(),
    "in hex": CANARY.encode().hex(),
}
PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "the prompt": lambda text: {"prompt": text},
    "a turn": lambda text: {"turns": (Turn(role="system", content=text), Turn(role="user", content="b"))},
    "a message as it is sent": lambda text: {"turns": (Turn(role="user", content="b", raw={"x": [{"y": text}]}),)},
    "a variable": lambda text: {"vars": {"a": 1, "b": text}},
    "a variable's name": lambda text: {"vars": {text: 1}},
    "deep in a variable": lambda text: {"vars": {"a": [{"b": [None, 1.5, {"c": text}]}]}},
    "a parameter": lambda text: {"params": {"stop": [text]}},
    "a schema": lambda text: {"schema": {"title": text}},
    "a picture's address": lambda text: {"pictures": (InputPicture(name="a", sha256="", url=f"https://x/{text}"),)},
    "an id": lambda text: {"id": text},
    "a file's name": lambda text: {"stem": text},
}


@pytest.mark.parametrize("form", SPOILT)
@pytest.mark.parametrize("place", PLACES)
def test_a_key_is_found_wherever_and_however_it_stands_in_an_item(place: str, form: str) -> None:
    """Threats 2 and 15: the look at many items at once sees what a look at each of them would."""

    def made(index: int, **more: Any) -> Item:
        own: dict[str, Any] = {"id": "i", "prompt": "p", "turns": (Turn(role="user", content="p"),), **more}
        return Item(prompt_id="p", index=index, key="0" * 32, model="m", **own)

    spoilt = made(7, **PLACES[place](f"x {SPOILT[form]}"))

    class Batch:
        skipped_rows = 0
        of_job = 0

        async def batches(self, models: frozenset[str] | None = None) -> AsyncGenerator[Sequence[Item]]:
            yield [made(index) for index in range(1, 7)] + [spoilt, made(8)]

    async def read() -> None:
        async for _ in KeylessItems(Batch(), {ACCOUNT: Secret(CANARY)}).batches():
            pass

    with pytest.raises(JobMistakesError) as caught:
        asyncio.run(read())
    assert f"item 7 contains the key of {ACCOUNT}" in str(caught.value)


def test_an_item_that_holds_a_key_is_a_mistake_that_names_the_variable_and_not_the_key() -> None:
    """Threats 2 and 15: its prompt would be written down."""

    async def count(items: KeylessItems) -> int:
        return sum([len(batch) async for batch in items.batches()])

    keys = {ACCOUNT: Secret(CANARY), "PLACEHOLDER": Secret("lm-studio")}
    fine = KeylessItems(Listed("a", "about lm-studio"), keys)
    assert asyncio.run(count(fine)) == 2
    assert fine.skipped_rows == 3
    with pytest.raises(JobMistakesError) as caught:
        asyncio.run(count(KeylessItems(Listed("a", f"b {CANARY}"), keys)))
    assert f"item 2 contains the key of {ACCOUNT}" in str(caught.value)
    assert CANARY not in str(caught.value)


CODED = {
    "as it is": CANARY,
    "its beginning": CANARY[: len(CANARY) // 2],
    "percent": quote(CANARY, safe="").replace("s", "%73"),
    "base64": base64.b64encode(f"ab{CANARY}c".encode()).decode(),
    "hex": CANARY.encode().hex(),
    "JSON": CANARY.replace("a", "\\u0061"),
    "HTML": "".join(f"&#{ord(char)};" for char in CANARY),
}


@pytest.mark.parametrize("form", CODED)
@pytest.mark.parametrize("place", ["text", "reasoning", "finish_reason", "flags"])
def test_the_quick_look_at_an_answer_finds_what_the_walk_finds(form: str, place: str) -> None:
    """Threat 2: whatever form of a key stands in an ordinary answer."""
    said = f"It says & means 100 %: {CODED[form]}"
    fields: dict[str, object] = {"text": "hello", place: (said,) if place == "flags" else said}
    answer = Answer(**fields)  # type: ignore[arg-type]  # the fields are of their types
    assert Masker(SECRETS).masked(answer) == masked(answer, SECRETS)
    if form != "its beginning":
        assert masked(answer, SECRETS) is not answer
    clean = Answer(text="hello & goodbye, 100 %", reasoning="\\n", finish_reason="stop")
    assert Masker(SECRETS).masked(clean) is clean
