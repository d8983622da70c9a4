"""Commands to a run that works, in virtual time: what they change from the next send on, and what they leave alone."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from batchrunner import api
from batchrunner.core.control import Action, Command, ControlState, Reply
from batchrunner.core.errors import ExitStatus
from batchrunner.core.status import LaneReason, Report, Status
from batchrunner.stores.control_folder import ControlFolder, give, reply_to, state_in
from tests.support.engine import Latency, RunHarness, World, chat, image

MANY = tuple(f"question {number}" for number in range(200))
Snapshot = Callable[[], Status]
Script = Callable[[Snapshot], Awaitable[None]]
SLOW = "limits: {concurrency: 4, requests_per_minute: 120}"


@pytest.fixture(autouse=True)
def _looks_in_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is looked at every virtual second, by a task instead of a thread."""
    tasks: list[asyncio.Task[None]] = []

    def start(self: ControlFolder, loop: asyncio.AbstractEventLoop) -> None:
        async def watch() -> None:
            while not self._ended.is_set():
                await asyncio.sleep(1.0)
                for command in self._look(patient=True):
                    self._came.put_nowait(command)

        tasks.append(loop.create_task(watch()))

    monkeypatch.setattr(ControlFolder, "start", start)


class Hand:
    """Somebody at another terminal."""

    def __init__(self, harness: RunHarness) -> None:
        self.harness = harness
        self.given: list[Command] = []

    def give(self, action: Action, **command: Any) -> Command:
        self.given.append(give(self.harness.out, Command(id="", action=action, **command)))
        return self.given[-1]

    def reply(self, number: int = -1) -> str:
        reply = reply_to(self.harness.out, self.given[number])
        assert reply is not None, self.given[number]
        return reply.message

    @property
    def state(self) -> ControlState:
        return state_in(self.harness.out)


@pytest.fixture
def hand(harness: RunHarness) -> Hand:
    return Hand(harness)


def run(harness: RunHarness, job: str, script: Script | None = None, **options: Any) -> Report:
    async def scripted(snapshot: Snapshot) -> None:
        if script is not None:
            await script(snapshot)

    return harness.run(job, progress=scripted, **options)


def test_a_paused_run_sends_nothing_until_it_is_resumed_and_charges_no_attempt(harness: RunHarness, hand: Hand) -> None:
    sends: list[int] = []

    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(10)
        hand.give("pause")
        await asyncio.sleep(3)
        sends.append(harness.stats.sends)
        assert snapshot().control.paused
        assert {(lane.activity, lane.kind) for lane in snapshot().lanes} == {("paused", LaneReason.COMMAND)}
        await asyncio.sleep(600)
        sends.append(harness.stats.sends)
        hand.give("resume")

    report = run(harness, chat(*MANY, more=SLOW), script)
    assert hand.reply(0).startswith("paused: ")
    assert 0 < sends[0] == sends[1] < len(MANY)
    assert report.exit_status is ExitStatus.DONE
    assert [row["attempts"] for row in harness.rows()] == [1] * len(MANY)
    assert [event["action"] for event in harness.events("control")] == ["pause", "resume"]
    assert hand.state == ControlState()


def test_a_run_that_is_stopped_while_paused_names_the_command_that_resumes_it(harness: RunHarness, hand: Hand) -> None:
    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(10)
        hand.give("pause")
        hand.give("stop")

    report = run(harness, chat(*MANY, more=SLOW), script, command="batchrunner run job.yaml")
    assert report.exit_status is ExitStatus.TERMINATED
    resuming = f"batchrunner resume {harness.out} && batchrunner run job.yaml"
    assert report.status.next_command == resuming
    assert run(harness, chat(*MANY, more=SLOW), command="batchrunner run job.yaml").status.next_command == resuming
    hand.give("resume")
    assert run(harness, chat(*MANY, more=SLOW)).exit_status is ExitStatus.DONE
    assert hand.reply() == "resumed"


def test_a_line_of_another_program_cannot_pose_as_one_of_the_run(harness: RunHarness, hand: Hand) -> None:
    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(3)
        hand.give("resume")  # it makes the folder
        forged = json.dumps({"action": "resume", "by": "x\njob: every item is done"})
        (harness.out / "control" / "forged.json").write_text(forged)

    run(harness, chat(*MANY, more=SLOW), script)
    assert "resume (x job: every item is done): was not paused" in harness.said


def test_tasks_of_a_paused_run_are_followed_to_their_end(harness: RunHarness, hand: Hand) -> None:
    done: list[int] = []

    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(3)
        hand.give("pause")
        await asyncio.sleep(120)
        status = snapshot()
        assert status.items.accepted == 0
        done.append(status.items.done)
        hand.give("resume")

    report = run(harness, image(*MANY[:40], more="limits: {in_flight_tasks: 4}"), script)
    assert "4 remote tasks are under way, which are polled to their end" in hand.reply(0)
    assert 0 < done[0] < 40
    assert report.status.items.done == 40


def test_a_limit_that_is_set_holds_from_the_next_send(harness: RunHarness, hand: Hand) -> None:
    most: list[int] = []

    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(3)
        hand.give("set", settings={"limits.concurrency": 1})
        await asyncio.sleep(3)
        for _ in range(100):
            await asyncio.sleep(0.1)
            most.append(sum(lane.in_flight or 0 for lane in snapshot().lanes))

    harness.world = World(latency=Latency(first_byte_s=0.25))
    run(harness, chat(*MANY, more="limits: {concurrency: 4}"), script)
    assert hand.reply() == "limits.concurrency: 4 -> 1"
    assert max(most) == 1


def test_what_is_set_holds_for_later_runs_until_it_is_reset(harness: RunHarness, hand: Hand) -> None:
    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(3)
        hand.give("set", settings={"limits.concurrency": 2, "retry.attempts": 7})
        await asyncio.sleep(2)

    run(harness, chat(*MANY, more=SLOW), script, limit=50)
    assert hand.state.settings == {"limits.concurrency": 2, "retry.attempts": 7}

    async def later(snapshot: Snapshot) -> None:
        await asyncio.sleep(3)
        assert snapshot().lanes[0].concurrency == 2
        hand.give("set", reset=("limits.concurrency",))
        await asyncio.sleep(2)
        assert snapshot().lanes[0].concurrency == 4

    run(harness, chat(*MANY, more=SLOW), later)
    assert hand.reply() == "limits.concurrency: 2 -> 4"
    assert hand.state.settings == {"retry.attempts": 7}


def test_the_command_line_counts_more_than_what_is_set_and_that_more_than_the_job_file(
    harness: RunHarness, hand: Hand
) -> None:
    run(harness, chat(*MANY, more=SLOW), limit=1)
    hand.give("set", settings={"limits.concurrency": 3})
    seen: list[int | None] = []

    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(1)
        seen.append(snapshot().lanes[0].concurrency)

    run(harness, chat(*MANY, more=SLOW), script, limit=30)
    run(harness, chat(*MANY, more=SLOW), script, limit=60, overrides=("limits.concurrency=9",))
    assert seen == [3, 9]


def test_a_run_of_a_paused_folder_ends_with_3_and_the_command_that_resumes(harness: RunHarness, hand: Hand) -> None:
    run(harness, chat(*MANY, more=SLOW), limit=5)
    hand.give("pause")
    sends = harness.stats.sends
    report = run(harness, chat(*MANY, more=SLOW), command="batchrunner run job.yaml")
    assert report.exit_status is ExitStatus.PAUSED
    assert report.status.next_command == f"batchrunner resume {harness.out} && batchrunner run job.yaml"
    assert (report.status.state, harness.stats.sends) == ("paused", sends)
    hand.give("resume")
    assert run(harness, chat(*MANY, more=SLOW)).exit_status is ExitStatus.DONE
    assert [event["action"] for event in harness.events("control")] == ["pause", "resume"]


def test_a_stop_drains_and_is_answered(harness: RunHarness, hand: Hand) -> None:
    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(5)
        hand.give("stop")
        await asyncio.sleep(100)

    report = run(harness, chat(*MANY, more=SLOW), script)
    assert report.exit_status is ExitStatus.TERMINATED
    assert hand.reply().startswith("stopping: ")
    assert run(harness, chat(*MANY, more=SLOW)).exit_status is ExitStatus.DONE
    assert harness.stats.sends == len(MANY)


def test_a_stop_states_that_the_next_run_polls_the_remote_tasks_and_it_does(harness: RunHarness, hand: Hand) -> None:
    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(3)
        hand.give("stop")

    job = image(*MANY[:8], more="limits: {in_flight_tasks: 4}")
    report = run(harness, job, script)
    assert report.status.items.accepted == 4
    assert hand.reply() == "stopping: 0 in flight are awaited; 4 remote tasks are under way, which the next run polls"
    assert run(harness, job).exit_status is ExitStatus.DONE
    assert harness.stats.sends == 8


def test_a_stop_that_nobody_received_stops_no_later_run(harness: RunHarness, hand: Hand) -> None:
    run(harness, chat(*MANY, more=SLOW), limit=5)
    hand.give("stop")
    assert run(harness, chat(*MANY, more=SLOW)).exit_status is ExitStatus.DONE
    assert hand.reply() == "no process worked on this run; nothing to stop"


@pytest.mark.parametrize("before", [True, False], ids=["noted before the run", "while it runs"])
def test_a_skipped_lane_leaves_its_items_to_a_later_run(harness: RunHarness, hand: Hand, *, before: bool) -> None:
    job = chat(*MANY, more=SLOW).replace('model: "sim/chat"', "models: [sim/a, sim/b]")
    run(harness, job, limit=2)
    if before:
        hand.give("skip", lane="sim/b")

    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(3)
        if not before:
            hand.give("skip", lane="sim/b")

    report = run(harness, job, script)
    assert report.exit_status is ExitStatus.PAUSED
    done = [row["model"] for row in harness.rows()]
    assert done.count("sim/a") == len(MANY) > done.count("sim/b")
    assert report.status.items.pending == len(MANY) - done.count("sim/b")
    assert run(harness, job).exit_status is ExitStatus.DONE


@pytest.mark.parametrize("before", [True, False], ids=["noted before the run", "while it runs"])
def test_failed_items_are_tried_again_when_a_person_asks(harness: RunHarness, hand: Hand, *, before: bool) -> None:
    job = chat(*MANY[:100], model="sim/chat#5xx:1", more=f"{SLOW}\nretry: {{attempts: 1}}")
    assert run(harness, job, limit=3).status.items.failed == 3
    failed = [row["id"] for row in harness.rows("failures.jsonl")]
    if before:
        hand.give("retry", items=tuple(failed[:2]))

    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(3)
        if not before:
            hand.give("retry", items=(*failed[:2], "nobody"))
        await asyncio.sleep(5)

    report = run(harness, job, script)
    done = {row["id"] for row in harness.rows()}
    assert done >= set(failed[:2])
    assert failed[2] not in done
    assert len(harness.rows("failures.jsonl")) == report.status.items.failed == 100 - len(done)
    if not before:
        assert hand.reply() == "2 of 3 items are tried again; no item of the job is called nobody"


def test_items_that_are_to_be_tried_again_are_no_failures_any_more(harness: RunHarness, hand: Hand) -> None:
    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(5)
        failed.extend(row["id"] for row in harness.rows("failures.jsonl"))
        hand.give("pause")
        hand.give("retry", items=tuple(failed[:2]))
        hand.give("stop")

    failed: list[str] = []
    job = chat(*MANY[:100], model="sim/chat#5xx:1", more=f"{SLOW}\nretry: {{attempts: 1}}")
    status = run(harness, job, script).status
    assert len(failed) > 2
    for scripted in (status, api.status(str(harness.out))):
        assert sum(group.count for group in scripted.failures) == scripted.items.failed > 0


def test_a_lane_counts_no_failure_that_is_to_be_tried_again(harness: RunHarness, hand: Hand) -> None:
    counts: list[tuple[int, int, int | None]] = []

    async def script(snapshot: Snapshot) -> None:
        def note() -> None:
            (lane,) = snapshot().lanes
            counts.append((lane.failed, snapshot().items.failed, lane.left))

        await asyncio.sleep(5)
        hand.give("pause")
        await asyncio.sleep(3)
        note()
        hand.give("retry", items=tuple(row["id"] for row in harness.rows("failures.jsonl"))[:2])
        await asyncio.sleep(3)
        note()
        hand.give("stop")

    run(harness, chat(*MANY[:100], model="sim/chat#5xx:1", more=f"{SLOW}\nretry: {{attempts: 1}}"), script)
    (failed, _, left), after = counts
    assert failed > 2
    assert left is not None
    assert after == (failed - 2, failed - 2, left + 2)


def test_held_items_are_sent_again_when_a_person_asks(harness: RunHarness, hand: Hand) -> None:
    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(2)
        hand.give("pause")
        await asyncio.sleep(3)
        held = snapshot().items.held
        hand.give("retry", items=("i0", "i1", "i16"))
        await asyncio.sleep(3)
        assert snapshot().items.held == held - 2
        hand.give("resume")

    prompts = "".join(f"\n  - {{id: i{number}, prompt: question {number}}}" for number in range(17))
    job = f'name: job\nprovider: simulator\nmodel: "sim/chat#reset-mid-stream:1"\nprompts:{prompts}\n'
    report = run(harness, f"{job}{SLOW}\non_ambiguous: hold\n", script)
    assert hand.reply(1) == "2 of 3 items are tried again; 1 is pending"
    assert {row["id"] for row in harness.rows()} == {"i0", "i1"}
    assert (report.status.items.held, report.exit_status) == (15, ExitStatus.PAUSED)


def test_items_of_a_run_that_is_over_are_sent_by_the_next_run_when_a_person_asks(
    harness: RunHarness, hand: Hand
) -> None:
    job = chat(*MANY[:3], model="sim/chat#5xx:1", more="retry: {attempts: 1}")
    assert run(harness, job).exit_status is ExitStatus.FAILED
    failed = [row["id"] for row in harness.rows("failures.jsonl")]
    hand.give("retry", items=tuple(failed[:2]))
    report = run(harness, job)
    assert hand.reply() == "2 of 2 items are tried again"
    assert {row["id"] for row in harness.rows()} == set(failed[:2])
    assert (report.status.items.pending, report.exit_status) == (0, ExitStatus.FAILED)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({"action": "set", "settings": {"limits.concurrency": 0}}, "limits.concurrency: is 0; expected `auto`"),
        ({"action": "set", "settings": {"budget.money": 3}}, "has no price for"),
        ({"action": "set", "settings": {"window": "late"}}, "expected two times of day"),
        ({"action": "skip", "lane": "sim/none"}, 'no lane sends to "sim/none"'),
        ({"action": "retry", "items": ("none",)}, "no item of the job is called none"),
    ],
)
def test_what_cannot_be_done_is_answered_with_the_reason_and_changes_nothing(
    harness: RunHarness, hand: Hand, command: Any, words: str
) -> None:
    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(2)
        hand.give(**command)
        await asyncio.sleep(2)

    report = run(harness, chat(*MANY[:20], more=SLOW), script)
    assert words in hand.reply()
    assert report.exit_status is ExitStatus.DONE
    assert (hand.state, harness.events("control")) == (ControlState(), [])


def test_a_deadline_and_a_budget_that_are_set_end_the_run(harness: RunHarness, hand: Hand) -> None:
    async def budget(snapshot: Snapshot) -> None:
        await asyncio.sleep(5)
        hand.give("set", settings={"budget.calls": 30})

    report = run(harness, chat(*MANY, more=SLOW), budget)
    assert report.exit_status is ExitStatus.PAUSED
    assert harness.stats.sends == 30

    async def deadline(snapshot: Snapshot) -> None:
        hand.give("set", settings={"deadline": "10s"}, reset=("budget.calls",))
        await asyncio.sleep(3)

    hand.give("set", reset=("budget.calls",))
    report = run(harness, chat(*MANY, more=SLOW), deadline)
    assert report.exit_status is ExitStatus.PAUSED
    assert "the deadline 10s" in (report.status.message or "")
    assert 40 < harness.stats.sends < 80


def test_another_window_is_waited_for_no_longer(harness: RunHarness, hand: Hand) -> None:
    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(30)
        assert snapshot().waiting is not None
        hand.give("set", settings={"window": "mon-wed 00:00-23:59; thu-sun"})

    began = harness.began
    report = run(harness, chat(*MANY[:20], more=f'{SLOW}\nwindow: "03:00-04:00"\ntimezone: UTC'), script)
    assert report.exit_status is ExitStatus.DONE
    assert harness.began - began < 120


def test_a_command_that_was_followed_and_not_answered_is_followed_again(
    harness: RunHarness, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered(self: ControlFolder, *_: object) -> None:
        """The process is killed here."""

    with monkeypatch.context() as patch:
        patch.setattr(ControlFolder, "acknowledge", unanswered)

        async def script(snapshot: Snapshot) -> None:
            await asyncio.sleep(3)
            hand.give("set", settings={"limits.concurrency": 2})
            await asyncio.sleep(3)

        run(harness, chat(*MANY, more=SLOW), script, limit=50)
    assert hand.state == ControlState(settings={"limits.concurrency": 2}, noted=1)
    run(harness, chat(*MANY, more=SLOW))
    assert hand.reply() == "limits.concurrency: 2"
    assert hand.state == ControlState(settings={"limits.concurrency": 2})


def test_a_command_that_ends_the_run_is_answered_and_recorded(
    harness: RunHarness, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledge = ControlFolder.acknowledge

    async def slowly(self: ControlFolder, command: Command, reply: Reply, state: ControlState) -> None:
        await asyncio.sleep(20)  # the run has nothing else to wait for
        await acknowledge(self, command, reply, state)

    monkeypatch.setattr(ControlFolder, "acknowledge", slowly)

    async def script(snapshot: Snapshot) -> None:
        await asyncio.sleep(5)
        hand.give("set", settings={"window": "03:00-04:00"})
        await asyncio.sleep(100)

    report = run(harness, chat(*MANY, more=f"{SLOW}\ntimezone: UTC"), script)
    assert report.exit_status is ExitStatus.PAUSED
    assert hand.reply() == 'window: none -> "03:00-04:00"'
    assert [event["action"] for event in harness.events("control")] == ["set"]
    assert hand.state == ControlState(settings={"window": "03:00-04:00"})
