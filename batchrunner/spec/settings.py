"""Keys that are set while a run works: checked by the rules of the job file, beside the job's other keys."""

from collections.abc import Mapping
from pathlib import PurePath

from batchrunner.core.budget import Budget, Price
from batchrunner.core.control import is_overridden
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Job, Json
from batchrunner.core.values import asdict, replace
from batchrunner.spec.job_errors import dotted, hidden
from batchrunner.spec.load import further_faults, parsed_value, put
from batchrunner.spec.partial import PartialSpec, drafted
from batchrunner.spec.reader import Reading
from batchrunner.spec.resolve import limits_of
from batchrunner.spec.schedule_keys import budget_of, deadline_of, window_of

_HINT = "`batchrunner set DIR KEY --reset` goes back to the job file"

_BY_THEMSELVES = frozenset({("window",), ("deadline",)})
"""Keys whose rules look at no other key."""


def setting_of(text: str) -> Json:
    """VALUE of `batchrunner set DIR KEY=VALUE`, read as a YAML scalar; text where it is none."""
    reading = parsed_value(text)
    return text if reading.faults else reading.tree


def with_settings(job: Job, settings: Mapping[str, Json]) -> Job:
    """The job with these keys set, but for those that the command line has set.

    Raises:
        JobMistakesError: a value is wrong, alone or beside the job's other keys.
    """
    counting = {key: value for key, value in settings.items() if not is_overridden(job, key)}
    if not counting:
        return job
    draft = _draft(_tree(job), counting)
    return replace(
        job,
        limits=limits_of(draft),
        retry=replace(job.retry, **draft.spec.retry.model_dump()),
        window=window_of(draft),
        deadline=deadline_of(draft),
        budget=_with_prices_of(job, budget_of(draft)),
    )


def _with_prices_of(job: Job, budget: Budget | None) -> Budget | None:
    """Prices are what they were, with all that a job file has no key for."""
    if budget is None or job.budget is None:
        return budget
    before = job.budget
    return replace(budget, prices=before.prices, source=before.source, price_notes=before.price_notes)


def refuse_settings(job: Mapping[str, Json], settings: Mapping[str, Json]) -> None:
    """Raise JobMistakesError for a value that this job, as a run's directory has it, cannot have.

    What a value needs of other keys, like prices, is left to the run: the job file may have changed.
    """
    known = {"kind": job.get("kind"), "models": job.get("models")}
    _draft({name: value for name, value in known.items() if value}, settings, types_only=True)


def _draft(tree: dict[str, Json], settings: Mapping[str, Json], *, types_only: bool = False) -> PartialSpec:
    for key, value in settings.items():
        put(tree, tuple(key.split(".")), value)
    draft = drafted(Reading(tree=tree), file="", folder=PurePath(), simulate=False)
    roots = {key.partition(".")[0] for key in settings}
    further = [fault for fault in further_faults(draft) if not types_only or fault.path in _BY_THEMSELVES]
    faults = [*draft.faults, *further]
    mistakes = tuple(
        Mistake(
            problem=hidden(fault.problem),
            key=dotted(fault.path) or None,
            expected=fault.expected,
            hint=fault.hint or (None if types_only else _HINT),
        )
        for fault in faults
        if fault.path and fault.path[0] in roots
    )
    if mistakes:
        raise JobMistakesError(mistakes)
    return draft


def _tree(job: Job) -> dict[str, Json]:
    """What of a job decides whether these keys may be so, in the form of a job file."""
    limits = {key: value for key, value in asdict(job.limits).items() if value is not None}
    tree: dict[str, Json] = {
        "kind": job.kind,
        "models": list(job.models),
        "provider": {"preset": job.provider.preset, "dialect": job.provider.dialect},
        "prompts": ["-"],
        "limits": limits,
        "retry": asdict(job.retry),
        "window": job.window.shown if job.window is not None else None,
        "timezone": job.timezone,
        "deadline": job.deadline.shown if job.deadline is not None else None,
    }
    if job.provider.points_per_call:
        put(tree, ("provider", "points_per_call"), dict(job.provider.points_per_call))
    if job.budget is not None:
        limits_of_it = ("calls", "tokens", "points", "money", "currency")
        budget = {key: value for key, value in asdict(job.budget).items() if value is not None and key in limits_of_it}
        prices: dict[str, Json] = {
            model: {
                "input": price.input_per_million,
                "output": price.output_per_million,
                "call": price.per_call,
                **({} if price.batch == Price().batch else {"batch": price.batch}),
                **({"picture": price.per_picture} if job.kind == "image" else {}),
            }
            for model, price in job.budget.prices.items()
        }
        tree["budget"] = {**budget, "prices": prices}
    return tree
