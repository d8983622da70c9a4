"""`batchrunner schema`: the job file's JSON Schema on stdout, for completion in editors."""

import json

import batchrunner
from batchrunner.cli.options import AsJson
from batchrunner.cli.output import emit, emit_text
from batchrunner.core.errors import ExitStatus
from batchrunner.report.summary import jsonable


def schema(*, as_json: AsJson = False) -> ExitStatus:
    r"""Print the job file's JSON Schema, for completion in an editor.

    \b
    With the YAML extension of VS Code, for example:
      batchrunner schema > batchrunner.schema.json
    and as the first line of a job file:
      # yaml-language-server: $schema=batchrunner.schema.json
    """
    found = batchrunner.job_schema()
    if as_json:
        emit(found)
    else:
        emit_text(json.dumps(jsonable(found), indent=2))
    return ExitStatus.DONE
