"""Commands of other processes to a run that works: pause, resume, stop, set, skip, retry.

Each is followed at once, written into the ledger, and answered, in this order: what a crash leaves unanswered is
followed again by the next run, and following a command twice changes nothing. A command that cannot be followed is
answered with the reason.
"""

import json
import signal
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from batchrunner.core.control import UNCONTROLLED, Command, ControlError, ControlState, Reply, is_overridden, value_of
from batchrunner.core.errors import JobMistakesError, StoreBrokenError
from batchrunner.core.item import Item
from batchrunner.core.job import Job, Json
from batchrunner.core.lifecycle import Closed, ItemState
from batchrunner.core.pacing import day_of
from batchrunner.core.presets import PRESETS
from batchrunner.core.values import dataclass, field
from batchrunner.engine.attempt import Attempts
from batchrunner.engine.planning import one_by_one
from batchrunner.engine.recorder import uncancellable
from batchrunner.engine.shutdown import GRACE_S
from batchrunner.engine.task_poller import TaskPoller
from batchrunner.engine.work_queue import Work

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner

_MOST_NAMED: Final = 5
_LEFT_OPEN: Final = "retry"
"""A reason in `Runner.left_open`."""


@dataclass(slots=True, kw_only=True)
class RunControl:
    """One for a run. `take_up` before the work begins, then `watch` beside it."""

    runner: "Runner"
    state: ControlState = field(init=False)
    """What is in force now."""
    _attempts: Attempts | None = None
    _follower: TaskPoller | None = None

    def __post_init__(self) -> None:
        control = self.runner.ports.control
        self.state = control.state if control is not None else UNCONTROLLED

    async def take_up(self) -> None:
        """Follow what was asked for while no process worked on the run."""
        control = self.runner.ports.control
        for command in control.early if control is not None else ():
            await self._follow(command)

    async def watch(self, attempts: Attempts, follower: TaskPoller | None) -> None:
        """Follow every command as it comes; cancelled at the end of the run."""
        self._attempts, self._follower = attempts, follower
        control = self.runner.ports.control
        while control is not None:
            await uncancellable(self._follow(await control.next()))  # also one that ends the run is answered

    async def _follow(self, command: Command) -> None:
        runner = self.runner
        assert runner.ports.control is not None, "nobody else brings commands"
        try:
            reply = await self._applied(command)
        except StoreBrokenError:
            return  # the run ends; the command is for the next one
        except (ControlError, JobMistakesError) as error:
            reply = Reply(ok=False, message="; ".join(str(error).splitlines()))
        except Exception as error:  # noqa: BLE001 - a fault of ours in a command is not the run's
            line = await runner.ports.note_fault(f"the command {command.action}", error)
            reply = Reply(ok=False, message=f"internal error; please report it with errors.log: {line}")
        if reply.ok:
            try:
                await runner.recorder.controlled(command, reply)
            except StoreBrokenError:
                return
            self.state = self.state.after(command)
            runner.budget_guard.count(runner.job)
        by = f" ({' '.join(command.by.split())})" if command.by else ""  # any program may have written it
        runner.say(f"{command.action}{by}: {'' if reply.ok else 'refused: '}{reply.message}")
        try:
            await runner.ports.control.acknowledge(command, reply, self.state)
        except Exception as error:  # noqa: BLE001 - the run must not end because a reply cannot be written
            runner.say(f"could not answer the command {command.id}: {error}")
        if reply.ok and command.action == "stop" and self._attempts is not None:
            runner.shutdown.request(signal.SIGTERM)

    async def _applied(self, command: Command) -> Reply:
        match command.action:
            case "pause":
                return self._pause()
            case "resume":
                return self._resume()
            case "stop":
                if self._attempts is None:
                    return Reply(ok=True, message="no process worked on this run; nothing to stop")
                return Reply(ok=True, message=f"stopping: {self._under_way(stops=True)}")
            case "set":
                return self._set(command)
            case "skip":
                return self._skip(command)
            case "retry":
                return await self._retry(command)

    # -- pause and resume

    def _pause(self) -> Reply:
        for lane in self.runner.lanes:
            lane.pause()
        return Reply(ok=True, message=f"paused: {self._under_way()}")

    def _resume(self) -> Reply:
        was_paused = any(lane.paused for lane in self.runner.lanes)
        for lane in self.runner.lanes:
            lane.resume()
        early = self._attempts is None  # a pause that is lifted before the work begins never reaches the lanes
        return Reply(ok=True, message="resumed" if was_paused or early else "was not paused")

    def _under_way(self, *, stops: bool = False) -> str:
        lanes = tuple(self.runner.lanes)
        in_flight, tasks = sum(lane.in_flight for lane in lanes), sum(lane.open_tasks for lane in lanes)
        awaited = f"{in_flight:,} in flight are awaited{f' for up to {GRACE_S:g} s' if stops and in_flight else ''}"
        if not tasks:
            return awaited
        polled = "which the next run polls" if stops else "which are polled to their end"
        return f"{awaited}; {tasks:,} remote {'task is' if tasks == 1 else 'tasks are'} under way, {polled}"

    # -- set

    def _set(self, command: Command) -> Reply:
        runner, control = self.runner, self.runner.ports.control
        assert control is not None, "see `_follow`"
        asked = (*command.settings, *command.reset)
        before = {key: value_of(runner.job, key) for key in asked}
        job = control.resolved(self.state.after(command).settings)
        self._change(job)
        changed: dict[str, list[Json]] = {key: [before[key], value_of(job, key)] for key in asked}
        said = [_changed_words(key, old, new) for key, (old, new) in changed.items()]
        said += [
            f"{key}: the command line of this run sets another value, which takes precedence"
            for key in asked
            if is_overridden(job, key)
        ]
        if runner.budget_guard.spent_out is not None and any(key.startswith("budget.") for key in asked):
            said.append("this run is ending because its budget was used up; run it again")
        return Reply(ok=True, message="; ".join(said), changed=changed)

    def _change(self, job: Job) -> None:
        """Let everything that keeps the job, or something of it, have the new one."""
        runner, attempts = self.runner, self._attempts
        runner.job = job
        runner.schedule.change(job)
        runner.budget_guard.change(job)
        day = day_of(wall=runner.ports.clock.wall(), offset_s=PRESETS[job.provider.preset].day_offset_s)
        for lane in runner.lanes:
            settings = runner.lane_settings(lane.account, lane.model)
            lane.change(settings, sent_today=runner.state.sent_today(lane.account, lane.model, day=day))
        if attempts is not None:
            attempts.job = attempts.lane_policy.job = job
            attempts.outcome_handler.job = attempts.image_tasks.job = job
        if self._follower is not None:
            self._follower.change(job.limits.poll_per_second or PRESETS[job.provider.preset].poll_per_second)

    # -- skip and retry

    def _skip(self, command: Command) -> Reply:
        lanes = self.runner.lanes.of_model(command.lane)
        if not lanes:
            models = ", ".join(self.runner.job.models[:_MOST_NAMED])
            raise ControlError(f"no lane sends to {json.dumps(command.lane, ensure_ascii=False)}; the job has {models}")
        reason = f"skipped{f' by {command.by}' if command.by else ''}"
        for lane in lanes:
            lane.close(Closed(kind="skipped", reason=reason, refused_account=False))
        in_flight = sum(lane.in_flight for lane in lanes)
        return Reply(
            ok=True,
            message=f"{command.lane} is skipped: {in_flight:,} in flight are awaited, its other items are left for a "
            "later run",
        )

    async def _retry(self, command: Command) -> Reply:
        """Give failed and held items a new generation of attempts; all of it is durable before it is answered."""
        runner, wanted = self.runner, set(command.items)
        found, others = list[tuple[Item, bool]](), Counter[str]()
        async with aclosing(one_by_one(runner.ports.items.batches())) as stream:
            async for item in stream:
                if item.id not in wanted:
                    continue
                wanted.discard(item.id)
                key = bytes.fromhex(item.key)
                failed = runner.state.item_state(key) is ItemState.FAILED
                if failed or runner.state.waits_for_a_person(key, hold=runner.totals.hold):
                    found.append((item, failed))
                else:
                    others[runner.state.item_state(key).name.lower()] += 1
                if not wanted:
                    break
        for place, (item, _) in enumerate(found, start=1):
            await runner.recorder.requeued(item.id, item.key, synced=place == len(found))
        later = sum(not self._brought_back(item, failed=failed) for item, failed in found)
        said = [f"{len(found):,} of {len(command.items):,} items are tried again"]
        said += [f"{count:,} {'is' if count == 1 else 'are'} {name}" for name, count in sorted(others.items())]
        said += [f"{later:,} of them by the next run: this one has nothing more to send to their models"] * bool(later)
        if wanted:
            named = ", ".join(sorted(wanted)[:_MOST_NAMED])
            said.append(f"no item of the job is called {named}{' and so on' * (len(wanted) > _MOST_NAMED)}")
        if not found:
            raise ControlError("; ".join(said))
        return Reply(ok=True, message="; ".join(said))

    def _brought_back(self, item: Item, *, failed: bool) -> bool:
        """Whether this run sends it: through its queue or, before the work has begun, from the source."""
        runner = self.runner
        here = failed and runner.recorder.failed_of[item.model] > 0
        runner.recorder.failed_of[item.model] -= here
        runner.requeued[item.model] += not here  # else it is among those that this run asked for already
        if self._attempts is None:
            return True
        key = bytes.fromhex(item.key)
        if runner.queues[item.model].bring_back(Work(item=item, key=key, number=runner.state.table.find(key))):
            return True
        runner.note_left_open(_LEFT_OPEN, "")
        return False


def _changed_words(key: str, old: Json, new: Json) -> str:
    shown = [json.dumps(value, ensure_ascii=False) if value is not None else "none" for value in (old, new)]
    return f"{key}: {shown[0]}" if old == new else f"{key}: {shown[0]} -> {shown[1]}"
