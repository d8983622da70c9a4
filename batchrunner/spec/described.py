"""The job file described for editors and for people: its JSON Schema, and a file to start from."""

from importlib.resources import files

from batchrunner.core.job import Json
from batchrunner.spec.models import JobSpec

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def job_schema() -> dict[str, Json]:
    """JSON Schema (2020-12) of a job file, with a description of every key."""
    generated: dict[str, Json] = JobSpec.model_json_schema(by_alias=True)
    return {"$schema": _DIALECT, **_untitled(generated), "title": "batchrunner job"}


def starter_job() -> str:
    """The text of a commented job file that passes `check` as it stands."""
    return files("batchrunner.spec").joinpath("template.yaml").read_text(encoding="utf-8")


def _untitled(part: dict[str, Json]) -> dict[str, Json]:
    """Without the titles that repeat the keys."""
    return {
        key: _below(value, named=key in ("properties", "$defs"))
        for key, value in part.items()
        if not (key == "title" and isinstance(value, str))
    }


def _below(value: Json, *, named: bool) -> Json:
    match value:
        case dict() if named:
            return {name: _below(part, named=False) for name, part in value.items()}
        case dict():
            return _untitled(value)
        case list():
            return [_below(entry, named=False) for entry in value]
        case _:
            return value
