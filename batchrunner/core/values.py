"""The program's dataclasses: written as those of the standard library, made by msgspec.

`dataclasses.dataclass` writes and compiles up to seven functions for each class: 0.9 ms of CPU each, at each start, for
hundreds of classes. A `msgspec.Struct` has them in C: 0.04 ms a class, and its values are made and compared several
times as fast. For type checkers the names below are those of the standard library: `replace` is checked too. As with
`slots=True` there, a value is equal only to one of its own class, and nothing can be added to it.

What differs: a field with `init=False` and no default is `msgspec.UNSET` until `__post_init__` sets it; a frozen class
sets it with `set_once`. No field can be left out of the representation.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import UNSET, Struct, StructMeta
from msgspec import field as struct_field
from msgspec.structs import force_setattr

__all__ = ["asdict", "dataclass", "field", "field_names", "replace", "set_once"]

if TYPE_CHECKING:
    from dataclasses import asdict, dataclass, field, replace
else:
    from msgspec.structs import replace

    def dataclass(
        *, frozen: bool = False, slots: bool = True, kw_only: bool = False, eq: bool = True, unsafe_hash: bool = False
    ) -> Callable[[type], type]:
        """Decorate a class whose annotated names are its fields; as `dataclasses.dataclass`, with `slots` always."""
        assert slots, "a class without would need another way to be made"

        def made(cls: type) -> type:
            if isinstance(cls, StructMeta):  # by its base, which is one; its own fields come before the base's
                assert not any(isinstance(given, _NotCompared) for given in cls.__struct_defaults__), (
                    "not of a subclass"
                )
                return cls
            body = dict(cls.__dict__)
            del body["__dict__"], body["__weakref__"]
            body["__qualname__"] = cls.__qualname__
            aside = {name for name, value in body.items() if isinstance(value, _NotCompared)}
            for name in aside:
                body[name] = body[name].field
            compiled = eq and not aside and not unsafe_hash
            if eq and not compiled:
                compared = [name for name in body["__annotations__"] if name not in aside]
                body |= _comparison(attrgetter(*compared), hashed=frozen or unsafe_hash)
            return StructMeta(cls.__name__, (Struct,), body, frozen=frozen, kw_only=kw_only, eq=compiled)

        return made

    def field(*, init: bool = True, compare: bool = True, **options: Any) -> Any:
        """Say more of a field; as `dataclasses.field`."""
        if not init:
            options.setdefault("default", UNSET)
        made = struct_field(**options)
        return made if compare else _NotCompared(made)

    def asdict(value: Any) -> dict[str, Any]:
        """Give the fields by name, values in them likewise; as `dataclasses.asdict`, without its deep copies."""
        return {name: _plain(getattr(value, name)) for name in field_names(type(value))}


class _NotCompared(NamedTuple):
    """A field with `compare=False`."""

    field: Any


def field_names(kind: type) -> tuple[str, ...]:
    """The fields of such a class, or of any dataclass or Struct, in their order; of any other type none."""
    return kind.__struct_fields__ if issubclass(kind, Struct) else tuple(getattr(kind, "__dataclass_fields__", ()))


def set_once(value: object, name: str, content: object) -> None:
    """Set a field of a frozen value, in its `__post_init__`."""
    assert isinstance(value, Struct), "a value of a class that is made here"
    force_setattr(value, name, content)


def _comparison(key: "attrgetter[Any]", *, hashed: bool) -> dict[str, object]:
    """The methods of a class that is compared by a part of its fields."""

    def equal(one: object, other: object) -> bool:
        return bool(key(one) == key(other)) if type(one) is type(other) else NotImplemented

    def unequal(one: object, other: object) -> bool:
        return bool(key(one) != key(other)) if type(one) is type(other) else NotImplemented

    def hash_of(value: object) -> int:
        return hash(key(value))

    return {"__eq__": equal, "__ne__": unequal, "__hash__": hash_of if hashed else None}


def _plain(value: Any) -> Any:
    if field_names(type(value)):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(inner) for inner in value)
    return value
