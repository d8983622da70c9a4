"""What distinguishes the items of one prompt: combinations of the matrix, models and replicas, each with its suffix."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from unicodedata import category

from batchrunner.core.item import slug
from batchrunner.core.job import Job, Json

_LABEL_CHARS = 40
_KEPT = 1_000
"""Combinations that are made once for a pass; of a larger matrix they are made anew for every row."""
_NOTHING = "item"


@dataclass(slots=True, kw_only=True)
class Combination:
    """One combination of the matrix."""

    suffix: str
    vars: dict[str, Json]
    """The values of names that a template uses."""
    params: dict[str, Json]
    """The values of all other names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A value with the suffix that it adds to ids; empty where there is nothing to distinguish."""

    suffix: str
    value: str


class Matrix:
    """The combinations of a job's matrix; one empty combination without a matrix.

    `variables` are the names that a template uses: those are no params.
    """

    def __init__(self, job: Job, variables: frozenset[str]) -> None:
        self._names = tuple(job.matrix)
        self._variables = variables
        self._axes = [tuple(zip(_suffixes(name, values), values, strict=True)) for name, values in job.matrix.items()]
        self.is_kept = prod(map(len, self._axes)) <= _KEPT
        """True when every iteration gives the same combinations, not only equal ones."""
        self._kept = tuple(self._combinations()) if self.is_kept else ()
        self._variables_kept = [combination.vars for combination in self._kept] if variables else [{}]

    def __repr__(self) -> str:
        return f"<Matrix {' × '.join(f'{len(axis)} {n}' for n, axis in zip(self._names, self._axes, strict=True))}>"

    def __iter__(self) -> Iterator[Combination]:
        """Every combination in the file's order, the last name fastest."""
        return iter(self._kept) if self.is_kept else self._combinations()

    def _combinations(self) -> Iterator[Combination]:
        for chosen in product(*self._axes):
            values = {name: value for name, (_, value) in zip(self._names, chosen, strict=True)}
            yield Combination(
                suffix="".join(suffix for suffix, _ in chosen),
                vars={name: value for name, value in values.items() if name in self._variables},
                params={name: value for name, value in values.items() if name not in self._variables},
            )

    def variables(self) -> Iterable[dict[str, Json]]:
        """The variables of every combination; a single empty set when no template uses any."""
        if self.is_kept or not self._variables:
            return self._variables_kept
        return (combination.vars for combination in self)


def models_of(job: Job) -> tuple[Labelled, ...]:
    """The job's models; several of them are told apart by the part after the slash."""
    if len(job.models) == 1:
        return (Labelled(suffix="", value=job.models[0]),)
    suffixes = _distinct(f"-{slug(model.rpartition('/')[2])}" for model in job.models)
    return tuple(Labelled(suffix=suffix, value=model) for suffix, model in zip(suffixes, job.models, strict=True))


def replica_suffix(replica: int) -> str:
    """Nothing for the first, `-r2` for the second."""
    return f"-r{replica}" if replica > 1 else ""


def _suffixes(name: str, values: tuple[Json, ...]) -> list[str]:
    return _distinct(f"-{_readable(name)}{_readable(_written(value))}" for value in values)


def _written(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _readable(text: str) -> str:
    """The text's beginning with its letters, digits, dots, underscores and hyphens; a hyphen between what was parted.

    An id may have dots, and `0.2` is not to be taken for `0-2`. Files get names of their own, made safe elsewhere.
    """
    kept = "".join(char if _stays(char) else " " for char in text[: 4 * _LABEL_CHARS])
    return "-".join(kept.split())[:_LABEL_CHARS] or _NOTHING


def _stays(char: str) -> bool:
    return char in "._-" or char.isalnum() or category(char).startswith("M")


def _distinct(suffixes: Iterable[str]) -> list[str]:
    """The same suffixes, a repeated one with `-2`, `-3`."""
    taken: set[str] = set()
    found: list[str] = []
    for suffix in suffixes:
        label, times = suffix, 1
        while label in taken:
            times += 1
            label = f"{suffix}-{times}"
        taken.add(label)
        found.append(label)
    return found
