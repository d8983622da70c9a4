"""The official OpenAI SDK drives the simulator's door of videos, and our table reads the same replies alike."""

from typing import Any

import httpx2
import openai
import pytest

from batchrunner.core.outcome import Pending, Pictures, PictureUrl, Problem, ProblemKind, TaskAccepted
from batchrunner.core.values import replace
from batchrunner.providers.tasks import TableTasks
from batchrunner.simulator.profiles import Latency
from batchrunner.simulator.world import World
from batchrunner.spec.task_tables import shipped_table
from batchrunner.stores.media import media_format
from tests.sdk_compat.items import item, provider
from tests.sdk_compat.recorder import with_world

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")


def dialect() -> TableTasks:
    return TableTasks(
        replace(provider("openai", "task"), base_url="https://api.example/v1", task=shipped_table("openai-videos"))
    )


def played(model: str, *, task_s: float = 0.0) -> tuple[list[Any], Any]:
    """An order, a look, the file and its deletion; what the SDK gives or dies of, and the replies."""

    async def use(url: str, http: httpx2.AsyncClient) -> list[Any]:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http, max_retries=0)
        got: list[Any] = [await client.videos.create(model=model, prompt="a cat", seconds="8", size="1280x720")]
        for step in (client.videos.retrieve, client.videos.download_content, client.videos.delete):
            try:
                got.append(await step(got[0].id))
            except openai.APIStatusError as fault:
                got.append(fault)
        return got

    return with_world(World(latency=Latency(task_s=task_s)), use)


def test_both_read_a_video_from_its_order_to_its_file() -> None:
    (ordered, seen, film, deleted), replies = played("sora-2")
    accepted = replies[0].read_with(dialect().decoder(item("a cat", model="sora-2")))
    assert isinstance(accepted, TaskAccepted)
    assert (accepted.task_id, ordered.seconds, ordered.size) == (ordered.id, "8", "1280x720")
    ours = replies[1].read_with(dialect().poll_decoder(ordered.id))
    assert (seen.status, seen.progress) == ("completed", 100)
    assert isinstance(ours, Pictures)
    assert ours.refs == (PictureUrl(url=f"https://api.example/v1/videos/{ordered.id}/content"),)
    assert media_format(film.content) == ("MP4", "mp4")
    assert (deleted.id, deleted.deleted) == (ordered.id, True)


def test_both_read_one_that_is_under_way() -> None:
    (ordered, seen, film, deleted), replies = played("sora-2", task_s=3600.0)
    ours = replies[1].read_with(dialect().poll_decoder(ordered.id))
    assert (seen.status, isinstance(ours, Pending) and ours.state) == ("queued", "queued")
    assert [fault.status_code for fault in (film, deleted)] == [400, 400]


@pytest.mark.parametrize(
    ("model", "kind"),
    [("sora-2#img-fail-nsfw", ProblemKind.CONTENT_FILTER), ("sora-2#img-fail-cuda", ProblemKind.TASK_FAILED)],
)
def test_both_read_why_one_failed(model: str, kind: ProblemKind) -> None:
    (ordered, seen, *_), replies = played(model)
    ours = replies[1].read_with(dialect().poll_decoder(ordered.id))
    assert isinstance(ours, Problem)
    assert (seen.status, ours.kind, ours.of_task) == ("failed", kind, True)
    assert seen.error.code == ours.code
