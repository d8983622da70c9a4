"""The key `models` as a mapping: models that are asked one after another. Types, what is made of them, and mistakes.

Refuses it where no second model could be asked: the same model twice, batches, embeddings.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import Field, Tag

from batchrunner.core.fallback import AFTER_S, FALLBACK_REASONS, Fallback, FallbackReason
from batchrunner.spec.job_errors import SpecError, short
from batchrunner.spec.parts import ModelId, Part, Text, WhenGiven, one_of

if TYPE_CHECKING:
    from batchrunner.spec.partial import PartialSpec


class FallbackSpec(Part):
    """Models that are asked one after another."""

    first: ModelId = Field(description="The model that every prompt goes to.")
    then: Annotated[
        Annotated[ModelId, Tag("<text>")] | Annotated[list[ModelId], Field(min_length=1), Tag("<list>")],
        one_of("the id of a model, or a list of ids"),
    ] = Field(description="The model that is asked where the first gives no answer, or several, one after another.")
    on: Annotated[
        Annotated[FallbackReason, Tag("<text>")]
        | Annotated[Annotated[list[FallbackReason], Field(min_length=1)], Tag("<list>")],
        one_of(f"{', '.join(FALLBACK_REASONS[:-1])} or {FALLBACK_REASONS[-1]}, or a list of these"),
    ] = Field(
        default=list(FALLBACK_REASONS),
        description="What has to have become of an item, one of these or a list: it met a `content_filter`, its "
        "answers did not fit the schema (`schema_miss`), or its model was `overloaded` or its `quota` used up "
        "for as long as `after` says. Default: each of them.",
    )
    after: Text | None = Field(
        default=None,
        description="How long a model has to be overloaded or without quota before the next one is asked, for example "
        "10m or 2h. Default: 10m.",
    )


ModelsChoice: TypeAlias = Annotated[
    Annotated[list[ModelId], Field(min_length=1), Tag("<list>")]
    | Annotated[FallbackSpec, WhenGiven(), Tag("<mapping>")],
    one_of("a list of models, or a mapping with `first` and `then`"),
]


def models_in(given: "list[str] | FallbackSpec | None") -> tuple[str, ...]:
    """All models of the key, in order."""
    if isinstance(given, FallbackSpec):
        return (given.first, *([given.then] if isinstance(given.then, str) else given.then))
    return tuple(given or ())


def reasons_in(given: FallbackSpec) -> list[FallbackReason]:
    """Those that the key `on` names, as they stand there."""
    return [given.on] if isinstance(given.on, str) else given.on


def fallback_of(given: "list[str] | FallbackSpec | None", *, after_s: float | None) -> Fallback | None:
    """When the next model is asked; None where every prompt goes to each. `after_s`: see `duration_s`."""
    if not isinstance(given, FallbackSpec):
        return None
    chosen = tuple(reason for reason in FALLBACK_REASONS if reason in reasons_in(given))
    return Fallback(on=chosen, after_s=AFTER_S if after_s is None else after_s)


def fallback_faults(partial: "PartialSpec", *, after_s: float | None) -> Iterator[SpecError]:
    """What is wrong with the mapping."""
    given = partial.spec.models
    if not isinstance(given, FallbackSpec):
        return
    seen = {given.first: "models.first"}
    for place, model in enumerate(models_in(given)[1:]):
        path = ("models", "then") if isinstance(given.then, str) else ("models", "then", place)
        if model in seen:
            yield SpecError(path=path, problem=f"is the same as {seen[model]}", expected="another model")
        seen.setdefault(model, f"models.then[{place}]")
    if given.after is not None and after_s is None:
        problem = f"is {short(given.after)}"
        yield SpecError(path=("models", "after"), problem=problem, expected="a duration like 10m, 2h or 30s")
    yield from _faults_of_reasons(
        given, has_schema=not partial.knows("schema") or partial.spec.answer_schema is not None
    )
    if partial.spec.batch is not None and partial.spec.batch.use != "never":
        yield SpecError(
            path=("models",),
            problem="asks models one after another, which `batch:` cannot do",
            hint="leave out `batch`, or name one model, and send what failed with another job: `run:` and `where:`",
        )
    if partial.knows("kind") and partial.kind == "embedding":
        yield SpecError(
            path=("models",),
            problem="asks models one after another, but the embeddings of two models cannot be compared",
            expected="one model, or a list of models, for kind: embedding",
        )


def _faults_of_reasons(given: FallbackSpec, *, has_schema: bool) -> Iterator[SpecError]:
    reasons = reasons_in(given)
    for place, reason in enumerate(reasons):
        path = ("models", "on") if isinstance(given.on, str) else ("models", "on", place)
        if reason in reasons[:place]:
            yield SpecError(
                path=path, problem=f"is the same as models.on[{reasons.index(reason)}]", expected="each once"
            )
        elif reason == "schema_miss" and not has_schema and "on" in given.model_fields_set:
            yield SpecError(
                path=path,
                problem="is schema_miss, but the job has no `schema`",
                hint="add `schema`, or take schema_miss out",
            )
