"""The table of everything that reads bytes of strangers. A new reader gets a line in one of the four lists."""

from tests.fuzz import jobs, replies, stores, words
from tests.fuzz.target import Target

TARGETS: tuple[Target, ...] = (*replies.TARGETS, *jobs.TARGETS, *stores.TARGETS, *words.TARGETS)
BY_NAME: dict[str, Target] = {target.name: target for target in TARGETS}
