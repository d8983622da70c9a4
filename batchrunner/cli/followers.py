"""What follows a job for programs: events, a log, metrics; their options, and how they are opened.

Short: `run` and `coordinate` both need it, and nothing else of each other.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from batchrunner.core.errors import JobMistakesError, Mistake

if TYPE_CHECKING:
    from batchrunner.cli.progress import Follower

Events = Annotated[
    str | None,
    typer.Option("--events", metavar="FILE", help="Append events as JSON lines to this file; - is stdout."),
]

LogJson = Annotated[
    bool,
    typer.Option(
        "--log-json", help="Write one JSON object a line to stderr instead of text: the ledger's records and messages."
    ),
]
MetricsAt = Annotated[
    str | None,
    typer.Option("--metrics", metavar="HOST:PORT", help="Serve figures of the run for Prometheus, at /metrics."),
]
MetricsFile = Annotated[
    str | None,
    typer.Option("--metrics-file", metavar="FILE", help="Write them to this file, for node_exporter; ends with .prom."),
]


def followers_of(
    stack: ExitStack,
    events: str | None,
    *,
    as_json: bool,
    log_json: bool,
    metrics: str | None,
    metrics_file: str | None,
) -> "Iterator[Follower]":
    """What follows the jobs, opened; the stack closes them. Loaded when they are asked for."""
    if log_json:
        from batchrunner.cli.log_json import JsonLog  # noqa: PLC0415 - as above

        yield JsonLog()
    if events is not None:
        from batchrunner.cli.event_file import STDOUT, EventFile  # noqa: PLC0415 - as above

        if events == STDOUT and as_json:
            problem = "stdout cannot have both the events and the object of --json"
            raise JobMistakesError((Mistake(key="--events", problem=problem, hint="give the events a file"),))
        yield stack.enter_context(EventFile.opened(events))
    if metrics is not None or metrics_file is not None:
        from batchrunner.cli.metrics import Metrics  # noqa: PLC0415 - as above

        yield stack.enter_context(Metrics(address=metrics, file=metrics_file))
