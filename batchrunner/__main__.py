"""The program's entry point: `batchrunner …` and `python -m batchrunner …`."""

import sys


def main() -> int:
    """Run the command line of this process; the value is its exit status."""
    try:
        from batchrunner.cli.interruption import install  # noqa: PLC0415 - Ctrl-C may come while it is read

        install()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything began\n")
        return 130
    from batchrunner.cli.main import main as run_command_line  # noqa: PLC0415 - signals may come while it is read

    return run_command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
