"""What the parts of a job file are made of: how a mapping is read, and the smallest types of values."""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetJsonSchemaHandler, JsonValue, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

MAX_WAIT_S = 7 * 24 * 3600.0


def _shape(value: object) -> str | None:
    """Which of several forms a value has; the tags never equal a key, so they can be distinguished in a path."""
    match value:
        case str():
            return "<text>"
        case bool():
            return None
        case int() | float():
            return "<number>"
        case list():
            return "<list>"
        case dict() | BaseModel():
            return "<mapping>"
        case _:
            return None


def one_of(expected: str) -> Discriminator:
    """Chooses among the tagged forms of a value; `expected` is what to say when none fits."""
    return Discriminator(_shape, custom_error_type="shape", custom_error_message=expected)


class WhenGiven:
    """Annotates a part that stands inside another one, whose validator is then made without this one's.

    The paths and words of mistakes, and the JSON Schema, are those of the part itself.
    """

    def __get_pydantic_core_schema__(self, part: type[BaseModel], _: Callable[[Any], CoreSchema]) -> CoreSchema:
        """Read the part by its own validator."""
        self._part = part
        return core_schema.no_info_plain_validator_function(part.model_validate)

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the part itself, under its name."""
        self._part.model_rebuild()
        return handler(core_schema.definitions_schema(self._part.__pydantic_core_schema__, []))


class Part(BaseModel):
    """Unknown keys are mistakes, nothing is converted, and a key with nothing after its colon is not given.

    A part's validator is made when the part is first read: it takes longer than all else that `check` does.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        if None not in given.values():
            return given
        known = {known.alias or name for name, known in cls.model_fields.items()}
        return {key: value for key, value in given.items() if value is not None or key not in known}


Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=MAX_WAIT_S, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ModelId = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^\S+$")]
Params: TypeAlias = dict[str, JsonValue]
