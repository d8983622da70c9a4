"""`run --metrics HOST:PORT` and `--metrics-file FILE`: figures of a run for Prometheus.

They are what `status` shows, looked at once a second; a scrape reads the last look, so a run does nothing for one.
Names and meanings: docs/metrics.md. The only module that knows prometheus_client.
"""

import asyncio
import re
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from batchrunner.cli.output import print_message
from batchrunner.core.errors import ExitStatus, JobMistakesError, Mistake
from batchrunner.core.status import ItemCounts, Status
from batchrunner.core.values import field_names
from batchrunner.stores.appender import LEDGER_COMMITS

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.core import CollectorRegistry, Metric

_LOOK_EVERY_S: Final = 1.0
_WRITE_EVERY_S: Final = 10.0
_NAMES_OF_A_RUN: Final = frozenset({"results.jsonl", "failures.jsonl", "scores.jsonl", "metadata.jsonl", "run.json"})
_ADDRESS: Final = re.compile(r"(?:(?P<host>[^\s:]+|\[[0-9a-fA-F:.%]+\]):)?(?P<port>[0-9]{1,5})")
_MOST_PORT: Final = 65_535
_STATES: Final = tuple(name for name in field_names(ItemCounts) if name != "total")


class Metrics:
    """Of all jobs of the command, at an address and in a file, or one of them."""

    def __init__(self, *, address: str | None, file: str | None, every_s: float = _LOOK_EVERY_S) -> None:
        """Starts the server and writes the file for the first time.

        Raises:
            JobMistakesError: no such address, a port in use or without the right to it, a file that cannot be written,
                or prometheus_client is not installed.
        """
        try:
            from prometheus_client.core import CollectorRegistry  # noqa: PLC0415 - an extra
        except ImportError:
            key = "--metrics" if address is not None else "--metrics-file"
            hint = "pip install 'batchrunner[metrics]'"
            raise JobMistakesError((Mistake(key=key, problem="needs prometheus_client", hint=hint),)) from None
        self._every_s = every_s
        self._jobs: dict[str, Status] = {}
        self._ends: dict[str, ExitStatus] = {}
        self._sends: dict[tuple[str, str], int] = {}
        self._file: str | None = file
        self._writing = threading.Lock()
        self._server: WSGIServer | None = None
        self.registry: CollectorRegistry = CollectorRegistry()
        self.registry.register(self)
        if file is not None:
            self._begin_file(file)
        if address is not None:
            self._server = _serve(address, self.registry)

    def __repr__(self) -> str:
        return f"<Metrics of {len(self._jobs)} jobs>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the server; the file stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def port(self) -> int | None:
        """Where it listens."""
        return self._server.server_port if self._server is not None else None

    async def follow(self, snapshot: Callable[[], Status]) -> None:
        """Look until cancelled."""
        clock = asyncio.get_running_loop().time
        written_s = clock() - _WRITE_EVERY_S
        while True:
            status = snapshot()
            self._jobs[status.job] = status
            self._ends.pop(status.job, None)
            if self._file is not None and clock() - written_s >= _WRITE_EVERY_S:
                written_s = clock()
                await asyncio.to_thread(self._write)
            await asyncio.sleep(self._every_s)

    def ended(
        self, job: str, exit_status: ExitStatus, *, status: Status | None = None, error: str | None = None
    ) -> None:
        """A job has come to its end."""
        del error
        if status is not None:
            self._jobs[job] = status
        self._ends[job] = exit_status
        self._write()

    # -- what prometheus_client asks of a collector

    def describe(self) -> "tuple[Metric, ...]":
        """Nothing: registering calls it, and there is nothing to name twice."""
        return ()

    def collect(self) -> "Iterator[Metric]":
        """All figures, in a scrape's thread."""
        statuses = list(self._jobs.values())
        yield from self._counts(statuses)
        yield from _lanes(statuses)
        yield from _usage(statuses)
        yield from self._ended()

    def _counts(self, statuses: "list[Status]") -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - an extra

        items = GaugeMetricFamily("batchrunner_items", "Items of the job by where they stand.", labels=("job", "state"))
        sends = CounterMetricFamily(
            "batchrunner_sends", "Requests over all runs of the job, by what came of them.", labels=("job", "outcome")
        )
        for status in statuses:
            for state in _STATES:
                items.add_metric((status.job, state), getattr(status.items, state))
            for outcome, number in self._outcomes(status):
                sends.add_metric((status.job, outcome), number)
        yield from (items, sends)

    def _ended(self) -> "Iterator[Metric]":
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily  # noqa: PLC0415 - an extra

        ends = GaugeMetricFamily("batchrunner_exit_status", "Exit status of a run that has ended.", labels=("job",))
        for job, exit_status in list(self._ends.items()):
            ends.add_metric((job,), int(exit_status))
        commits = HistogramMetricFamily("batchrunner_ledger_commit_seconds", "Time of a sync of the ledger's file.")
        buckets, total_s = LEDGER_COMMITS.buckets()
        commits.add_metric((), [("+Inf" if edge is None else str(edge), count) for edge, count in buckets], total_s)
        yield from (ends, commits)

    def _outcomes(self, status: Status) -> Iterator[tuple[str, int]]:
        """They only grow, whenever they are looked at: what is in flight is none of them yet."""
        sent = status.sends
        flying = sum(lane.in_flight or 0 for lane in status.lanes)
        answered = sent.total - sent.refused - sent.ambiguous - sent.unknown - flying
        for outcome, number in (
            ("answered", answered),
            ("refused", sent.refused),
            ("ambiguous", sent.ambiguous),
            ("unknown", sent.unknown),
        ):
            key = status.job, outcome
            self._sends[key] = max(self._sends.get(key, 0), number)
            yield outcome, self._sends[key]

    # -- the file

    def _begin_file(self, file: str) -> None:
        problem: str | None = None
        path = Path(file)
        if path.name in _NAMES_OF_A_RUN or _holds_something_else(path):
            problem = "is no file of metrics; nothing is written over it"
        else:
            try:
                self._write_whole(file)
            except OSError as error:
                problem = f"cannot be written: {error.strerror or error}"
        if problem is not None:
            hint = "choose another path; node_exporter reads names that end with .prom"
            raise JobMistakesError((Mistake(file="--metrics-file", problem=f"{file} {problem}", hint=hint),))

    def _write(self) -> None:
        """A file that cannot be written any more is told once; the run continues."""
        with self._writing:
            if self._file is None:
                return
            try:
                self._write_whole(self._file)
            except OSError as error:
                self._file = None
                print_message(f"--metrics-file: no more figures are written: {error}; the run continues")

    def _write_whole(self, file: str) -> None:
        from prometheus_client import write_to_textfile  # noqa: PLC0415 - an extra

        write_to_textfile(file, self.registry)  # a file of its own that takes the name: nobody reads half of one


def _lanes(statuses: list[Status]) -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - an extra

    labels = ("job", "account", "model")
    parked = GaugeMetricFamily(
        "batchrunner_lane_parked", "1 while the lane sends nothing, and why.", labels=(*labels, "reason")
    )
    allowed = GaugeMetricFamily("batchrunner_lane_concurrency", "Requests allowed at a time.", labels=labels)
    flying = GaugeMetricFamily("batchrunner_lane_in_flight", "Requests under way.", labels=labels)
    for job, lane in ((status.job, lane) for status in statuses for lane in status.lanes):
        name = (job, lane.account, lane.model)
        if lane.activity in {"parked", "paused", "closed"}:
            parked.add_metric((*name, str(lane.kind or lane.activity)), 1)
        if lane.concurrency is not None:
            allowed.add_metric(name, lane.concurrency)
        if lane.in_flight is not None:
            flying.add_metric(name, lane.in_flight)
    yield from (parked, allowed, flying)


def _usage(statuses: list[Status]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - an extra

    tokens = CounterMetricFamily(
        "batchrunner_tokens", "Tokens that servers reported, over all runs.", labels=("job", "dir")
    )
    cost = CounterMetricFamily(
        "batchrunner_cost", "Money by the job's prices, over all runs.", labels=("job", "currency")
    )
    for status in statuses:
        for direction, count in (("input", status.usage.input_tokens), ("output", status.usage.output_tokens)):
            if count is not None:
                tokens.add_metric((status.job, direction), count)
        for line in status.budget:
            if line.unit == "money":
                cost.add_metric((status.job, line.currency or ""), line.spent)
    yield from (tokens, cost)


def _holds_something_else(path: Path) -> bool:
    """Whether a file stands there whose first line is no line of metrics; what cannot be read is told when written."""
    with suppress(OSError, ValueError):
        if not stat.S_ISREG(path.stat().st_mode):
            return True
        with path.open("rb") as file:
            first = file.read(64)
        return bool(first) and not first.startswith((b"# HELP batchrunner_", b"# TYPE batchrunner_"))
    return False


def _serve(address: str, registry: "CollectorRegistry") -> "WSGIServer":
    from prometheus_client import start_http_server  # noqa: PLC0415 - an extra

    found = _ADDRESS.fullmatch(address.strip())
    if found is None or int(found["port"]) > _MOST_PORT:
        problem = f"{address} is no address"
        raise JobMistakesError((Mistake(key="--metrics", problem=problem, expected="HOST:PORT, like 127.0.0.1:9464"),))
    host = (found["host"] or "127.0.0.1").strip("[]")
    try:
        server, _ = start_http_server(int(found["port"]), host, registry)
    except OSError as error:
        problem = f"cannot listen at {address}: {error.strerror or error}"
        raise JobMistakesError((Mistake(key="--metrics", problem=problem, hint="choose another port"),)) from error
    print_message(f"metrics: http://{found['host'] or host}:{server.server_port}/metrics")
    return server
