"""A step in a process of its own that ends for good at a call to the disk, as after `kill -9` at that moment."""

import os
from collections.abc import Callable
from typing import Any, Final

from batchrunner.stores.files import DISK

_CALLS: Final = ("open_new", "write", "fsync", "rename", "fsync_folder", "unlink", "make_folder")
_KILLED: Final = 9


def ends_at_call(step: Callable[[], object], call: int) -> bool:
    """Do the step until this call to the disk, counted from 0; False when it came to its end before."""
    pid = os.fork()
    if pid == 0:
        left = [call]

        def counted(method: Any) -> Any:
            def one(*arguments: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(_KILLED)
                return method(*arguments)

            return one

        for name in _CALLS:
            setattr(type(DISK), name, staticmethod(counted(getattr(DISK, name))))
        try:
            step()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == _KILLED
