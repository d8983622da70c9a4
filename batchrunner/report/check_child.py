"""Runs in a process of its own: a person's check functions, and patterns that might never end. Imports nothing of ours.

Takes a JSON object a line on stdin and answers with one on stdout: `{"load": PATH}`, with `"function": NAME` to know
whether it has one, then `{"python": PATH, "function": NAME, "row": {...}}`, or `{"pattern": TEXT, "text": TEXT}`; the
answer is `{"value": ...}` or `{"error": TEXT}`. What a function prints goes to stderr. An empty line says that it is
ready. A check that takes longer than its `limit_s` ends the process, whatever has become of the one that asked.
"""

import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_loaded: dict[str, ModuleType] = {}


def load(path: str) -> None:
    """Load a file of functions, once."""
    if path not in _loaded:
        spec = importlib.util.spec_from_file_location(f"checks_{len(_loaded)}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        sys.path.insert(0, str(Path(path).parent))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _loaded[path] = module


def answer_to(asked: dict[str, Any]) -> object:
    """What the request comes to."""
    if "pattern" in asked:
        found = re.search(asked["pattern"], asked["text"])
        return None if found is None else [found.group(), *found.groups()]
    if "load" in asked:
        load(asked["load"])
        if "function" in asked and not callable(getattr(_loaded[asked["load"]], asked["function"], None)):
            raise LookupError(f"there is no function `{asked['function']}`")
        return None
    function: Callable[[object], object] = getattr(_loaded[asked["python"]], asked["function"])
    return function(asked["row"])


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answers.write("\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        _end_after(asked["limit_s"])
        try:
            said = json.dumps({"value": answer_to(asked)})
        except BaseException as error:  # noqa: BLE001 - whatever the person's code raises is the check's error
            said = json.dumps({"error": f"{type(error).__name__}: {error}"})
        _end_after(0)
        try:
            answers.write(said + "\n")
            answers.flush()
        except BrokenPipeError:  # whoever asked has ended meanwhile
            os._exit(0)


def _end_after(seconds: float) -> None:
    """Nothing catches the signal, so that it also ends a pattern that never returns to Python. 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
