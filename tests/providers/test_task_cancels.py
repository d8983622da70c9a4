"""What asks a task server for the end of a task: a request for each table that has one, and when it may leave."""

import pytest

from batchrunner.core.job import Json
from batchrunner.core.outcome import TaskAddresses
from batchrunner.providers.json_bodies import decode
from batchrunner.providers.tasks import TableTasks
from batchrunner.spec.task_tables import shipped_tables
from tests.providers.task_servers import API
from tests.providers.test_tasks import dialect

CANCELS: dict[str, tuple[str, str, Json, tuple[str, ...]] | None] = {
    "ark-videos": ("DELETE", "/api/v3/contents/generations/tasks/T%2F1", None, ("queued",)),
    "baidu-images": None,
    "bfl": None,
    "comfyui": ("POST", "/queue", {"delete": ["T/1"]}, ()),
    "dashscope-images": ("POST", "/api/v1/tasks/T%2F1/cancel", None, ()),
    "dashscope-videos": ("POST", "/api/v1/tasks/T%2F1/cancel", None, ()),
    "fal-queue": ("PUT", "/maker/one/requests/T1/cancel", None, ()),
    "horde": ("DELETE", "/v2/generate/status/T%2F1", None, ("queued", "running")),
    "luma": None,
    "minimax-videos": ("DELETE", "/v2/video_generation/T%2F1", None, ("queued",)),
    "replicate": ("POST", "/v1/predictions/T%2F1/cancel", None, ()),
    "openai-videos": None,
    "runway-image-videos": ("DELETE", "/v1/tasks/T%2F1", None, ("queued",)),
    "runway-images": ("DELETE", "/v1/tasks/T%2F1", None, ("queued",)),
    "runway-videos": ("DELETE", "/v1/tasks/T%2F1", None, ("queued",)),
    "zhipu-images": None,
    "zhipu-videos": None,
}
"""(method, path, body, the states in which it may be asked), or None for a server that is not known to cancel."""
ADDRESSES = TaskAddresses(
    poll=f"{API}/maker/one/requests/T1/status?logs=0", result=f"{API}/maker/one/requests/T1?queue=1"
)


def of(name: str) -> TableTasks:
    made = dialect(name)
    assert isinstance(made, TableTasks)
    return made


def test_every_table_states_how_its_tasks_are_cancelled_or_that_they_are_not() -> None:
    assert set(CANCELS) == set(shipped_tables())


@pytest.mark.parametrize("name", CANCELS)
def test_the_wish_goes_where_the_server_takes_it(name: str) -> None:
    expected = CANCELS[name]
    asked = of(name).cancel("T/1", ADDRESSES)
    if expected is None:
        assert asked is None
        return
    method, path, body, only = expected
    assert asked is not None
    assert (asked.method, asked.url, of(name).cancelled_while) == (method, API + path, only)
    assert (decode(asked.body) if asked.body else None) == body
    poll_headers = of(name).poll("T").headers if name != "fal-queue" else {}
    assert poll_headers.items() <= asked.headers.items(), "a version that the server wants stands in this request, too"


def test_a_wish_that_follows_an_address_needs_that_address() -> None:
    assert of("fal-queue").cancel("T") is None
