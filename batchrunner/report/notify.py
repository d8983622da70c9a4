"""`notify`: the person's own command, told how a run ended. No shell, no keys, half a minute at most.

It gets the closing JSON on its stdin and BATCHRUNNER_STATE in its environment, from which the variables of the
providers' keys are gone. What it prints is shown only when it fails. Its failure hurts nobody.
"""

import asyncio
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from batchrunner.core.job import PRESETS, Job
from batchrunner.core.status import Status
from batchrunner.report.json_values import jsonable
from batchrunner.report.plain import printable

TIME_LIMIT_S: Final = 30.0
_SHOWN_BYTES: Final = 2000
_SHOWN_CHARS: Final = 200


async def notify(job: Job, status: Status, *, time_limit_s: float = TIME_LIMIT_S) -> str | None:
    """Run the job's command, if it has one and no person interrupted the run; what went wrong, if anything."""
    if not job.notify or status.state == "interrupted":
        return None
    text = json.dumps(jsonable(status), allow_nan=False) + "\n"
    environment = told_environment(os.environ, keys=job.provider.key_env, state=status.state)
    trouble = await asyncio.get_running_loop().run_in_executor(
        None, _run, job.notify, text.encode(), environment, time_limit_s
    )
    return f"notify: {printable(job.notify[0])} {trouble}" if trouble else None


def told_environment(environ: Mapping[str, str], *, keys: Iterable[str], state: str) -> dict[str, str]:
    """The environment without any provider's key, and with the run's state."""
    secrets = {*keys, *(preset.key_env for preset in PRESETS.values())}
    kept = {name: value for name, value in environ.items() if name not in secrets}
    return {**kept, "BATCHRUNNER_STATE": state}


def _run(command: tuple[str, ...], text: bytes, environment: dict[str, str], time_limit_s: float) -> str | None:
    """In a thread. Files instead of pipes: nobody has to read, and a grandchild that lives on holds nothing open."""
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
        told.write(text)
        told.seek(0)
        try:
            process = subprocess.Popen(  # noqa: S603 - the person's own command, without a shell
                command, stdin=told, stdout=said, stderr=said, env=environment, start_new_session=True
            )
        except (OSError, ValueError) as error:
            return f"cannot be run: {getattr(error, 'strerror', None) or error}"
        try:
            ended = process.wait(time_limit_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"was ended: it took more than {time_limit_s:g} s"
        if ended == 0:
            return None
        said.seek(max(0, said.seek(0, os.SEEK_END) - _SHOWN_BYTES))
        lines = said.read().decode(errors="replace").strip().splitlines()
        last = f": {printable(lines[-1], most=_SHOWN_CHARS)}" if lines else ""
        return f"ended with status {ended}{last}"
