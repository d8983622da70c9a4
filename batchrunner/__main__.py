"""The program's front door: `batchrunner …` and `python -m batchrunner …`."""

import sys

from batchrunner.cli.main import main as run_command_line


def main() -> int:
    """Run the command line of this process; the value is its exit status."""
    return run_command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
