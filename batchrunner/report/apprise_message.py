"""A process that sends one message through Apprise: `{"urls": …, "title": …, "body": …}` on stdin.

Addresses hold tokens, so nothing of them is printed. Not imported by the program.
"""

import json
import logging
import sys

_MISSING = "is not installed: pip install apprise"


def main() -> str | None:
    """What went wrong, without any address."""
    message = json.load(sys.stdin)
    if not message["urls"].strip():
        return "its environment variable is not set"
    try:
        import apprise  # noqa: PLC0415 - an extra that not everyone has
    except ImportError:
        return _MISSING
    logging.disable()  # its words may hold an address
    sender = apprise.Apprise()
    wrong = not sender.add(message["urls"])
    if not len(sender):
        return "knows no address in the variable; see its list of services"
    if not sender.notify(title=message["title"], body=message["body"], body_format=apprise.NotifyFormat.TEXT):
        return "could not send to one of the addresses, or several"
    return "does not know one of the addresses" if wrong else None


if __name__ == "__main__":
    sys.exit(main())
