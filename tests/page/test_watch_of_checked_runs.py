"""`batchrunner watch` of runs that are scored, judged, and run again: verdicts and progress are those on disk."""

import asyncio
import json
from pathlib import Path

import batchrunner
from batchrunner.page.watch import WatchServer
from tests.page.conftest import ran
from tests.page.watching import Client, ids_on_disk, watched

CHECKED = """
name: checked
provider: simulator
model: sim/talker
prompts: {file: prompts.txt}
checks: [{contains: a}]
"""


def test_verdicts_are_shown_and_renewed_when_the_run_is_scored_again(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("One?\nTwo?\n", "utf-8")
    out = ran(tmp_path, CHECKED)
    (tmp_path / "other.yaml").write_text("checks: [{contains: no answer has this}]\n", "utf-8")

    async def verdicts(client: Client) -> list[object]:
        return [json.loads(line.partition("\t")[2]).get("pass") for line in await client.lines()]

    async def visit(client: Client) -> None:
        assert await verdicts(client) == [True, True]
        await asyncio.to_thread(batchrunner.score, str(out), checks=str(tmp_path / "other.yaml"))
        for _ in range(1_200):
            if await verdicts(client) == [False, False]:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(await verdicts(client))

    watched(out, visit)


JUDGED = """
name: judged
provider: simulator
model: sim/talker
prompts: {file: prompts.txt}
checks: [{judge: {use: judge.yaml, at_least: 0.5}}]
"""
JUDGE = """
provider: simulator
model: sim/judge
prompts: {run: outputs/judged, template: "How helpful is it, from 0 to 1? {{ text }}"}
schema: {type: object, properties: {score: {type: number}}, required: [score], additionalProperties: false}
"""


def test_a_run_and_its_judge_are_watched_as_the_runs_that_they_are(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("One?\nTwo?\n", "utf-8")
    (tmp_path / "judge.yaml").write_text(JUDGE, "utf-8")
    out = ran(tmp_path, JUDGED)
    (judge,) = (out / "judge").iterdir()

    async def visit_judge(client: Client) -> None:
        assert len(await client.ids()) == 2

    watched(judge, visit_judge)

    async def is_notified(client: Client) -> bool:
        return f"judge {judge.name}: 2 of 2 done" in " ".join((await client.rows())["notes"])

    async def visit(client: Client) -> None:
        assert len(await client.ids()) == 2
        assert not await is_notified(client)
        (judge / "away").rename(judge / "ledger")  # as while a judge works: the run's own ledger stays as it is
        for _ in range(1_200):
            if await is_notified(client):
                return
            await asyncio.sleep(0.05)
        raise AssertionError((await client.rows())["notes"])

    (judge / "ledger").rename(judge / "away")
    watched(out, visit)


def test_two_servers_show_one_run_that_ends_and_starts_again(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("One?\nTwo?\n", "utf-8")
    out = ran(tmp_path, CHECKED)

    async def visit(client: Client) -> None:
        other = WatchServer(out)
        await other.start()
        try:
            second = Client(client.session, other)
            assert await client.ids() == await second.ids() == ids_on_disk(out)
            for prompts in ("One?\nTwo?\nThree?\n", "Three?\nFour?\n"):  # one more; then another order, and two gone
                (tmp_path / "prompts.txt").write_text(prompts, "utf-8")
                await asyncio.to_thread(ran, tmp_path, CHECKED)
                for one in (client, second):
                    await one.until(len(ids_on_disk(out)))
                    assert sorted(await one.ids()) == ids_on_disk(out)
                    assert (await one.rows())["problem"] == ""
        finally:
            await other.close()

    watched(out, visit)
