"""Hands out the names of one pass: ids of prompts and items, stems of files, each unique in the job."""

from collections.abc import Callable, Sequence

from batchrunner.core.item import auto_id, auto_ids, fold, safe_stem
from batchrunner.prompts.seen import Seen

ID_LIMIT_CHARS = 1_000
"""An id stands in every line of the ledger, which has a cap of its own."""
_LAST_NOTE = 2**32 - 1


class Names:
    """Unique names, the same in every pass over the same rows."""

    def __init__(self, *, shares_ids: bool) -> None:
        self._prompts = Seen()
        self._items = self._prompts if shares_ids else Seen()
        self._shares_ids = shares_ids
        self._stems = Seen()

    def __repr__(self) -> str:
        return f"<Names of {len(self._prompts)} prompts, {len(self._items)} items, {len(self._stems)} files>"

    def given(self, name: str, *, line: int | None) -> int | None:
        """Take a given prompt id: None, or the line (0 if unknown) where it was given before."""
        return self._prompts.claim(name, min(line or 0, _LAST_NOTE))

    def automatic(self, text: str) -> str:
        """The id of a prompt that has none: from its text, a repeat with `-2`."""
        base = auto_id(text)
        return base if self._prompts.claim(base, 1) is None else self._numbered(self._prompts, base)

    def automatic_all(self, texts: Sequence[str]) -> list[str]:
        """As `automatic` of each, in order."""
        names = auto_ids(texts)
        place = -1
        while (place := self._prompts.claim_all(names, place + 1, 1)) < len(names):
            names[place] = self._numbered(self._prompts, names[place])
        return names

    def item(self, prompt_id: str, suffix: str) -> str:
        """The id of an item of that prompt; told apart by a number if another one has it by chance."""
        if self._shares_ids:
            return prompt_id
        return self._numbered(self._items, prompt_id + suffix)

    def stem(self, name: str, key: Callable[[], str]) -> str:
        """A file name that no other item of the job has, on any file system; the key tells twins apart."""
        stem = safe_stem(name)
        if self._stems.claim(fold(stem), 1) is None:
            return stem
        suffix = f"-{key()[:8]}"
        first = fold(safe_stem(name, suffix=suffix))
        times = self._stems.claim(first, 1)
        if times is None:
            return safe_stem(name, suffix=suffix)
        while True:
            times += 1
            stem = safe_stem(name, suffix=f"{suffix}-{times}")
            if self._stems.claim(fold(stem), 1) is None:
                self._stems.renote(first, times)
                return stem

    @staticmethod
    def _numbered(seen: Seen, base: str) -> str:
        times = seen.claim(base, 1)
        if times is None:
            return base
        while True:
            times += 1
            name = f"{base}-{times}"
            if seen.claim(name, 1) is None:
                seen.renote(base, times)
                return name
