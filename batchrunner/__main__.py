"""The program's front door: `batchrunner …` and `python -m batchrunner …`."""

import sys


def main() -> int:
    """Run the command line of this process; the value is its exit status."""
    try:
        from batchrunner.cli.main import main as run_command_line  # noqa: PLC0415 - Ctrl-C may come while it is read
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything began\n")
        return 130
    return run_command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
