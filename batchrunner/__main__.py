"""The program's entry point: `batchrunner …` and `python -m batchrunner …`."""

import gc
import os
import sys

_STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))


def main() -> int:
    """Run the command line of this process; the value is its exit status."""
    _open_missing_streams()
    # Nearly nothing that is made for an item is part of a cycle. With CPython's own thresholds the collector takes 5 to
    # 10 % of a run's CPU, and stops the loop for 60 to 90 ms when it walks over everything.
    gc.set_threshold(20_000, 20, 50)
    try:
        from batchrunner.cli.interruption import install  # noqa: PLC0415 - Ctrl-C may come while it is read

        install()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything began\n")
        return 130
    from batchrunner.cli.main import main as run_command_line  # noqa: PLC0415 - signals may come while it is read

    return run_command_line(sys.argv[1:])


def _open_missing_streams() -> None:
    """Streams that the parent has closed lead nowhere, or the run's files and sockets would get their numbers."""
    for descriptor, name, mode in _STREAMS:
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


if __name__ == "__main__":
    sys.exit(main())
