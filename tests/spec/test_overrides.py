"""`--set a.b=VALUE` changes the file's values before they are checked, and its mistakes name `--set`."""

from collections.abc import Callable

import pytest

from batchrunner.core.errors import Mistake
from batchrunner.core.job import Job, Listing

Load = Callable[..., Job]
Mistakes = Callable[..., tuple[Mistake, ...]]

CHAT = "provider: openai\nmodel: m\nprompts:\n- {id: a, prompt: x}\nlimits: {concurrency: auto}\n"


def test_values_are_yaml_and_make_the_mappings_they_need(load: Load) -> None:
    job = load(
        CHAT,
        overrides=[
            "limits.concurrency=4",
            "retry.max_wait_s=1.5",
            "params.temperature=0.5",
            "params.stop=[a, b]",
            "matrix={seed: [1, 2]}",
            "stream=false",
            "name=a b",
            "system=Mind: be brief",
            "output.each={{ id }}.md",
            "prompts[0].id=b",
        ],
    )
    assert (job.limits.concurrency, job.retry.max_wait_s, job.name, job.stream) == (4, 1.5, "a b", False)
    assert job.params == {"temperature": 0.5, "stop": ["a", "b"]}
    assert job.matrix == {"seed": (1, 2)}
    assert (job.system, job.output.each) == ("Mind: be brief", "{{ id }}.md")
    assert isinstance(job.prompts, Listing)
    assert job.prompts.entries[0].id == "b"


def test_a_provider_by_name_takes_settings_too(load: Load) -> None:
    job = load(CHAT, overrides=["provider.base_url=http://127.0.0.1:9/v1", "provider.api_key_env=OTHER_KEY"])
    assert (job.provider.preset, job.provider.base_url) == ("openai", "http://127.0.0.1:9/v1")
    assert job.provider.key_env == ("OTHER_KEY",)


def test_an_empty_value_takes_a_key_away(load: Load) -> None:
    assert load(CHAT, overrides=["limits="]).limits == load(CHAT).limits
    assert load(CHAT + "models: [a]\n", overrides=["model="]).models == ("a",)


def test_a_setting_mends_what_the_file_has_wrong(load: Load) -> None:
    broken = CHAT.replace("auto", "0123")
    assert load(broken, overrides=["limits.concurrency=2"]).limits.concurrency == 2


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("limits.concurrency=0", "limits.concurrency", "is 0"),
        ("limits.concurency=1", "limits.concurency", "is not a known key"),
        ("limits={concurrency: 0}", "limits.concurrency", "is 0"),
        ("params.seed=0123", "params.seed", "octal"),
        ("name=no", "name", "not text"),
        ("params.x=[", "params.x", "not closed"),
        ("concurrency", None, "the equals sign is missing"),
        ("=3", None, "cannot be read"),
        ("a..b=3", None, "cannot be read"),
        ("prompts[7].id=b", "prompts[7].id", "cannot be set"),
        ("model.x=b", "model.x", "cannot be set"),
    ],
)
def test_a_bad_setting_is_a_mistake_that_names_the_option(
    mistakes: Mistakes, override: str, key: str | None, problem: str
) -> None:
    (mistake,) = mistakes(CHAT, overrides=[override])
    assert (mistake.file, mistake.line, mistake.key) == ("--set", None, key)
    assert problem in mistake.problem
