"""A draft without faults as a `Job`: defaults that depend on other keys are settled here, once."""

from batchrunner.core.job import (
    TASK_KINDS,
    Draw,
    Group,
    Job,
    Limits,
    ListedPrompt,
    Listing,
    Output,
    RetryPolicy,
    Sample,
    Source,
    Timeouts,
    Turn,
)
from batchrunner.core.places import is_remote
from batchrunner.spec.answer_schema import answer_schema
from batchrunner.spec.check_keys import checks_of
from batchrunner.spec.models import PromptSpec
from batchrunner.spec.partial import PartialSpec, folder_of, former_folders, located, project_folder, results_folder
from batchrunner.spec.provider import (
    body_of_job,
    inputs_per_request,
    is_simulated,
    resolved_provider,
    table_of_job,
)
from batchrunner.spec.rules import SIMULATED_ENDING, job_name
from batchrunner.spec.schedule_keys import (
    batch_of,
    budget_of,
    deadline_of,
    fallback_policy_of,
    notify_env_of,
    notify_of,
    notify_on_of,
    window_of,
)
from batchrunner.spec.source_keys import DrawChoice, DrawSpec, SourceSpec

_MEDIA_DOWNLOAD_S = 1800.0
_SOUND_FILE = ("{{ file }}",)
"""What is transcribed unless the job says otherwise: the file of each row, as a folder has it."""


def resolved(partial: PartialSpec, *, out: str | None) -> Job:
    """The job. `out` replaces the output folder as it is."""
    spec, kind = partial.spec, partial.kind
    return Job(
        name=job_name(partial),
        file=partial.file,
        folder=partial.folder,
        kind=kind,
        provider=resolved_provider(partial),
        body=body_of_job(partial),
        models=partial.models,
        prompts=_prompts(partial),
        matrix={name: tuple(values) for name, values in spec.matrix.items()},
        params=dict(spec.params),
        system=spec.system,
        messages=tuple(Turn(role=turn.role, content=turn.content) for turn in spec.messages or ()),
        images=tuple(spec.images),
        files=tuple(spec.files) or (_SOUND_FILE if kind == "transcription" else ()),
        picture_folders=_picture_folders(partial),
        images_from=_images_from(partial),
        schema=answer_schema(partial),
        stream=kind == "chat" if spec.stream is None else spec.stream,
        replicas=spec.replicas,
        limits=limits_of(partial),
        retry=RetryPolicy(attempts=spec.retry.attempts, max_wait_s=spec.retry.max_wait_s),
        timeouts=_timeouts(partial),
        output=_output(partial, out=out),
        durability=spec.durability or ("full" if kind in TASK_KINDS else "result"),
        on_ambiguous=spec.on_ambiguous,
        on_quota=spec.on_quota,
        breaker=spec.breaker,
        simulated=is_simulated(partial),
        scenario=spec.scenario,
        window=window_of(partial),
        timezone=spec.timezone,
        deadline=deadline_of(partial),
        budget=budget_of(partial),
        batch=batch_of(partial),
        reuse=tuple(_run_named(partial, name) for name in dict.fromkeys(spec.reuse)),
        fallback=fallback_policy_of(partial),
        notify=notify_of(partial),
        notify_apprise_env=notify_env_of(partial),
        notify_on=notify_on_of(partial),
        checks=checks_of(spec.checks),
    )


def _prompts(partial: PartialSpec) -> Listing | Source:
    source = partial.spec.prompts
    if not isinstance(source, SourceSpec):
        return Listing(entries=tuple(_listed(partial, entry, place) for place, entry in enumerate(partial.entries)))
    run = source.run is not None
    sample = source.sample
    return Source(
        path=_place(partial, source),
        shown=_shown(partial, source),
        run=run,
        template=source.template,
        id=source.id or (_SAME_ID if run else None),
        images=None if source.images is None else tuple(source.images),
        where=source.where,
        sample=None if sample is None else Sample(n=sample.n, seed=sample.seed, by=sample.by),
        count=source.count,
        explode=source.explode,
        dedupe=source.dedupe,
        group=None if source.group is None else Group(by=source.group.by, size=source.group.size),
        draw=tuple(_draw(partial, name, choice) for name, choice in source.draw.items()),
        seed=source.seed,
        takes_unfinished=source.unfinished == "take",
        limit=source.limit,
        on_bad_row=source.on_bad_row,
        encoding=source.encoding,
        delimiter=source.delimiter,
        line=partial.reading.lines.get(("prompts", "run" if run else "file")),
    )


def _draw(partial: PartialSpec, name: str, choice: DrawChoice) -> Draw:
    if not isinstance(choice, DrawSpec):
        return Draw(name=name, values=tuple(choice))
    path = located(partial.folder, choice.file)
    return Draw(name=name, path=path, shown=choice.file, column=choice.column, size=choice.size)


_SAME_ID = "{{ id }}"


def _shown(partial: PartialSpec, source: SourceSpec) -> str:
    """The source as the person wrote it; a simulated run reads simulated runs."""
    return source.file or "draw" if source.run is None else _run_named(partial, source.run)[1]


def _run_named(partial: PartialSpec, given: str) -> tuple[str, str]:
    """(path, name) of the results folder of another run: of a simulated job, of the simulated twin."""
    name = given.rstrip("/") or given
    if is_simulated(partial) and not name.endswith(SIMULATED_ENDING):
        name += SIMULATED_ENDING
    return results_folder(partial.folder, name), name


def _place(partial: PartialSpec, source: SourceSpec) -> str:
    if source.run is not None:
        return _run_named(partial, source.run)[0]
    return located(partial.folder, source.file or ".")


def _images_from(partial: PartialSpec) -> tuple[str, ...]:
    given = partial.spec.images_from
    return tuple(located(partial.folder, name) for name in ([given] if isinstance(given, str) else given or ()))


def _picture_folders(partial: PartialSpec) -> tuple[str, ...]:
    """The project's folder, the source's own (if it lies here), and those of `images_from`."""
    source = partial.spec.prompts
    place = _place(partial, source) if isinstance(source, SourceSpec) else ""
    of_source = (folder_of(place),) if place and not is_remote(place) else ()
    return (project_folder(partial.folder), *of_source, *_images_from(partial))


def _listed(partial: PartialSpec, entry: PromptSpec, place: int) -> ListedPrompt:
    return ListedPrompt(
        prompt=entry.prompt,
        id=entry.id,
        params=dict(entry.params),
        vars=dict(entry.vars),
        images=None if entry.images is None else tuple(entry.images),
        line=partial.reading.lines.get(("prompts", place)),
    )


TASKS_IN_FLIGHT = 8
"""Of a table's server on each lane, of which nothing is known; such servers allow a few at a time."""


def limits_of(partial: PartialSpec) -> Limits:
    """The limits of a draft without faults."""
    limits, table = partial.spec.limits, table_of_job(partial)
    return Limits(
        concurrency=limits.concurrency if isinstance(limits.concurrency, int) else None,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        requests_per_day=limits.requests_per_day,
        in_flight_tasks=limits.in_flight_tasks or (TASKS_IN_FLIGHT if table is not None else None),
        inputs_per_request=_inputs_per_request(partial),
        poll_per_second=limits.poll_per_second or (table.poll.per_second if table is not None else None),
    )


def _inputs_per_request(partial: PartialSpec) -> int | None:
    if partial.kind != "embedding":
        return None
    return partial.spec.limits.inputs_per_request or inputs_per_request(partial)


def _timeouts(partial: PartialSpec) -> Timeouts:
    """Large files take longer than pictures."""
    given = partial.spec.timeouts.model_dump()
    if partial.kind == "media" and not partial.given("timeouts", "download_s"):
        given["download_s"] = _MEDIA_DOWNLOAD_S
    return Timeouts(**given)


def _output(partial: PartialSpec, *, out: str | None) -> Output:
    given = partial.spec.output
    folder, former = out, tuple[str, ...]()
    if folder is None:
        named = (given.dir or f"outputs/{job_name(partial)}").rstrip("/")
        named += SIMULATED_ENDING if is_simulated(partial) else ""
        folder = results_folder(partial.folder, named)
        former = former_folders(partial.folder, named, but=folder)
    return Output(
        dir=folder,
        former_dirs=former,
        format=given.format,
        name=given.name,
        each=given.each,
        max_mb=given.max_mb,
        upload=given.upload,
        ledger=given.ledger,
        report=given.report,
    )
