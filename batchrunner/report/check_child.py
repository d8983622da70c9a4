"""Runs in a process of its own: a person's check functions, and patterns that might never end. Imports nothing of ours.

Takes a JSON object a line on stdin and answers with one on stdout: `{"python": PATH, "function": NAME, "row": {...}}`
or `{"pattern": TEXT, "text": TEXT}`; the answer is `{"value": ...}` or `{"error": TEXT}`. What a function prints goes
to stderr.
"""

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

_loaded: dict[str, ModuleType] = {}


def function_of(path: str, name: str) -> Callable[[object], object]:
    """The function of a file, which is loaded once."""
    if path not in _loaded:
        spec = importlib.util.spec_from_file_location(f"checks_{len(_loaded)}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        sys.path.insert(0, str(Path(path).parent))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _loaded[path] = module
    function: Callable[[object], object] = getattr(_loaded[path], name)
    return function


def answer_to(asked: dict[str, str]) -> object:
    """What the request comes to."""
    if "pattern" in asked:
        found = re.search(asked["pattern"], asked["text"])
        return None if found is None else [found.group(), *found.groups()]
    return function_of(asked["python"], asked["function"])(asked["row"])


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            said = json.dumps({"value": answer_to(json.loads(line))})
        except BaseException as error:  # noqa: BLE001 - whatever the person's code raises is the check's error
            said = json.dumps({"error": f"{type(error).__name__}: {error}"})
        answers.write(said + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
