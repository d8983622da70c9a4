"""`batchrunner status DIR`: where a run stands, from its ledger, also while another process runs it."""

import batchrunner
from batchrunner.cli.options import AsJson, RunFolder
from batchrunner.cli.output import emit, say
from batchrunner.core.errors import ExitStatus
from batchrunner.report.summary import summary


def status(*, folder: RunFolder, as_json: AsJson = False) -> ExitStatus:
    r"""Say where a run stands: done, failed, waiting and why.

    \b
    Reads the run's ledger; may be asked while another process runs the job:
      batchrunner status outputs/cats
      batchrunner status outputs/cats --json
    """
    standing = batchrunner.status(folder)
    if as_json:
        emit(standing)
    else:
        say(summary(standing))
    return ExitStatus.DONE
