"""With a table, the key goes to the base's origin, and over https to the domains that the table names."""

import pytest

from batchrunner.core.job import Timeouts
from batchrunner.core.values import replace
from batchrunner.spec.task_tables import shipped_table
from batchrunner.transport import ApiTransport, Secret
from tests.providers.reading import provider

KEY = "bfl-canary-5f1d7c3e-0123456789"


def sent_to(url: str, *, base_url: str = "https://api.bfl.ai") -> dict[str, str]:
    own = provider("openai", "task", base_url)
    own = replace(own, task=shipped_table("bfl"), auth="bearer", key_env=("MINE",), key_header="x-key")
    transport = ApiTransport(own, timeouts=Timeouts(), keys={"MINE": Secret(KEY)})
    _, headers = transport._addressed(url, "MINE")
    return {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize(
    "url",
    [
        "https://api.bfl.ai/v1/flux-2-pro",
        "https://gateway.eu.bfl.ai/v1/get_result?id=1",
        "https://bfl.ai/v1/get_result?id=1",
        "https://gateway.eu.bfl.ai:443/v1/get_result?id=1",
    ],
)
def test_a_host_that_the_table_names_gets_the_key_in_the_tables_header(url: str) -> None:
    assert sent_to(url) == {"x-key": KEY}


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.eu.bfl.ai/v1/get_result?id=1",
        "https://gateway.eu.bfl.ai:8443/v1/get_result?id=1",
        "https://bfl.ai.evil.example/v1/get_result?id=1",
        "https://evilbfl.ai/v1/get_result?id=1",
        "https://bfl.ai@evil.example/v1",
        "https://api.bfl.ai@evil.example/v1",
        "https://evil.example/?x=https://api.bfl.ai/",
        "https://evil.example\\.bfl.ai/v1",
        "https://delivery.example/bfl.ai",
    ],
)
def test_no_other_host_gets_the_key(url: str) -> None:
    assert sent_to(url) == {}


def test_the_hosts_of_a_table_get_it_with_another_base_url_too() -> None:
    assert sent_to("https://gateway.eu.bfl.ai/x", base_url="http://127.0.0.1:9") == {"x-key": KEY}
    assert sent_to("https://api.bfl.ai:9/x", base_url="http://127.0.0.1:9") == {}
