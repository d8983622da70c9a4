"""Literal secrets anywhere in a job file are mistakes, and nothing that is said repeats them."""

from collections.abc import Callable

import pytest

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Job
from batchrunner.spec.job_errors import short

Load = Callable[..., Job]
Mistakes = Callable[..., tuple[Mistake, ...]]

SK = "sk-proj-4fK9x2LmQ7vT1bN8"
MS = "ms-3f2b8c1e-9d4a-4e6b-8f70-1a2b3c4d5e6f"
LONG = "a8F3kQ9zL2mX7vB4nT6yW1cR5"
CHAT = "provider: openai\nmodel: m\nprompts: [a]\n"

PLACES = [
    ("in a prompt", CHAT.replace("[a]", f"['use {SK} please']"), "prompts[0]", SK),
    ("in params", CHAT + f"params: {{auth: {MS}}}", "params.auth", MS),
    ("in vars", CHAT.replace("[a]", f"[{{prompt: x, vars: {{k: {MS}}}}}]"), "prompts[0].vars.k", MS),
    ("as api_key", CHAT.replace("openai", f"{{preset: openai, api_key: {SK}}}"), "provider.api_key", SK),
    ("as api_key_env", CHAT.replace("openai", f"{{preset: openai, api_key_env: {SK}}}"), "provider.api_key_env", SK),
    ("an opaque key", CHAT.replace("openai", f"{{preset: openai, api_key_env: {LONG}}}"), "provider.api_key_env", LONG),
    ("as a file", CHAT.replace("openai", f"{{preset: openai, api_key_file: {SK}}}"), "provider.api_key_file", SK),
    (
        "an opaque file",
        CHAT.replace("openai", f"{{preset: openai, api_key_file: {LONG}}}"),
        "provider.api_key_file",
        LONG,
    ),
    ("in a command", CHAT.replace("openai", f"{{preset: openai, api_key_cmd: echo {MS}}}"), "provider.api_key_cmd", MS),
    (
        "an opaque key in a list",
        CHAT.replace("openai", f"{{preset: openai, api_key_env: [A_KEY, {LONG}]}}"),
        "provider.api_key_env[1]",
        LONG,
    ),
    (
        "in a header",
        CHAT.replace("openai", f"{{preset: openai, headers: {{X-A: Bearer {LONG}}}}}"),
        "provider.headers.X-A",
        LONG,
    ),
    (
        "an opaque header",
        CHAT.replace("openai", f"{{preset: openai, headers: {{X-A: {LONG}}}}}"),
        "provider.headers.X-A",
        LONG,
    ),
    (
        "a number as a key",
        CHAT.replace("openai", "{preset: openai, headers: {X-A: 918273645546372819}}"),
        "provider.headers.X-A",
        "918273645546372819",
    ),
    (
        "in a proxy",
        CHAT.replace("openai", "{preset: openai, proxy: 'http://me:hunter2@proxy:1'}"),
        "provider.proxy",
        "hunter2",
    ),
    ("as the provider", CHAT.replace("openai", SK), "provider", SK),
    ("as a name", CHAT + f"name: {MS}", "name", MS),
    ("as a choice", CHAT + f"kind: {SK}", "kind", SK),
    ("where a number belongs", CHAT + f"breaker: {MS}", "breaker", MS),
]


@pytest.mark.parametrize(("text", "key", "secret"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES])
def test_a_literal_secret_is_a_mistake_that_never_echoes_it(
    mistakes: Mistakes, text: str, key: str, secret: str
) -> None:
    """Threat 15."""
    found = mistakes(text)
    assert key in [mistake.key for mistake in found]
    assert secret not in str(JobMistakesError(found))
    assert secret[:12] not in repr(found) or secret == "hunter2"


def test_a_value_is_cut_only_after_its_secrets_are_hidden() -> None:
    for before in range(40, 60):
        assert SK[:6] not in short("x" * before + " " + SK)


def test_a_secret_as_a_key_or_in_a_setting_is_not_echoed_either(mistakes: Mistakes) -> None:
    for found in (
        mistakes(CHAT + f"{SK}: 1"),
        mistakes(CHAT + f"params: {{{MS}: 1}}"),
        mistakes(CHAT, overrides=[f"provider.api_key={SK}"]),
        mistakes(CHAT, overrides=[f"params.k={MS}"]),
        mistakes(CHAT, overrides=[MS]),
        mistakes(CHAT + f"system: *{LONG}\n"),
        mistakes(CHAT + f"system: !{SK} x\n"),
    ):
        assert not any(secret in repr(found) for secret in (SK, MS, LONG))


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Proxy-Authorization",
        "x-api-key",
        "X-Goog-Api-Key",
        "api-key",
        "Cookie",
        "X-Auth-Token",
        "X-Key",
    ],
)
def test_a_header_that_carries_authorization_is_a_mistake(mistakes: Mistakes, name: str) -> None:
    (mistake,) = mistakes(CHAT.replace("openai", f"{{preset: openai, headers: {{{name}: v}}}}"))
    assert mistake.key == f"provider.headers.{name}"
    assert "api_key_env" in (mistake.hint or "")


@pytest.mark.parametrize("header", ['"X A": v', '"X-A": "a\\r\\nB: c"', "Host: v", "Content-Length: '3'"])
def test_a_header_that_would_break_the_request_is_a_mistake(mistakes: Mistakes, header: str) -> None:
    (mistake,) = mistakes(CHAT.replace("openai", f"{{preset: openai, headers: {{{header}}}}}"))
    assert (mistake.key or "").startswith("provider.headers")


@pytest.mark.parametrize(
    "text",
    [
        "Explain sk-learn to a beginner",
        "a risk-based-approach-in-2024 for ms-dos and ms-word",
        "The bearer of good news arrived at ten o'clock in 1912",
        "What does task-1234567890123 mean?",
        "3f2b8c1e-9d4a-4e6b-8f70-1a2b3c4d5e6f",
        "the ghostwriter_of_the_2024_edition and the hfactor1234567890123",
    ],
)
def test_ordinary_words_are_no_secrets(load: Load, text: str) -> None:
    assert load(CHAT.replace("[a]", f'["{text}"]')).name == "job"


@pytest.mark.parametrize("header", ["X-Author: somebody", "X-Keyword: tides", "X-Team: basic research"])
def test_ordinary_headers_are_sent(load: Load, header: str) -> None:
    name, _, value = header.partition(": ")
    assert load(CHAT.replace("openai", f"{{preset: openai, headers: {{{header}}}}}")).provider.headers == {name: value}


@pytest.mark.parametrize("name", ["MODELSCOPE_API_KEY", "MY_KEY", "key2", "ANTHROPICKEYOFTHEEVALSTEAM"])
def test_names_of_variables_are_no_secrets(load: Load, name: str) -> None:
    job = load(CHAT.replace("openai", f"{{preset: openai, api_key_env: {name}}}"))
    assert job.provider.key_env == (name,)
