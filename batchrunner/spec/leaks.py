"""Finds keys and tokens that stand literally in a job file, wherever they stand. Says where, never what."""

from collections.abc import Iterator

from batchrunner.core.job import Json
from batchrunner.spec.hiding import shows_secret
from batchrunner.spec.places import Fault, KeyPath


def leak_faults(tree: Json) -> Iterator[Fault]:
    """A fault for every value or key that has a literal secret in it."""
    texts: list[str] = []
    _gather(tree, texts)
    if any(map(shows_secret, texts)):  # almost never: where they stand is asked only then
        yield from _found(tree, ())


def _gather(tree: Json, texts: list[str]) -> None:
    match tree:
        case str():
            texts.append(tree)
        case list():
            for entry in tree:
                _gather(entry, texts)
        case dict():
            texts.extend(tree)
            for value in tree.values():
                _gather(value, texts)
        case _:
            return


def _found(tree: Json, path: KeyPath) -> Iterator[Fault]:
    match tree:
        case str() if shows_secret(tree):
            yield _leak(path)
        case list():
            for place, entry in enumerate(tree):
                yield from _found(entry, (*path, place))
        case dict():
            for key, value in tree.items():
                if shows_secret(key):
                    yield _leak((*path, key))
                yield from _found(value, (*path, key))
        case _:
            return


def _leak(path: KeyPath) -> Fault:
    return Fault(
        path=path,
        problem="looks like a key or token",
        hint="keys never stand in a job file: put it into an environment variable and name that in "
        "`provider.api_key_env`",
    )
