"""The table of everything that reads bytes of strangers. A new reader gets a line in one of the four lists."""

import fuzz_jobs
import fuzz_replies
import fuzz_stores
import fuzz_words
from fuzz_target import Target

TARGETS: tuple[Target, ...] = (*fuzz_replies.TARGETS, *fuzz_jobs.TARGETS, *fuzz_stores.TARGETS, *fuzz_words.TARGETS)
BY_NAME: dict[str, Target] = {target.name: target for target in TARGETS}
