"""`batchrunner verify DIR`: is everything that was recorded there, and as it was? Changes nothing in DIR."""

from typing import Annotated

import typer

import batchrunner
from batchrunner.cli.options import AsJson, RunFolder
from batchrunner.cli.output import emit, say
from batchrunner.core.errors import ExitStatus
from batchrunner.report.wording import audit_words

Salvage = Annotated[
    str | None, typer.Option("--salvage", metavar="NEW", help="Copy everything sound into this new directory.")
]


def verify(*, folder: RunFolder, salvage: Salvage = None, as_json: AsJson = False) -> ExitStatus:
    r"""Audit a run's directory: checksums, rows, pictures, strays.

    \b
    Reads everything and changes nothing; exit status 4 when something that was
    recorded is lost or changed. What is sound can be saved from a damaged one:
      batchrunner verify outputs/cats
      batchrunner verify outputs/cats --salvage outputs/cats-saved
    """
    audit = batchrunner.verify(folder, salvage=salvage)
    if as_json:
        emit(audit)
    else:
        say(audit_words(audit))
    return audit.exit_status
