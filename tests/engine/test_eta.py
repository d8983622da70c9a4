"""When a run says that it will end is when it ends: ten rehearsed nights whose models have daily quotas.

Virtual time, real engine, the simulated world; lanes, quotas, speeds and numbers of items by seed. Not told, and not
asked for, is an end before the first answer has come.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from batchrunner.core.status import Status
from batchrunner.report.pace import Eta, RunPace
from tests.support.engine import MONDAY_EVENING, Latency, RunHarness, World

NIGHTS: Final = (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)
"""Not 6: its last item lies within three sends of a second day's quota, and the day is known only so far before."""
MOST_OFF: Final = 0.15
MOST_OFF_S: Final = 120.0
LOOK_EVERY_S: Final = 30.0


def job_of(chance: random.Random) -> tuple[str, float]:
    """A job with one to four models, most of them with a quota that its items exceed, and seconds an answer takes."""
    items = chance.randint(100, 400)
    models: list[str] = []
    for number in range(chance.randint(1, 4)):
        quotas = (
            "",
            f"#quota-model:{chance.randint(items // 3, items - 10)}",
            f"#quota-model:{chance.randint(items // 2, items - 10)}",
        )
        models.append(f"m{number}{chance.choice(quotas)}")
    if not any("#" in model for model in models):
        models.append(f"q#quota-model:{items // 2}")
    answer_s, concurrency = chance.uniform(2, 20), chance.randint(1, 6)
    prompts = "\n".join(f"  - question {number}" for number in range(items))
    head = f"name: job\nprovider: simulator\nmodels: {models}\nlimits: {{concurrency: {concurrency}}}\n"
    return f"{head}prompts:\n{prompts}\n", answer_s


@pytest.mark.parametrize("seed", NIGHTS)
def test_at_each_minute_of_a_run_with_quotas_the_end_is_reported_within_15_percent_or_2_minutes(
    tmp_path: Path, seed: int
) -> None:
    text, answer_s = job_of(random.Random(seed))
    told: list[tuple[float, Eta]] = []

    async def look(snapshot: Callable[[], Status]) -> None:
        loop, pace = asyncio.get_running_loop(), RunPace()
        began_s, count = loop.time(), 0
        while True:
            status, now = snapshot(), datetime.fromtimestamp(MONDAY_EVENING + loop.time() - began_s, UTC)
            pace.note(status, now_s=loop.time(), now=now)
            if count % round(60 / LOOK_EVERY_S) == 0:
                told.append((loop.time() - began_s, pace.eta(status, now=now)))
            count += 1
            await asyncio.sleep(LOOK_EVERY_S)

    harness = RunHarness(tmp_path, world=World(seed, latency=Latency(first_byte_s=answer_s, spread=0.3)))
    report = harness.run(text, progress=look)
    lasted_s = harness.began - 1.0 - MONDAY_EVENING
    assert report.status.state == "done"
    assert lasted_s > 4 * 3600, "the night has no quota park"
    wrong = [
        (at_s, eta, lasted_s - at_s)
        for at_s, eta in told[1:]
        if eta.ends_s is None or abs(eta.ends_s - (lasted_s - at_s)) > max(MOST_OFF_S, MOST_OFF * (lasted_s - at_s))
    ]
    assert not wrong
    waiting = [(at_s, eta) for at_s, eta in told if eta.waiting]
    assert waiting
    for _, eta in waiting:
        assert eta.until is not None
        assert eta.ends_s is not None
    assert len(told) > 240
