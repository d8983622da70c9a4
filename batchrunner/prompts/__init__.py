"""Job in, a stream of items out: sources, templates, and rows × matrix × models × replicas.

Knows prompt files and nothing else of the world. Refuses bad rows with file and line before anything is sent.
"""

from batchrunner.prompts.job_items import JobItems, check_items, digest_of_items, items_of
from batchrunner.prompts.prompt_rows import EMPTY_JOB

__all__ = ["EMPTY_JOB", "JobItems", "check_items", "digest_of_items", "items_of"]
