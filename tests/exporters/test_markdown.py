"""Markdown: whatever a text says, a real reader of Markdown finds it in a block of code, and nothing else."""

from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from batchrunner.report.wording import printable
from tests.exporters.rows import TEXTS, chat_row, failed_row, made, picture_row

HOSTILE = (
    "```\n<script>alert(1)</script>\n```",
    "~~~\n# heading",
    "````` ``` `",
    "`",
    "</code></pre><img src=x onerror=alert(1)>",
    "[x](javascript:alert(1)) ![y](http://evil/)",
    "http://evil www.evil.example",
    "\r```\r<b>",
    "   \n",
    "",
    "a\x1b[2Jb\u202ec\x00",
)
ALLOWED = {
    *("heading_open", "heading_close", "inline", "fence", "paragraph_open", "paragraph_close"),
    *("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"),
    *("text", "code_inline", "strong_open", "strong_close", "image", "softbreak"),
}


def tokens(content: bytes) -> list[Token]:
    """All of them, those in lines too."""
    found = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(content.decode("utf-8"))
    return [inner for token in found for inner in (token, *(token.children or ()))]


def shown(text: str) -> str:
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in lines)


def assert_only_shown(content: bytes, *texts: str) -> None:
    found = tokens(content)
    assert {token.type for token in found} <= ALLOWED
    assert [token.content for token in found if token.type == "fence"] == [f"{shown(text)}\n" for text in texts]
    assert all(token.info == "text" for token in found if token.type == "fence")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_in_its_fence(text: str) -> None:
    fields: dict[str, Any] = {"id": text, "model": text, "prompt": text, "params": {text: text}}
    answered = chat_row(text, output={"reasoning": text, "truncated": True, "finish_reason": text}, **fields)
    content = made("markdown", answered, failed_row(text, **fields), name=text)
    assert_only_shown(content, text, text, text, text, text)
    assert b"\x1b" not in content
    assert "\u202e" not in content.decode()


@settings(deadline=None)  # a busy machine is no mistake
@given(prompt=TEXTS, answer=st.text(st.sampled_from("`~\n\r\t <>#[]()!*_-=&;x"), max_size=30), name=TEXTS)
def test_any_texts_stay_in_their_fences(prompt: str, answer: str, name: str) -> None:
    content = made("markdown", chat_row(answer, id=name, model=answer, prompt=prompt), name=name)
    assert_only_shown(content, prompt, answer)
    assert sum(token.type == "heading_open" for token in tokens(content)) == 2


@pytest.mark.parametrize(
    "path", ["images/a.png", "images/a b)](http://x) <b>\n.png", "images/猫.png", "images/%41.png"]
)
def test_pictures_are_links_that_lead_to_them(path: str) -> None:
    (image,) = (token for token in tokens(made("markdown", picture_row((path, b"x")))) if token.type == "image")
    assert unquote(str(image.attrs["src"])) == f"../{path}"


def test_a_conversation_is_shown_turn_by_turn() -> None:
    turns = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
    content = made("markdown", chat_row("Hi", messages=turns, images=[{"name": "cat.png", "sha256": "0"}]))
    assert_only_shown(content, "Be brief", "Hello", "Hi")
    assert b"**Prompt**, `system`" in content
    assert b"- shown to the model: `cat.png`" in content


def test_calls_of_tools_and_answers_that_were_cut_off_are_named() -> None:
    output = {"tool_calls": [{"id": "1", "name": "f", "arguments": "{}"}], "truncated": True, "finish_reason": "length"}
    content = made("markdown", chat_row("", output=output))
    assert b'"name": "f"' in content
    assert b"- finish reason: `length (cut off)`" in content
