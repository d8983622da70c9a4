"""What decoding bytes of the disk can raise: msgspec's own errors, and two of Python's that it lets through."""

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""No JSON or another shape; a text that is no UTF-8; nested deeper than the stack."""
