"""What a run is made of besides its lanes: what polls tasks, and what takes an item from its slot to its row."""

from typing import TYPE_CHECKING

from batchrunner.core.presets import PRESETS
from batchrunner.engine.attempt import Attempts
from batchrunner.engine.image_tasks import ImageTasks, PictureSaver
from batchrunner.engine.lane_policy import LanePolicy
from batchrunner.engine.task_poller import TaskPoller
from batchrunner.engine.verdict import InternalFaults

if TYPE_CHECKING:
    from batchrunner.engine.runner import Runner


def follower_of(runner: "Runner") -> TaskPoller | None:
    """What asks for the tasks of the run; None where its dialect has none."""
    if runner.ports.tasks is None:
        return None
    return TaskPoller(
        dialect=runner.ports.tasks,
        transport=runner.ports.transport,
        clock=runner.ports.clock,
        random_source=runner.random_source,
        poll_per_second=runner.job.limits.poll_per_second or PRESETS[runner.job.provider.preset].poll_per_second,
        task_s=runner.job.timeouts.task_s,
        say=runner.say,
    )


def attempts_of(runner: "Runner", follower: TaskPoller | None) -> Attempts:
    """What takes the items of the run from their slots to their rows."""
    preset = PRESETS[runner.job.provider.preset]
    saver = PictureSaver(
        downloads=runner.ports.downloads,
        store=runner.ports.pictures,
        media=runner.ports.media if runner.job.kind == "media" else None,
        into=runner.job.output.format,
        hold=runner.ports.hold,
    )
    image_tasks = ImageTasks(
        job=runner.job,
        recorder=runner.recorder,
        tasks=follower,
        saver=saver,
        shutdown=runner.shutdown,
        random_source=runner.random_source,
    )
    lane_policy = LanePolicy(
        job=runner.job,
        lanes=runner.lanes,
        recorder=runner.recorder,
        clock=runner.ports.clock,
        shanghai=preset.day_offset_s != 0.0,
        say=runner.say,
    )
    internal_faults = InternalFaults(
        recorder=runner.recorder,
        lane_policy=lane_policy,
        note=runner.ports.note_fault,
        left_open=runner.note_left_open,
        pause=runner.shutdown.pause,
    )
    return Attempts(
        job=runner.job,
        ports=runner.ports,
        recorder=runner.recorder,
        lane_policy=lane_policy,
        internal_faults=internal_faults,
        image_tasks=image_tasks,
        shutdown=runner.shutdown,
        budget_guard=runner.budget_guard,
        random_source=runner.random_source,
        left_open=runner.note_left_open,
        ended=runner.close_when_drained,
        fallbacks=runner.fallbacks,
    )
