"""Seeds that once failed, each with its description. They stay: a run may become another one as the code changes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PastBug:
    """A run of `crash/seeded_runs.py` in which an invariant once did not hold."""

    seed: int
    description: str
    plain: bool = False
    """Made by `plain_seeded_run`, as the first ones were."""


PAST_BUGS = (
    PastBug(
        2192,
        "Two lives in a row died before the ledger's folder was synced; the power loss kept the name of segment 2 and "
        "took that of segment 1: the ledger was refused as damaged. A new segment now syncs the names before it.",
        plain=True,
    ),
    PastBug(
        457,
        "The task of an item that the job had no more failed at the server, and the item was sent again with an empty "
        "prompt, for money. It is left alone now.",
        plain=True,
    ),
    PastBug(
        1232,
        "A failed item vanished from the job and came back: its row had been dropped from failures.jsonl. Rows of "
        "vanished failures are now kept aside and come back with their item, and so do result rows.",
        plain=True,
    ),
    PastBug(
        1414,
        "A power loss left a hole in superseded.jsonl for ever. Every file of rows is now mended when a run begins.",
        plain=True,
    ),
    PastBug(
        3,
        "With `on_ambiguous: hold`, items that were cut off and then taken out of the job counted as held: the status "
        "said 32 done, 8 held and -8 pending, and every run ended as paused. They count as vanished now.",
    ),
    PastBug(94, "The same, with other items."),
    PastBug(
        189,
        "Sends that waited for `tokens_per_minute` had been counted against `requests_per_minute` when they began to "
        "wait, and left together: more in a minute than was allowed. They are counted when they leave.",
    ),
    PastBug(
        2354,
        "`--retry-failed` took rows out of failures.jsonl before the ledger's `requeued` was synced; a power loss took "
        "the record and left failed items without a row, which the audit calls damage. It is synced first now.",
    ),
    PastBug(
        8473,
        "Two pictures could not be fetched within the window, and a day later their files were gone: every further run "
        "ended as paused, for ever. A file that is gone after a day has expired, and its item is tried again or fails.",
    ),
    PastBug(
        1463,
        "An item had failed, and its process died while the record reached the disk: `--retry-failed` sent it again, "
        "rightly, and the watch still waited for its first task. A requeued item has no task under way.",
    ),
    PastBug(
        4427,
        "A full disk left half a row in superseded.jsonl while results.jsonl was put in order, and the run called its "
        "end clean: the half row stayed for ever. A refused rewrite is now told in `close`, and the next run mends it.",
    ),
    PastBug(
        442,
        "A retry that came through gave its share of the budget back twice, when its answer came and when it was on "
        "the disk: more retries than a tenth of the sends. It is given back once, with the record.",
    ),
)


@dataclass(frozen=True)
class PastCall:
    """A call of a first life at which something once went wrong, in the sweep over all calls."""

    kind: str
    trouble: str
    description: str


PAST_CALLS = (
    PastCall(
        "chat-result",
        "eio",
        "The sync of the folder that holds a new results.jsonl was refused; the next row found the file there, and "
        "trusted a name that a power loss then took, together with rows that the ledger called done.",
    ),
    PastCall(
        "chat-result",
        "crash",
        "A power loss took intents that were not synced, and their items' rows were not adopted because the ledger did "
        "not know them: paid answers were paid for again.",
    ),
    PastCall(
        "chat-result",
        "crash",
        "A slot is free before its `done` is synced: more intents than the concurrency could be lost at once, and "
        "`unaccounted_max` said too little.",
    ),
    PastCall(
        "chat",
        "crash",
        "A hole that a power loss left before whole rows of results.jsonl stayed there as a line of zeros, which "
        "pandas and DuckDB refuse.",
    ),
    PastCall(
        "image",
        "crash",
        "Half-written pictures of killed processes were never removed.",
    ),
    PastCall(
        "chat",
        "eio",
        "Records that failed while their task was being cancelled wrote tracebacks to stderr, and the answers in them "
        "were not told as a last resort.",
    ),
)
