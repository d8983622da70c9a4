"""Control of a run by other processes: the commands, what they leave behind, and how both read as JSON. Pure.

A command is a file in `DIR/control/`, a reply a second one beside it; `stores/control_folder.py` reads and writes them
and `engine/run_control.py` applies them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypedDict, get_args

from batchrunner.core.errors import ExitStatus
from batchrunner.core.job import Job, Json
from batchrunner.core.values import asdict, dataclass, field, replace

Action = Literal["pause", "resume", "stop", "set", "skip", "retry"]
FORMAT: Final = 1
"""Version of the files."""
SETTABLE: Final = (
    "limits.concurrency",
    "limits.requests_per_minute",
    "limits.tokens_per_minute",
    "limits.requests_per_day",
    "limits.in_flight_tasks",
    "limits.poll_per_second",
    "budget.calls",
    "budget.tokens",
    "budget.points",
    "budget.money",
    "window",
    "deadline",
    "retry.attempts",
    "retry.max_wait_s",
)
"""Keys of the job file that can be set while a run works: none of them changes what is asked for."""
_KEYS: Final[Mapping[Action, frozenset[str]]] = {
    "pause": frozenset(),
    "resume": frozenset(),
    "stop": frozenset(),
    "set": frozenset({"settings", "reset"}),
    "skip": frozenset({"lane"}),
    "retry": frozenset({"items"}),
}
_COMMON: Final = frozenset({"version", "action", "by", "at"})
_MOST_WORDS: Final = 200


class ControlError(ValueError):
    """A command that cannot be followed; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What somebody asked a run for."""

    id: str
    """Name of its file without `.json`; ids of the commands of this program sort by time."""
    action: Action
    by: str = ""
    """USER@HOST, as it was written."""
    at: str = ""
    """RFC 3339, UTC."""
    settings: dict[str, Json] = field(default_factory=dict)
    """Of `set`: job file keys and their values."""
    reset: tuple[str, ...] = ()
    """Of `set`: keys that are as in the job file again."""
    lane: str = ""
    """Of `skip`: a model."""
    items: tuple[str, ...] = ()
    """Of `retry`: ids."""

    def as_json(self) -> dict[str, Json]:
        """The content of its file."""
        kept: dict[str, Json] = {"version": FORMAT, "action": self.action, "by": self.by, "at": self.at}
        if self.settings:
            kept["settings"] = dict(self.settings)
        if self.reset:
            kept["reset"] = list(self.reset)
        if self.lane:
            kept["lane"] = self.lane
        if self.items:
            kept["items"] = list(self.items)
        return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a command."""

    ok: bool
    message: str
    changed: dict[str, list[Json]] = field(default_factory=dict)
    """By key: the value before and the value now."""

    def as_json(self) -> dict[str, Json]:
        """The content of its file, without the command and the time."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlState:
    """What stays in force until it is taken back: over restarts, too."""

    paused: bool = False
    by: str = ""
    """Who paused it."""
    since: str = ""
    """When, RFC 3339."""
    settings: dict[str, Json] = field(default_factory=dict)
    """Job file keys that were set, which count more than the job file and less than the command line."""
    noted: int = 0
    """Commands among these that no process has seen yet."""

    def after(self, command: Command) -> "ControlState":
        """What is in force once this command was followed; only `pause`, `resume` and `set` leave anything."""
        match command.action:
            case "pause" if not self.paused:
                return replace(self, paused=True, by=command.by, since=command.at)
            case "resume":
                return replace(self, paused=False, by="", since="")
            case "set":
                kept = {key: value for key, value in self.settings.items() if key not in command.reset}
                return replace(self, settings={**kept, **command.settings})
            case _:
                return self

    def as_json(self) -> dict[str, Json]:
        """The content of its file."""
        return {
            "version": FORMAT,
            "paused": self.paused,
            "by": self.by,
            "since": self.since,
            "settings": dict(self.settings),
        }


UNCONTROLLED: Final = ControlState()


class CommandOptions(TypedDict, total=False):
    """What `batchrunner.control` takes beyond the directory and the action.

    settings: of `set`: keys of the job file, like `limits.concurrency`, and their values.
    reset: of `set`: keys that are as in the job file again.
    lane: of `skip`: a model.
    items: of `retry`: ids.
    dry_run: check it, and say what would be done.
    wait_s: how long the process that works on the run is waited for, 5 seconds unless given.
    """

    settings: Mapping[str, Json]
    reset: Sequence[str]
    lane: str
    items: Sequence[str]
    dry_run: bool
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult:
    """What came of a command."""

    dir: str
    action: Action
    id: str | None
    """Name of its file in `control/`, without `.json`; None of a dry run, and where nothing was left behind."""
    ok: bool
    message: str
    running: bool
    """A process works on the run."""
    acknowledged: bool
    """That process has answered."""
    dry_run: bool
    changed: dict[str, list[Json]] = field(default_factory=dict)
    """By key: the value before and the value now."""
    control: ControlState
    """What is in force now."""

    @property
    def exit_status(self) -> ExitStatus:
        """2 for what the run refused, 4 where a process works on the run and does not answer."""
        if not self.ok:
            return ExitStatus.MISTAKE
        return ExitStatus.STOPPED if self.running and not self.acknowledged and not self.dry_run else ExitStatus.DONE


def command_from(name: str, given: Json) -> Command:
    """The command that a file of this name holds.

    Raises:
        ControlError: it holds none.
    """
    if not isinstance(given, dict):
        raise ControlError(f"is not a JSON object; expected for example {_EXAMPLE}")
    action = given.get("action")
    known = next((each for each in get_args(Action) if each == action), None)
    if known is None:
        raise ControlError(f"has the action {_short(action)}; expected one of {', '.join(get_args(Action))}")
    if given.get("version", FORMAT) != FORMAT:
        raise ControlError(f"has the version {_short(given['version'])}; this batchrunner reads {FORMAT}")
    if unknown := sorted(given.keys() - _COMMON - _KEYS[known]):
        expected = ", ".join(sorted(_KEYS[known])) or "no further keys"
        raise ControlError(f"has the unknown key {_short(unknown[0])}; `{known}` takes {expected}")
    command = Command(
        id=name,
        action=known,
        by=_text(given, "by"),
        at=_text(given, "at"),
        settings=_settings(given.get("settings", {})),
        reset=_texts(given, "reset"),
        lane=_text(given, "lane"),
        items=_texts(given, "items"),
    )
    refuse_incomplete(command)
    return command


def refuse_incomplete(command: Command) -> None:
    """Raise ControlError for a command without what its action needs, or with a key that cannot be set."""
    for key in (*command.settings, *command.reset):
        if key not in SETTABLE:
            raise ControlError(f"{_short(key)} cannot be set while a run works; expected one of {', '.join(SETTABLE)}")
    _settings(command.settings)
    if both := sorted(command.settings.keys() & set(command.reset)):
        raise ControlError(f"{both[0]} is both set and reset; choose one")
    if command.action == "set" and not command.settings and not command.reset:
        raise ControlError("`set` needs a key and a value, for example limits.concurrency=2")
    if command.action == "skip" and not command.lane:
        raise ControlError("`skip` needs a lane: the model whose items are left for a later run")
    if command.action == "retry" and not command.items:
        raise ControlError("`retry` needs the ids of the items")


def state_from(given: Json) -> ControlState:
    """What is in force, from its file. Raises ControlError."""
    if not isinstance(given, dict) or given.get("version") != FORMAT or not isinstance(given.get("paused"), bool):
        raise ControlError("is not the control state of a run")
    return ControlState(
        paused=bool(given["paused"]),
        by=_text(given, "by"),
        since=_text(given, "since"),
        settings={key: value for key, value in _settings(given.get("settings", {})).items() if key in SETTABLE},
    )


def value_of(job: Job, key: str) -> Json:
    """What a job has for a key of `SETTABLE`, as it would be written in the job file; None where there is nothing."""
    match key.partition("."):
        case "limits", _, name:
            value: Json = getattr(job.limits, name)
            return "auto" if name == "concurrency" and value is None else value
        case "retry", _, name:
            kept: Json = getattr(job.retry, name)
            return kept
        case "budget", _, name:
            limit: Json = getattr(job.budget, name) if job.budget is not None else None
            return limit
        case "window", _, _:
            return job.window.shown if job.window is not None else None
        case _:
            return job.deadline.shown if job.deadline is not None else None


def is_overridden(job: Job, key: str) -> bool:
    """Whether the command line has set this key, or the mapping that it stands in: that counts more."""
    return any(key == over or key.startswith(f"{over}.") for over in job.overridden)


_EXAMPLE: Final = '{"action": "pause"}'


def _settings(given: Json) -> dict[str, Json]:
    if not isinstance(given, dict):
        raise ControlError("`settings` is not a mapping of job file keys to values")
    for key, value in given.items():
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ControlError(
                f"{key} is {_short(value, as_json=True)}; expected a number or text, or the key in `reset`"
            )
    return dict(given)


def _text(given: dict[str, Json], key: str) -> str:
    value = given.get(key, "")
    if not isinstance(value, str):
        raise ControlError(f"`{key}` is not text")
    return value


def _texts(given: dict[str, Json], key: str) -> tuple[str, ...]:
    value = given.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ControlError(f"`{key}` is not a list of texts")
    return tuple(str(each) for each in value)


def _short(value: Json, *, as_json: bool = False) -> str:
    shown = json.dumps(value) if as_json else repr(value)
    return shown if len(shown) <= _MOST_WORDS else f"{shown[:_MOST_WORDS]}…"
