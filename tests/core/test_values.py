"""Dataclasses of `core/values.py` do what those of the standard library do."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from batchrunner.core import values


@values.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A value with a default of each kind."""

    name: str
    words: tuple[str, ...] = ()
    more: dict[str, int] = values.field(default_factory=dict)
    length: int = values.field(init=False)

    def __post_init__(self) -> None:
        values.set_once(self, "length", len(self.name))


@values.dataclass(slots=True)
class Plain:
    """One that can be changed, has positions, and holds another."""

    place: int
    inner: list[Frozen] = values.field(default_factory=list)


@values.dataclass(slots=True, kw_only=True, eq=False)
class Same:
    """Equal to itself only."""

    name: str


@values.dataclass(slots=True, unsafe_hash=True)
class Partly:
    """One of whose fields counts for nothing."""

    name: str
    aside: object = values.field(default=None, compare=False)


@values.dataclass(slots=True, kw_only=True)
class Base:
    """What another class adds fields to."""

    name: str
    words: tuple[str, ...] = ()


@values.dataclass(slots=True, kw_only=True)
class More(Base):
    """A subclass with fields of both kinds."""

    place: int
    inner: list[int] = values.field(default_factory=list)


def test_a_subclass_has_the_fields_of_its_base() -> None:
    more = More(name="a", place=1)
    assert values.asdict(more) == {"name": "a", "words": (), "place": 1, "inner": []}
    assert more == More(name="a", place=1) != Base(name="a")
    assert more.inner is not More(name="a", place=1).inner
    with pytest.raises(TypeError):
        More(name="a")  # type: ignore[call-arg]


def test_values_are_equal_by_their_fields_and_their_class() -> None:
    one, other = Frozen(name="a"), Frozen(name="a", more={"b": 1})
    assert one == Frozen(name="a") != other
    assert hash(Frozen(name="a", more=None)) == hash(Frozen(name="a", more=None))  # type: ignore[arg-type]
    assert Plain(1) != Partly("a")  # type: ignore[comparison-overlap]
    assert Same(name="a") != Same(name="a")
    assert len({Partly("a", 1), Partly("a", 2)}) == 1
    with pytest.raises(TypeError):
        hash(Plain(1))


def test_a_frozen_value_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Frozen(name="a").name = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del Frozen(name="a").name
    plain = Plain(1)
    plain.place = 2
    assert plain == Plain(2)
    with pytest.raises(AttributeError):
        plain.other = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [Frozen, lambda: Frozen("a"), lambda: Frozen(name="a", other=1)])  # type: ignore[call-arg]
def test_a_value_needs_its_fields_by_name(wrong: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        wrong()


def test_defaults_are_made_for_each_value() -> None:
    assert Plain(1).inner is not Plain(1).inner
    assert Frozen(name="abc").length == 3
    assert values.replace(Frozen(name="abc"), name="a").length == 1


def test_the_representation_names_the_fields() -> None:
    assert repr(Plain(1, [Frozen(name="a")])) == "Plain(place=1, inner=[Frozen(name='a', words=(), more={}, length=1)])"
    assert repr(Partly("a", 1)) == "Partly(name='a', aside=1)"


@pytest.mark.parametrize("value", [Frozen(name="a", words=("b",)), Plain(1, [Frozen(name="a")]), Partly("a")])
def test_values_are_copied_replaced_and_pickled(value: Any) -> None:
    assert copy.deepcopy(value) == copy.copy(value) == pickle.loads(pickle.dumps(value)) == value
    first = values.field_names(type(value))[0]
    changed = values.replace(value, **{first: "other"})
    assert getattr(changed, first) == "other"
    assert changed != value
    with pytest.raises(TypeError):
        values.replace(value, unknown=1)


def test_a_value_is_a_mapping_all_the_way_down() -> None:
    frozen = {"name": "a", "words": (), "more": {}, "length": 1}
    assert values.asdict(Plain(1, [Frozen(name="a")])) == {"place": 1, "inner": [frozen]}


def test_fields_are_known_of_every_kind_of_class() -> None:
    assert values.field_names(Plain) == ("place", "inner")
    assert values.field_names(Partly) == ("name", "aside")
    assert values.field_names(int) == values.field_names(type(Plain)) == values.field_names(type) == ()
