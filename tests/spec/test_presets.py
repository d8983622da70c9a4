"""What each preset becomes, and how a base URL is read whatever form was pasted."""

import asyncio
from collections.abc import Callable

import pytest

from batchrunner.core.errors import Mistake
from batchrunner.core.item import Item
from batchrunner.core.job import DialectName, Job, Provider
from batchrunner.prompts import items_of
from batchrunner.spec.provider import is_loopback, normalised

Load = Callable[..., Job]
Mistakes = Callable[..., tuple[Mistake, ...]]

MODELSCOPE = "https://api-inference.modelscope.cn"


def provider(
    preset: str, dialect: str, base_url: str, key_env: tuple[str, ...] = (), auth: str = "none", **more: object
) -> Provider:
    fields = {"preset": preset, "dialect": dialect, "base_url": base_url, "key_env": key_env, "auth": auth, **more}
    if preset.startswith("modelscope"):
        fields |= {"points_per_day": 200.0, "points_per_call": {"m": 1.0}, "points_assumed": True}
    return Provider(**fields)  # type: ignore[arg-type]  # the table holds plain text


GOLDEN = [
    (
        "modelscope",
        "chat",
        provider("modelscope", "openai-chat", f"{MODELSCOPE}/v1", ("MODELSCOPE_API_KEY",), "bearer"),
    ),
    (
        "modelscope",
        "image",
        provider("modelscope", "modelscope-images", f"{MODELSCOPE}/v1", ("MODELSCOPE_API_KEY",), "bearer"),
    ),
    (
        "modelscope-anthropic",
        "chat",
        provider("modelscope-anthropic", "anthropic-messages", MODELSCOPE, ("MODELSCOPE_API_KEY",), "x-api-key"),
    ),
    ("openai", "chat", provider("openai", "openai-chat", "https://api.openai.com/v1", ("OPENAI_API_KEY",), "bearer")),
    (
        "openai",
        "image",
        provider(
            "openai",
            "openai-images",
            "https://api.openai.com/v1",
            ("OPENAI_API_KEY",),
            "bearer",
            edits_as_form=True,
        ),
    ),
    (
        "anthropic",
        "chat",
        provider("anthropic", "anthropic-messages", "https://api.anthropic.com", ("ANTHROPIC_API_KEY",), "x-api-key"),
    ),
    ("simulator", "chat", provider("simulator", "openai-chat", "http://simulator.invalid/v1")),
    ("simulator", "image", provider("simulator", "modelscope-images", "http://simulator.invalid/v1")),
    (
        "modelscope",
        "embedding",
        provider("modelscope", "openai-embeddings", f"{MODELSCOPE}/v1", ("MODELSCOPE_API_KEY",), "bearer"),
    ),
    (
        "openai",
        "embedding",
        provider("openai", "openai-embeddings", "https://api.openai.com/v1", ("OPENAI_API_KEY",), "bearer"),
    ),
    (
        "openai",
        "transcription",
        provider("openai", "openai-transcriptions", "https://api.openai.com/v1", ("OPENAI_API_KEY",), "bearer"),
    ),
    *(
        (
            "gemini",
            kind,
            provider(
                "gemini",
                dialect,
                "https://generativelanguage.googleapis.com/v1beta/openai",
                ("GEMINI_API_KEY",),
                "bearer",
            ),
        )
        for kind, dialect in (("chat", "openai-chat"), ("embedding", "openai-embeddings"), ("image", "openai-images"))
    ),
    *(
        (
            f"{{preset: azure, base_url: 'https://a.openai.azure.com{path}'{more}}}",
            "chat",
            provider(
                "azure",
                dialect,
                f"https://a.openai.azure.com{ends}",
                ("AZURE_OPENAI_API_KEY",),
                "api-key",
                api_version=version,
            ),
        )
        for path, more, dialect, ends, version in (
            ("", "", "openai-chat", "/openai/v1", None),
            ("/", ", dialect: openai-responses", "openai-responses", "/openai/v1", None),
            ("/openai/v1/chat/completions", "", "openai-chat", "/openai/v1", None),
            (
                "/openai/deployments/d",
                ", api_version: '2024-10-21'",
                "openai-chat",
                "/openai/deployments/d",
                "2024-10-21",
            ),
        )
    ),
    ("simulator", "transcription", provider("simulator", "openai-transcriptions", "http://simulator.invalid/v1")),
    ("simulator", "embedding", provider("simulator", "openai-embeddings", "http://simulator.invalid/v1")),
    (
        "{preset: simulator, dialect: anthropic-messages}",
        "chat",
        provider("simulator", "anthropic-messages", "http://simulator.invalid"),
    ),
    ("{base_url: 'http://127.0.0.1:8000/v1'}", "chat", provider("openai", "openai-chat", "http://127.0.0.1:8000/v1")),
    (
        "{base_url: 'http://10.0.0.5:8000/v1/', dialect: anthropic-messages, allow_http: yes, api_key_env: [A_K, B_K]}",
        "chat",
        provider("openai", "anthropic-messages", "http://10.0.0.5:8000", ("A_K", "B_K"), "x-api-key", allow_http=True),
    ),
    (
        "{preset: modelscope-anthropic, auth: bearer}",
        "chat",
        provider("modelscope-anthropic", "anthropic-messages", MODELSCOPE, ("MODELSCOPE_API_KEY",), "bearer"),
    ),
    ("{preset: openai, auth: none}", "chat", provider("openai", "openai-chat", "https://api.openai.com/v1")),
    (
        "{preset: openai, api_key_file: /run/secrets/a, api_key_cmd: [pass a, 'op read \"op://v/b c\"']}",
        "chat",
        provider(
            "openai",
            "openai-chat",
            "https://api.openai.com/v1",
            auth="bearer",
            key_files={"file:/run/secrets/a": "/run/secrets/a"},
            key_commands={
                "cmd:pass a": ("pass", "a"),
                'cmd:op read "op://v/b c"': ("op", "read", "op://v/b c"),
            },
        ),
    ),
    ("{preset: openai, api_key_env: []}", "chat", provider("openai", "openai-chat", "https://api.openai.com/v1")),
    (
        "{preset: openai, headers: {X-Team: evals}, proxy: 'http://proxy:3128'}",
        "chat",
        provider(
            "openai",
            "openai-chat",
            "https://api.openai.com/v1",
            ("OPENAI_API_KEY",),
            "bearer",
            headers={"X-Team": "evals"},
            proxy="http://proxy:3128",
        ),
    ),
]


@pytest.mark.parametrize(("written", "kind", "expected"), GOLDEN)
def test_a_provider_resolves_to_its_golden_value(load: Load, written: str, kind: str, expected: Provider) -> None:
    job = load(f"provider: {written}\nkind: {kind}\nmodel: m\nprompts: [a]\n")
    assert job.provider == expected


@pytest.mark.parametrize("written", ["modelscope", "modelscope-anthropic", "openai", "anthropic"])
def test_a_simulated_job_keeps_its_dialect_and_needs_no_key(load: Load, written: str) -> None:
    text = f"provider: {written}\nmodel: m\nprompts: [a]\n"
    real, simulated = load(text), load(text, simulate=True)
    assert (simulated.provider.preset, simulated.provider.key_env, simulated.provider.auth) == ("simulator", (), "none")
    assert simulated.provider.dialect == real.provider.dialect
    assert simulated.simulated
    assert not real.simulated


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("openai-chat", "https://api-inference.modelscope.cn/v1"),
        ("modelscope-images", "https://api-inference.modelscope.cn/v1"),
        ("anthropic-messages", "https://api-inference.modelscope.cn"),
    ],
)
@pytest.mark.parametrize(
    "pasted",
    ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/messages", "/v1/images/generations/", "/v1/tasks/51"],
)
def test_modelscope_works_with_every_form_of_its_address(dialect: DialectName, expected: str, pasted: str) -> None:
    assert normalised(MODELSCOPE + pasted, dialect, of_modelscope=False) == expected


@pytest.mark.parametrize(
    ("url", "dialect", "expected"),
    [
        ("http://127.0.0.1:8000/v1/", "openai-chat", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000", "openai-chat", "http://127.0.0.1:8000"),
        ("http://host/api/v3/chat/completions", "openai-chat", "http://host/api/v3"),
        ("http://host/proxy/v1/messages", "anthropic-messages", "http://host/proxy"),
        ("http://host/v1", "anthropic-messages", "http://host"),
        ("http://[::1]:80/v1//", "openai-chat", "http://[::1]:80/v1"),
    ],
)
def test_other_addresses_are_taken_as_they_stand(url: str, dialect: DialectName, expected: str) -> None:
    assert normalised(url, dialect, of_modelscope=False) == expected


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "api.openai.com/v1",
        "http://",
        "http://x:99999999",
        "http://[::1",
        "http://u:p@x",
        "http://x/?k=1",
        "http://x y",
    ],
)
def test_what_is_no_address_is_a_mistake(mistakes: Mistakes, url: str) -> None:
    (mistake,) = mistakes(f"provider: {{base_url: '{url}'}}\nmodel: m\nprompts: [a]\n")
    assert (mistake.key, mistake.line) == ("provider.base_url", 1)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:1", True),
        ("http://127.9.9.9", True),
        ("http://[::1]/v1", True),
        ("http://127.0.0.1.example.org", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
    ],
)
def test_this_machine_is_distinguished_from_others(url: str, *, loopback: bool) -> None:
    assert is_loopback(url) is loopback


def test_a_key_over_plain_http_to_another_machine_needs_permission(load: Load, mistakes: Mistakes) -> None:
    text = "provider:\n  base_url: http://10.0.0.5:8000/v1\n  api_key_env: MY_KEY\nmodel: m\nprompts: [a]\n"
    (mistake,) = mistakes(text)
    assert (mistake.key, mistake.line) == ("provider.base_url", 2)
    assert "allow_http" in (mistake.hint or "")
    assert load(text, overrides=["provider.allow_http=true"]).provider.allow_http
    assert load(text.replace("10.0.0.5", "127.0.0.1")).provider.key_env == ("MY_KEY",)
    assert load(text.replace("  api_key_env: MY_KEY\n", "")).provider.key_env == ()


def test_caching_the_shared_beginning_is_for_anthropics_dialect_and_changes_no_key(
    load: Load, mistakes: Mistakes
) -> None:
    text = "provider: anthropic\nmodel: m\nsystem: Be brief.\nprompts: [a]\n"
    plain, caching = load(text), load(f"{text}cache: system\n")
    assert (plain.provider.cache_system, caching.provider.cache_system) == (False, True)
    (one,), (other,) = (asyncio.run(_items(job)) for job in (plain, caching))
    assert one.key == other.key
    for preset in ("openai", "simulator"):
        (found,) = mistakes(f"provider: {preset}\nmodel: m\nprompts: [a]\ncache: system\n")
        assert (found.key, found.line) == ("cache", 4)
        assert "Anthropic's dialect" in found.problem
    (found,) = mistakes(f"{text}cache: everything\n")
    assert found.key == "cache"


async def _items(job: Job) -> list[Item]:
    return [item async for batch in items_of(job).batches() for item in batch]
