"""Chooses the part of a job that a run is about: by ids, by where items stand, by conditions over rows, by marks.

Rows may be those of another run, whose items have other ids: a row stands for the items of its own id, else for those
of its prompt and model, else (ids made from another text) for those that were made from the same values.
"""

import asyncio
import difflib
import json
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from batchrunner.core.errors import JobMistakesError, Mistake, PartMistakesError, WrongDirectoryError
from batchrunner.core.item import Item
from batchrunner.core.job import Job, Json
from batchrunner.core.lifecycle import ItemState
from batchrunner.core.part import ChosenPart, PartOptions, PartState, RunRequest
from batchrunner.core.state import LedgerState
from batchrunner.core.values import dataclass, field, replace
from batchrunner.prompts import JobItems
from batchrunner.prompts.render import TemplateFault
from batchrunner.prompts.row_condition import RowCondition, row_values
from batchrunner.report.wording import count, printable
from batchrunner.stores.files import RESULTS
from batchrunner.stores.results import ResultsFile
from batchrunner.stores.row_codec import iter_failures, iter_results
from batchrunner.stores.run_file import run_file_or_refuse
from batchrunner.stores.score_file import ScoreFile

_WITHOUT_ROWS: Final = frozenset({"held", "pending"})
_MOST_NAMED: Final = 5

Row = Mapping[str, Json]


async def part_of(
    job: Job, items: JobItems, options: PartOptions, *, state: LedgerState, limit: int | None = None
) -> ChosenPart:
    """The part that the options choose, of the job's items as they are now; with `limit`, the first so many of them.

    Raises:
        JobMistakesError: options that do not fit together, an id that no item has, a condition that breaks, rows none
            of which is of this job.
        WrongDirectoryError, StoreBrokenError: the rows cannot be read.
    """
    _require_sense(options)
    lists = await asyncio.to_thread(_lists_of, job, options)
    chosen = _Chosen(job, options, lists, state)
    async for batch in items.batches():
        for item in batch:
            chosen.look_at(item)
    if chosen.unknown:
        raise JobMistakesError(await _unknown(items, chosen.unknown))
    if chosen.not_yet:
        raise JobMistakesError(tuple(_not_yet(*each) for each in chosen.not_yet.items()))
    return await asyncio.to_thread(chosen.result, Path(job.output.dir), limit)


async def on_a_part(
    job: Job,
    items: JobItems,
    run_request: RunRequest,
    options: PartOptions,
    *,
    state: LedgerState,
    results: ResultsFile,
) -> RunRequest:
    """The request for the part that the options choose; rows of others stay where they are. Raises as `part_of`."""
    if not options.chooses:
        return run_request
    try:
        part = await part_of(job, items, options, state=state, limit=run_request.limit)
    except JobMistakesError as error:
        raise PartMistakesError(error.mistakes) from error
    results.stays = lambda key, *ended: not part.takes_place_of(key, state, *ended)
    return replace(run_request, part=part, limit=None)


def _require_sense(options: PartOptions) -> None:
    problem = None
    if options.mark and options.marks is None:
        problem = Mistake(
            key="--mark", problem="chooses among the marks of a file, and no file is given", hint="--marks"
        )
    elif options.rows_from is not None and not (options.where or options.states or options.marks):
        hint = "add --where, --state or --marks"
        problem = Mistake(key="--from", problem="names a run, but nothing chooses among its rows", hint=hint)
    elif (bare := _WITHOUT_ROWS & set(options.states)) and (options.where or options.rows_from is not None):
        said = f"items that are {' or '.join(sorted(bare))} have no row to look at with --where or --from"
        problem = Mistake(key="--state", problem=said, expected="done or failed")
    if problem is not None:
        raise JobMistakesError((problem,))


# -- rows, and the items that they stand for


@dataclass(slots=True)
class _Wanted:
    """A row that was chosen."""

    name: str
    key: bytes
    places: tuple[Hashable, ...]
    """What its items have, the closest match first."""
    found: dict[int, list[int]] = field(default_factory=dict)
    """By the place in `places`: the items."""


class _Rows:
    """Chosen rows, and which items of the job they stand for."""

    def __init__(self, what: str, models: frozenset[str]) -> None:
        self.what = what
        """For people: where the rows are from and how they were chosen."""
        self._models = models
        self.states: frozenset[PartState] = frozenset()
        """Items that stand so by the ledger are chosen, too."""
        self.unscored = 0
        """Answers that were not looked at: the condition is about scores, and they have none yet."""
        self.wanted: list[_Wanted] = []
        self._at: defaultdict[Hashable, list[tuple[_Wanted, int]]] = defaultdict(list)

    def add(self, row: Row) -> None:
        """One more row, or what is known of it."""
        model, prompt_id, values = row.get("model"), row.get("prompt_id"), _values_key(row.get("vars"))
        places: list[Hashable] = [("id", row.get("id"))]
        if model in self._models:
            places += [("prompt", prompt_id, model)] if prompt_id else []
            places += [("values", values, model)] if values else []
        else:  # the job asks other models: they are asked all of it
            places += [("prompt", prompt_id)] if prompt_id else []
            places += [("values", values)] if values else []
        one = _Wanted(str(row.get("id")), _key_of(row), tuple(places))
        self.wanted.append(one)
        for rank, place in enumerate(places):
            self._at[place].append((one, rank))

    def look_at(self, item: Item, number: int) -> bool:
        """Take an item of the job; whether a row may stand for it."""
        found = False
        places: list[Hashable] = [("id", item.id), ("prompt", item.prompt_id, item.model), ("prompt", item.prompt_id)]
        if item.vars and self._at:
            values = _values_key(item.vars)
            places += [("values", values, item.model), ("values", values)]
        for place in places:
            for one, rank in self._at.get(place, ()):
                one.found.setdefault(rank, []).append(number)
                found = True
        return found

    def items(self) -> dict[int, list[_Wanted]]:
        """The items that the rows stand for, each with its rows."""
        chosen: dict[int, list[_Wanted]] = {}
        for one in self.wanted:
            for number in one.found[min(one.found)] if one.found else ():
                chosen.setdefault(number, []).append(one)
        return chosen


def _values_key(values: Json) -> str:
    """Equal for equal values; empty where there are none."""
    return json.dumps(values, sort_keys=True, ensure_ascii=False) if isinstance(values, dict) and values else ""


def _key_of(row: Row) -> bytes:
    try:
        return bytes.fromhex(str(row.get("key")))
    except ValueError:  # edited by hand
        return b""


def _lists_of(job: Job, options: PartOptions) -> list[_Rows]:
    """The lists that an item has to be in, each. Blocks."""
    folder = Path(options.rows_from or job.output.dir)
    if options.rows_from is not None and run_file_or_refuse(folder).simulated and not job.simulated:
        raise WrongDirectoryError(f"{folder}: is a simulated run, whose answers say nothing about a real one")
    models, lists = frozenset(job.models), list[_Rows]()
    if options.where is not None or options.states:
        rows = _rows_where(folder, options.where, options.states or ("done",), models)
        if options.where is None and options.rows_from is None:
            rows.states = frozenset(options.states)
        lists.append(rows)
    if options.marks is not None:
        lists.append(_rows_marked(folder, Path(options.marks), options.mark, models))
    return lists


def _rows_where(folder: Path, where: str | None, states: Sequence[PartState], models: frozenset[str]) -> _Rows:
    """The rows of items that stand so, as far as the condition is true of them."""
    try:
        condition = None if where is None else RowCondition(where)
    except TemplateFault as fault:
        raise JobMistakesError((Mistake(key="--where", problem=fault.problem),)) from fault
    if where is not None and not (folder / RESULTS).exists():
        hint = "name the run whose rows are meant: --from DIR"
        raise JobMistakesError((Mistake(key="--where", problem=f"there are no rows in {folder}", hint=hint),))
    words = f"that are {' or '.join(states)} in {folder}"
    rows = _Rows(words if where is None else f"{words} and for which {printable(where)} is true", models)
    with ScoreFile(folder) as scores:
        if condition is not None and condition.needs_scores:
            scores.require("--where")
        for row in chain.from_iterable(_rows_of(folder, state) for state in states):
            score = scores.of(row)
            if condition is not None and condition.needs_scores and score is None and "output" in row:
                rows.unscored += 1
                continue
            try:
                if condition is None or condition.holds(row_values(row, score)):
                    rows.add(row)
            except TemplateFault as fault:
                said = f"row {printable(str(row.get('id')))} of {folder}: {fault.problem}"
                hint = "`batchrunner explain` has the names; `NAME is defined and …` skips rows without it"
                raise JobMistakesError((Mistake(key="--where", problem=said, hint=hint),)) from fault
    return rows


def _rows_of(folder: Path, state: str) -> Iterator[Row]:
    """Rows of the run that stand so: of an item that failed again, the last one alone matters, and they are alike."""
    if state == "done":
        yield from iter_results(folder)
    if state != "failed":
        return
    answered = {_key_of(row) for row in iter_results(folder)}  # failed first, and succeeded when it was tried again
    yield from (row for row in iter_failures(folder) if _key_of(row) not in answered)


def _rows_marked(folder: Path, path: Path, marks: tuple[str, ...], models: frozenset[str]) -> _Rows:
    """The rows that a person marked so, in a file that the page has exported."""
    wanted = {_key_of(mark): mark for mark in marks_in(path, marks)}
    rows = _Rows(f"with {'mark ' + ' or '.join(marks) if marks else 'a mark'} in {path}", models)
    for row in (*iter_results(folder), *iter_failures(folder)) if wanted else ():
        if (key := _key_of(row)) in wanted:
            rows.add(row)
            del wanted[key]
    for mark in wanted.values():  # rows that have gone since: their ids are known
        rows.add(mark)
    return rows


def marks_in(path: Path, wanted: Sequence[str]) -> Iterator[Row]:
    """The lines of a file of marks, as the page gives it, with one of these marks; empty: with any.

    Raises:
        JobMistakesError: it cannot be read, or a line is no mark.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise JobMistakesError(
            (Mistake(file=str(path), key="--marks", problem=f"cannot be read: {error.strerror}"),)
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or "mark" not in found or not isinstance(found.get("id"), str):
            expected = (
                'lines like {"id": "tides", "key": "8c15…", "mark": "4"}, from the page\'s "Download marks.jsonl"'
            )
            mistake = Mistake(file=str(path), line=number, key="--marks", problem="is not a mark", expected=expected)
            raise JobMistakesError((mistake,))
        if found["mark"] is not None and (not wanted or str(found["mark"]) in wanted):
            yield found


# -- the items


class _Chosen:
    """Looks at every item of the job once; knows which of them are chosen, and by which rows."""

    def __init__(self, job: Job, options: PartOptions, lists: list[_Rows], state: LedgerState) -> None:
        self._only = frozenset(options.only)
        self.unknown = set(options.only)
        """Ids that no item has, so far."""
        self.not_yet: dict[str, str] = {}
        """Ids of items of next models whose turn has not come, and those of the first models' items."""
        self._lists = lists
        self._by_ledger = [set[int]() for _ in lists]
        self._state = state
        self._hold = job.on_ambiguous == "hold"
        self._items: dict[int, tuple[str, bytes]] = {}
        """Id and key of those that may be chosen, by number."""
        self._total = 0

    def look_at(self, item: Item) -> None:
        """The next item of the job."""
        self._total += 1
        names = {item.id, item.prompt_id, item.fallback_of or item.id} & self._only
        self.unknown -= names
        if not self._state.is_current(item):
            if item.id in names and item.fallback_of and not self._state.is_replaced(item.instead_of):
                self.not_yet[item.id] = item.fallback_of
            return
        if self._only and not names:
            return
        key, may_be = bytes.fromhex(item.key), not self._lists
        stands = self._state_of(key) if any(rows.states for rows in self._lists) else None
        for rows, by_ledger in zip(self._lists, self._by_ledger, strict=True):
            may_be |= rows.look_at(item, self._total)
            if stands in rows.states:
                by_ledger.add(self._total)
                may_be = True
        if may_be:
            self._items[self._total] = item.id, key

    def _state_of(self, key: bytes) -> PartState:
        if self._state.waits_for_a_person(key, hold=self._hold):
            return "held"
        match self._state.item_state(key):
            case ItemState.DONE:
                return "done"
            case ItemState.FAILED:
                return "failed"
            case _:
                return "pending"

    def result(self, folder: Path, limit: int | None) -> ChosenPart:
        """The part. Reads the rows in the job's own directory: blocks. Raises as `part_of`."""
        chosen, replaces = set(self._items), defaultdict[bytes, set[bytes]](set)
        notes = list[str]()
        for rows, by_ledger in zip(self._lists, self._by_ledger, strict=True):
            stood_for = rows.items()
            chosen &= stood_for.keys() | by_ledger
            notes += [_rows_note(rows, bool(stood_for)), _unscored_words(rows)]
            for number, wanted in stood_for.items():
                for one in wanted:
                    replaces[one.key].add(self._items[number][1])
        numbers = sorted(chosen)[:limit]
        keys = {self._items[number][1] for number in numbers}
        by_id = {self._items[number][0]: self._items[number][1] for number in numbers}
        for row in (*iter_results(folder), *iter_failures(folder)):
            if (new := by_id.get(str(row.get("id")))) is not None:
                replaces[_key_of(row)].add(new)
        notes.append(f"a part of the job: {len(numbers):,} of {count(self._total, 'item')}; no other is sent or moved")
        return ChosenPart(
            keys=frozenset(keys),
            replaces={old: frozenset(new & keys) for old, new in replaces.items() if old not in keys and new & keys},
            notes=tuple(filter(None, notes)),
        )


def _unscored_words(rows: _Rows) -> str:
    number = rows.unscored
    return f"{count(number, 'answer')} without scores left out; `batchrunner score DIR` scores them" if number else ""


def _rows_note(rows: _Rows, is_of_job: bool) -> str:  # noqa: FBT001 - the one thing that matters
    """What was found; raises JobMistakesError where none of the rows is of this job."""
    strangers = [one.name for one in rows.wanted if not one.found]
    named = printable(", ".join(strangers[:_MOST_NAMED])) + (" …" if len(strangers) > _MOST_NAMED else "")
    if strangers and not is_of_job:
        problem = f"none of the {count(len(rows.wanted), 'row')} {rows.what} belongs to an item of this job: {named}"
        hint = "items are found by their ids, else by equal values of the source's columns"
        raise JobMistakesError((Mistake(key="--from", problem=problem, hint=hint),))
    if strangers:
        return f"{len(strangers):,} of {count(len(rows.wanted), 'row')} {rows.what} belong to no item: {named}"
    return f"{count(len(rows.wanted), 'row')} {rows.what}"


def _not_yet(name: str, first: str) -> Mistake:
    """What is wrong with asking for the item of a next model."""
    return Mistake(
        key="--only",
        problem=f"the item `{printable(name)}` is asked only if the model before it gave no answer: not so far",
        hint=f"name the first model's item, `{printable(first)}`: the run goes on to the next model if it has to",
    )


async def _unknown(items: JobItems, wanted: set[str]) -> tuple[Mistake, ...]:
    """Ids that no item has, each with the one that comes closest."""
    closest = dict.fromkeys(sorted(wanted)[:_MOST_NAMED], "")
    async for batch in items.batches():
        names = list({name for item in batch for name in (item.id, item.prompt_id)})
        for name, best in closest.items():
            closest[name] = next(iter(difflib.get_close_matches(name, [*names, best], n=1)), best)
    more = f" (and {len(wanted) - _MOST_NAMED:,} more)" if len(wanted) > _MOST_NAMED else ""
    return tuple(
        Mistake(
            key="--only",
            problem=f"no item or prompt has the id `{printable(name)}`{more}",
            hint=f"did you mean `{printable(best)}`?" if best else "results.jsonl has the ids",
        )
        for name, best in closest.items()
    )
