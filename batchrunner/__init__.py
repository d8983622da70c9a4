"""Batchrunner sends the prompts of a YAML job file to a model and puts every answer on disk, each paid for once.

    import batchrunner

    job = batchrunner.load_job("jobs/cats.yaml")
    report = batchrunner.run_sync(job)              # or: await batchrunner.run(job)
    for row in batchrunner.results(report.status.dir):
        print(row["id"], row["output"])

The packages, from the top down; imports point down only:

    cli         the commands, and progress
    api         the functions behind the commands; those about scores are in `scores`
    page        report.html: the page of a run that opens in a browser
    wiring      builds the parts of a run and connects them
    report      what happened, for people          simulator   a simulated provider
    engine      where things happen in order: who may send when, attempts, remote tasks, what is written down
    spec        job file -> Job                    prompts     Job -> stream of items
    providers   the wire protocols, pure           stores      all that touches the disk
    transport   all that touches the network       exporters   formats that results are exported to
    evaluation  checks and statistics, pure
    core        frozen values and pure rules

The public names below are looked up at first use, so that `import batchrunner` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from batchrunner.core import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from batchrunner.api import (
        check,
        control,
        export,
        load_job,
        merge,
        plan,
        rehearse,
        results,
        run,
        run_sync,
        status,
        verify,
    )
    from batchrunner.core.control import ControlResult
    from batchrunner.core.errors import BatchrunnerError, CheckResult, ExitStatus, JobMistakesError, Mistake
    from batchrunner.core.exports import Exported
    from batchrunner.core.job import Job
    from batchrunner.core.plan import Plan
    from batchrunner.core.rehearsal_report import Rehearsal
    from batchrunner.core.status import Audit, PageWritten, Report, Status
    from batchrunner.page.report_file import write_page
    from batchrunner.scores import compare, score
    from batchrunner.simulator import run_server
    from batchrunner.spec import job_schema, starter_job

__all__ = [
    "Audit",
    "BatchrunnerError",
    "CheckResult",
    "ControlResult",
    "ExitStatus",
    "Exported",
    "Job",
    "JobMistakesError",
    "Mistake",
    "PageWritten",
    "Plan",
    "Rehearsal",
    "Report",
    "Status",
    "__version__",
    "check",
    "compare",
    "control",
    "export",
    "job_schema",
    "load_job",
    "merge",
    "plan",
    "rehearse",
    "results",
    "run",
    "run_server",
    "run_sync",
    "score",
    "starter_job",
    "status",
    "verify",
    "write_page",
]

_HOMES: dict[str, str] = {
    **dict.fromkeys(
        (
            "check",
            "control",
            "export",
            "load_job",
            "merge",
            "plan",
            "rehearse",
            "results",
            "run",
            "run_sync",
            "status",
            "verify",
        ),
        "batchrunner.api",
    ),
    **dict.fromkeys(
        ("BatchrunnerError", "CheckResult", "ExitStatus", "JobMistakesError", "Mistake"), "batchrunner.core.errors"
    ),
    "ControlResult": "batchrunner.core.control",
    **dict.fromkeys(("job_schema", "starter_job"), "batchrunner.spec"),
    "Report": "batchrunner.core.status",
    "Audit": "batchrunner.core.status",
    "Exported": "batchrunner.core.exports",
    "Job": "batchrunner.core.job",
    "PageWritten": "batchrunner.core.status",
    "Plan": "batchrunner.core.plan",
    "Rehearsal": "batchrunner.core.rehearsal_report",
    "Status": "batchrunner.core.status",
    "compare": "batchrunner.scores",
    "run_server": "batchrunner.simulator",
    "score": "batchrunner.scores",
    "write_page": "batchrunner.page.report_file",
}

if not TYPE_CHECKING:  # a checker shall see the imports above only, and report a name that is not among them

    def __getattr__(name: str) -> object:
        """A public name, imported from its module when it is first asked for."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'batchrunner' has no attribute {name!r}")
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names and what is already loaded."""
    return sorted({*globals(), *__all__})
