"""Finds keys and tokens that stand literally in a job file, wherever they stand. Says where, never what."""

from collections.abc import Iterator

from batchrunner.core.job import Json
from batchrunner.spec.hiding import shows_secret
from batchrunner.spec.places import Fault, KeyPath


def leak_faults(tree: Json, path: KeyPath = ()) -> Iterator[Fault]:
    """A fault for every value or key that has a literal secret in it."""
    match tree:
        case str() if shows_secret(tree):
            yield _leak(path)
        case list():
            for place, entry in enumerate(tree):
                yield from leak_faults(entry, (*path, place))
        case dict():
            for key, value in tree.items():
                if shows_secret(key):
                    yield _leak((*path, key))
                yield from leak_faults(value, (*path, key))
        case _:
            return


def _leak(path: KeyPath) -> Fault:
    return Fault(
        path=path,
        problem="looks like a key or token",
        hint="keys never stand in a job file: put it into an environment variable and name that in "
        "`provider.api_key_env`",
    )
