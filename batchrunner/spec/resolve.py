"""A draft without faults as a `Job`: defaults that depend on other keys are settled here, once."""

from batchrunner.core.job import Job, Limits, ListedPrompt, Listing, Output, RetryPolicy, Source, Timeouts, Turn
from batchrunner.spec.answer_schema import answer_schema
from batchrunner.spec.draft import Draft
from batchrunner.spec.models import PromptSpec, SourceSpec
from batchrunner.spec.named_files import folder_of, former_folders, located, project_folder, results_folder
from batchrunner.spec.night import budget_of, deadline_of, notify_of, window_of
from batchrunner.spec.provider import is_simulated, resolved_provider
from batchrunner.spec.rules import SIMULATED_ENDING, job_name


def resolved(draft: Draft, *, out: str | None) -> Job:
    """The job. `out` replaces the output folder as it is."""
    spec, kind = draft.spec, draft.kind
    return Job(
        name=job_name(draft),
        file=draft.file,
        folder=draft.folder,
        kind=kind,
        provider=resolved_provider(draft),
        models=draft.models,
        prompts=_prompts(draft),
        matrix={name: tuple(values) for name, values in spec.matrix.items()},
        params=dict(spec.params),
        system=spec.system,
        messages=tuple(Turn(role=turn.role, content=turn.content) for turn in spec.messages or ()),
        images=tuple(spec.images),
        picture_folders=_picture_folders(draft),
        images_from=_images_from(draft),
        schema=answer_schema(draft),
        stream=kind == "chat" if spec.stream is None else spec.stream,
        replicas=spec.replicas,
        limits=_limits(draft),
        retry=RetryPolicy(attempts=spec.retry.attempts, max_wait_s=spec.retry.max_wait_s),
        timeouts=Timeouts(**spec.timeouts.model_dump()),
        output=_output(draft, out=out),
        durability=spec.durability or ("full" if kind == "image" else "result"),
        on_ambiguous=spec.on_ambiguous,
        on_quota=spec.on_quota,
        breaker=spec.breaker,
        simulated=is_simulated(draft),
        scenario=spec.scenario,
        window=window_of(draft),
        timezone=spec.timezone,
        deadline=deadline_of(draft),
        budget=budget_of(draft),
        notify=notify_of(draft),
    )


def _prompts(draft: Draft) -> Listing | Source:
    source = draft.spec.prompts
    if not isinstance(source, SourceSpec):
        return Listing(entries=tuple(_listed(draft, entry, place) for place, entry in enumerate(draft.entries)))
    return Source(
        path=located(draft.folder, source.file),
        shown=source.file,
        template=source.template,
        id=source.id,
        limit=source.limit,
        on_bad_row=source.on_bad_row,
        encoding=source.encoding,
        delimiter=source.delimiter,
    )


def _images_from(draft: Draft) -> tuple[str, ...]:
    given = draft.spec.images_from
    return tuple(located(draft.folder, name) for name in ([given] if isinstance(given, str) else given or ()))


def _picture_folders(draft: Draft) -> tuple[str, ...]:
    """The project's folder, the source's own, and those of `images_from`."""
    source = draft.spec.prompts
    of_source = (folder_of(located(draft.folder, source.file)),) if isinstance(source, SourceSpec) else ()
    return (project_folder(draft.folder), *of_source, *_images_from(draft))


def _listed(draft: Draft, entry: PromptSpec, place: int) -> ListedPrompt:
    return ListedPrompt(
        prompt=entry.prompt,
        id=entry.id,
        params=dict(entry.params),
        vars=dict(entry.vars),
        images=None if entry.images is None else tuple(entry.images),
        line=draft.reading.lines.get(("prompts", place)),
    )


def _limits(draft: Draft) -> Limits:
    limits = draft.spec.limits
    return Limits(
        concurrency=limits.concurrency if isinstance(limits.concurrency, int) else None,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        requests_per_day=limits.requests_per_day,
        in_flight_tasks=limits.in_flight_tasks,
        poll_per_second=limits.poll_per_second,
    )


def _output(draft: Draft, *, out: str | None) -> Output:
    given = draft.spec.output
    folder, former = out, tuple[str, ...]()
    if folder is None:
        named = (given.dir or f"outputs/{job_name(draft)}").rstrip("/")
        named += SIMULATED_ENDING if is_simulated(draft) else ""
        folder = results_folder(draft.folder, named)
        former = former_folders(draft.folder, named, but=folder)
    return Output(dir=folder, former_dirs=former, format=given.format, name=given.name, each=given.each)
