"""Rows × matrix × models × replicas, in that order, as items with their ids, keys and file names.

Every pass makes the same items, whatever models are asked for: names are handed out for all of them.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import repeat
from pathlib import PurePosixPath

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.item import InputPicture, Item, digest, schema_sha256
from batchrunner.core.job import Job, Json
from batchrunner.core.picture_rules import params_mistakes
from batchrunner.core.upstream import RunRows
from batchrunner.core.values import dataclass, replace
from batchrunner.prompts.ids import KeyMaker, Names, item_key
from batchrunner.prompts.plain import PlainItems
from batchrunner.prompts.prompt_rows import Findings, PromptRow, Prompts, prompt_rows
from batchrunner.prompts.render import TemplateFault
from batchrunner.prompts.row_to_prompt import Filled, Filler, UnusableRowError
from batchrunner.prompts.sources.base import BATCH_ROWS
from batchrunner.prompts.templates import BODY_FILE, JobTemplates, NamedTemplate, named, unfillable
from batchrunner.prompts.variants import Combination, Labelled, Matrix, ParamSlotFault, models_of, replica_suffix

_FIXED_VERSIONS = 10_000
"""Versions of a prompt whose parameters and beginnings of keys are kept."""
_BATCH_ITEMS = BATCH_ROWS
"""Items after which others on the loop get a turn: a list of prompts waits for nothing by itself."""

_NO_VARIABLES: dict[str, Json] = {}

PROGRESS_EVERY = 20_000
"""Items of a pass after which its progress is reported."""


@dataclass(slots=True)
class _Version:
    """What a prompt's item is besides its text."""

    suffix: str
    model: str
    params: dict[str, Json]
    replica: int
    place: int
    """Of its combination in the matrix."""
    keys: KeyMaker
    """Of items without pictures."""
    own_params: bool = False
    """They are the prompt's own, which `keys` does not know."""
    later: "tuple[_Version, ...]" = ()
    """The same for the models that are asked if this one gives no answer, in order."""


class Expansion:
    """One pass over the job's prompts."""

    def __init__(
        self,
        job: Job,
        templates: JobTemplates,
        findings: Findings,
        *,
        upstream: RunRows | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._job = job
        self._upstream = upstream
        self._progress = progress
        self._templates = templates
        self._findings = findings
        self._filler = Filler(job, templates)
        self._matrix = Matrix(job, templates.variables)
        models = models_of(job)
        self._models = models[: len(job.first_models)]
        self._later_models = models[len(job.first_models) :]
        self._is_chat = job.kind == "chat"
        self._schema = job.schema if self._is_chat else None
        self._schema_digest = None if self._schema is None else digest(self._schema)
        self._schema_sha256 = None if self._schema is None else schema_sha256(self._schema)
        self._shares_ids = shares_ids = not job.matrix and len(job.models) == 1 and job.replicas == 1
        self._names = Names(shares_ids=shares_ids)
        # Automatic ids are unique and safe as they are.
        are_automatic = templates.id is None and all(entry.listed.id is None for entry in templates.entries)
        self._ids_are_stems = shares_ids and are_automatic and templates.name is None and templates.each is None
        self._versions_made: list[_Version] | None = None
        self._makers: dict[tuple[str, int], KeyMaker] = {}
        self._only_version = self._fixed_versions()[0] if shares_ids and templates.params is None else None
        self._plain = self._plain_items() if are_automatic and self._ids_are_stems else None
        self._wanted: frozenset[str] | None = None
        """The models whose items are made; of all others only the names are handed out."""
        self._names_files = templates.name is not None or templates.each is not None
        self._gives_ids = templates.id is not None or not are_automatic
        self._shows_messages = self._is_chat and bool(job.messages)
        self._stream = job.stream if self._is_chat else False
        self._index = 0
        self._batch_ends = _BATCH_ITEMS
        self._progress_at = PROGRESS_EVERY
        self._unnamed: set[str] = set()

    def __repr__(self) -> str:
        return f"<Expansion of {self._job.name} at item {self._index}>"

    @property
    def counted(self) -> int:
        """Items made so far, whatever their model."""
        return self._index

    async def batches(self, models: frozenset[str] | None) -> AsyncGenerator[Sequence[Item]]:
        """The items of these models (None: all), in order, in batches; others on the loop have a turn after each.

        Raises:
            JobMistakesError: as `findings` decides, once the items before that are given.
        """
        self._wanted = models
        self._check_matrix()
        repeated = self._claim_listed_ids()
        async with aclosing(prompt_rows(self._job, self._templates, self._findings, self._upstream)) as read:
            async for rows in read:
                if (plain := self._plain_batch(rows)) is not None:
                    await self._rest()
                    if plain:
                        yield plain
                    continue
                async with aclosing(self._batches_of(rows, repeated)) as batches:
                    async for batch in batches:
                        yield batch
        self._findings.settle()
        if not self._index:
            self._findings.nothing_left()

    def _plain_items(self) -> PlainItems | None:
        """None where prompts of this job can be more, or other, than one item each."""
        job, version = self._job, self._only_version
        templates = self._templates
        shows = templates.images or templates.files
        if version is None or job.messages or templates.entries or shows or templates.body is not None:
            return None
        return PlainItems(
            job,
            self._templates,
            self._filler,
            self._names,
            keys=version.keys,
            params=version.params,
            schema_sha256=self._schema_sha256,
        )

    def _plain_batch(self, rows: Prompts) -> Sequence[Item] | None:
        """The items of rows that are all plain, none of a model that is not asked for; None for other rows."""
        if self._plain is None or rows.plain is None or (texts := self._plain.texts(rows)) is None:
            return None
        first = self._index + 1
        self._index += len(texts)
        if self._wanted is not None and self._job.models[0] not in self._wanted:
            return []  # their names are not needed either: there is no other model
        return self._plain.items(texts, rows.plain.values, first)

    async def _batches_of(self, rows: Prompts, repeated: frozenset[int]) -> AsyncGenerator[list[Item]]:
        made: list[Item] = []
        try:
            for row in rows:
                if row.number in repeated:
                    continue
                waits = row.images or self._templates.files or (row.asked is not None and row.asked.has_media)
                for item in await self._items_with_pictures(row) if waits else self._items_of(row):
                    if item is not None:
                        made.append(item)
                    # Pictures and files are large: an item that has any waits for its turn alone.
                    if self._index > self._batch_ends or (item is not None and (item.pictures or item.files)):
                        await self._rest()
                        if made:
                            yield made
                            made = []
        except JobMistakesError:
            if made:
                yield made
            raise
        await self._rest()
        if made:
            yield made

    async def _rest(self) -> None:
        """A batch is made: report the progress of the pass, and let other tasks run."""
        self._batch_ends = self._index + _BATCH_ITEMS
        while self._index >= self._progress_at:
            if self._progress is not None:
                self._progress(self._progress_at)
            self._progress_at += PROGRESS_EVERY
        await asyncio.sleep(0)

    def _check_matrix(self) -> None:
        """The rules of ModelScope's pictures for the values that become parameters, for each model of the job.

        `spec` says it first, and with the line; but only a compiled template tells variables from quoted words.
        """
        if self._job.provider.dialect != "modelscope-images":
            return
        for name, values in self._job.matrix.items():
            for place, value in enumerate(values if name not in self._templates.variables else ()):
                verdicts = (params_mistakes(model, {name: value}) for model in self._job.models)
                for _, problem, expected in next(filter(None, verdicts), ()):
                    key = f"matrix.{name}[{place}]"
                    self._findings.mistake(Mistake(problem=problem, file=self._job.file, key=key, expected=expected))

    def _claim_listed_ids(self) -> frozenset[int]:
        """Take the ids given in a list, so that no automatic one gets there first.

        Returns:
            The numbers of the entries that repeat one.
        """
        repeated = []
        for number, entry in enumerate(self._templates.entries, 1):
            given = entry.listed.id
            if given is not None and self._is_repeated(given, entry.listed.line, self._job.file, f"{entry.key}.id"):
                repeated.append(number)
        return frozenset(repeated)

    def _is_repeated(self, given: str, line: int | None, file: str, key: str) -> bool:
        earlier = self._names.given(given, line=line)
        if earlier is None:
            return False
        place = f" at {file}:{earlier}" if earlier else ""
        problem = f"the id `{given[:80]}` was already given{place}"
        self._findings.mistake(
            Mistake(problem=problem, file=file, line=line, key=key, expected="an id for every prompt that no other has")
        )
        return True

    async def _items_with_pictures(self, row: PromptRow) -> "Iterable[Item | None]":
        """As `_items_of`, where there may be pictures to look at."""
        try:
            fills = [await self._filler.fill(row, variables) for variables in self._matrix.variables()]
            given = self._filler.given_id(row)
        except UnusableRowError as error:
            self._findings.bad_row(*error.mistakes)
            return ()
        return self._named(row, given, fills)

    def _only_item_of(self, row: PromptRow, version: "_Version") -> "Iterable[Item | None]":
        """As `_items_of`, where a row without parameters of its own is one item: most rows of most jobs are."""
        try:
            filled = self._filler.fill_text(row, _NO_VARIABLES)
            given = self._filler.given_id(row) if self._gives_ids else None
        except UnusableRowError as error:
            self._findings.bad_row(*error.mistakes)
            return ()
        if given is None:
            given = self._names.automatic(filled.prompt)
        elif row.entry is None and self._is_repeated(given, row.line, row.file, self._filler.id_key(row)):
            return ()
        return (self._item(row, given, version, filled),)

    def _items_of(self, row: PromptRow) -> "Iterable[Item | None]":
        """The items of a row: all of them, or none when it is bad in any combination. None for one of other models."""
        if self._only_version is not None and not row.params and row.asked is None:
            return self._only_item_of(row, self._only_version)
        try:
            fills = [self._filler.fill_text(row, variables) for variables in self._matrix.variables()]
            given = self._filler.given_id(row)
        except UnusableRowError as error:
            self._findings.bad_row(*error.mistakes)
            return ()
        return self._named(row, given, fills)

    def _named(self, row: PromptRow, given: str | None, fills: list[Filled]) -> "Iterable[Item | None]":
        if given is None:
            hears = self._job.kind == "transcription"  # many files have one prompt, or none
            given = self._names.automatic(PurePosixPath(fills[0].files[0].name).name if hears else fills[0].prompt)
        elif row.entry is None and self._is_repeated(given, row.line, row.file, self._filler.id_key(row)):
            return ()
        return self._versions(row, given, fills)

    def _versions(self, row: PromptRow, prompt_id: str, fills: list[Filled]) -> "Iterator[Item | None]":
        if not row.params and row.asked is None and self._templates.params is None and (made := self._fixed_versions()):
            for version in made:
                filled = fills[version.place if len(fills) > 1 else 0]
                yield from self._items(row, prompt_id, version, filled)
            return
        for combination, filled in zip(self._matrix, fills if len(fills) > 1 else repeat(fills[0]), strict=False):
            params = {**filled.params, **row.params, **combination.params}
            # A request that names its model goes to that one, and its own name needs no other beside it.
            own = row.asked.model if row.asked else None
            for model in self._models if own is None else (Labelled(suffix="", value=own),):
                for replica in range(1, self._job.replicas + 1):
                    version, *later = (
                        self._own_version(combination, one, replica, params) for one in (model, *self._later_models)
                    )
                    version.later = tuple(later)
                    yield from self._items(row, prompt_id, version, filled)

    def _fixed_versions(self) -> "list[_Version]":
        """What prompts without parameters of their own are made into, the same for all of them; empty: too many."""
        if self._versions_made is None:
            replicas = range(1, self._job.replicas + 1)
            combinations = list(enumerate(self._matrix)) if self._matrix.is_kept else []
            self._versions_made = []
            if len(combinations) * len(self._models) * len(replicas) <= _FIXED_VERSIONS:
                for place, combination in combinations:
                    params = {**self._job.params, **combination.params}
                    for model in self._models:
                        for replica in replicas:
                            version, *later = (
                                self._version(place, combination, one, replica, params)
                                for one in (model, *self._later_models)
                            )
                            version.later = tuple(later)
                            self._versions_made.append(version)
        return self._versions_made

    def _own_version(
        self, combination: Combination, model: Labelled, replica: int, params: dict[str, Json]
    ) -> "_Version":
        """Of a prompt with parameters of its own."""
        suffix = combination.suffix + model.suffix + replica_suffix(replica)
        keys = self._makers.get((model.value, replica)) or self._maker(model.value, replica)
        return _Version(suffix, model.value, params, replica, 0, keys, own_params=True)

    def _version(
        self, place: int, combination: Combination, model: Labelled, replica: int, params: dict[str, Json]
    ) -> "_Version":
        suffix = combination.suffix + model.suffix + replica_suffix(replica)
        keys = self._key_maker(model.value, replica, params)
        return _Version(suffix, model.value, params, replica, place, keys)

    def _maker(self, model: str, replica: int) -> KeyMaker:
        """For prompts with parameters of their own; kept."""
        maker = self._makers[model, replica] = self._key_maker(model, replica, {})
        return maker

    def _key_maker(self, model: str, replica: int, params: dict[str, Json]) -> KeyMaker:
        return KeyMaker(
            dialect=self._job.provider.dialect,
            model=model,
            params=params,
            schema_digest=self._schema_digest,
            replica=replica,
        )

    def _key(self, version: "_Version", filled: Filled, body: Json = None) -> str:
        if not (filled.pictures or filled.files) and body is None:
            turns = filled.turns
            return version.keys.key_with(version.params, turns) if version.own_params else version.keys.key(turns)
        return item_key(
            dialect=self._job.provider.dialect,
            model=version.model,
            turns=filled.turns,
            params=version.params,
            pictures_sha256=[
                *(_picture_identity(picture) for picture in filled.pictures),
                *(f"{file.kind}:{file.sha256}" for file in filled.files),
            ],
            schema_digest=self._schema_digest if body is None else digest(body),  # pictures have no schema
            replica=version.replica,
        )

    def _body(self, row: PromptRow, version: "_Version", filled: Filled) -> Json:
        """The body file with this item in its holes; None where there is none, or it cannot be filled."""
        if self._templates.body is None:
            return None
        own: dict[str, Json] = {"prompt": filled.prompt, "model": version.model, "replica": version.replica}
        values = {**filled.vars, **version.params, **own}
        try:
            return self._templates.body.filled(named(values, row=row.number))
        except ParamSlotFault as wrong:
            found = unfillable(wrong.fault, file=row.file, line=row.line, key=BODY_FILE, names=list(values))
            self._findings.mistake(replace(found, problem=f"{wrong.key}: {found.problem}"))
            return None

    def _items(self, row: PromptRow, prompt_id: str, version: "_Version", filled: Filled) -> "Iterator[Item | None]":
        """The item of the first model, and those of the models that may be asked after it, each known to the last."""
        if not version.later:
            yield self._item(row, prompt_id, version, filled)
            return
        wanted, self._wanted = self._wanted, None  # each needs the keys of those before it
        made: list[Item] = []
        for place, of_model in enumerate((version, *version.later)):
            item = self._item(row, prompt_id, of_model, filled, is_later=bool(place))
            if item is None:
                break
            if made:
                made[-1].then = item
                item.fallback_of = made[0].id
                item.fallback_keys = tuple(before.key for before in made)
            made.append(item)
        self._wanted = wanted
        yield from (item for item in made if wanted is None or item.model in wanted)

    def _item(
        self, row: PromptRow, prompt_id: str, version: "_Version", filled: Filled, *, is_later: bool = False
    ) -> Item | None:
        """None for a model that is not asked for. One of a later model has the place of the first one's."""
        self._index = index = self._index + (not is_later)
        stem = item_id = prompt_id if self._shares_ids else self._names.item(prompt_id, version.suffix)
        is_wanted = self._wanted is None or version.model in self._wanted
        body = self._body(row, version, filled)
        key = self._key(version, filled, body) if is_wanted else ""
        if self._names_files:
            own: dict[str, Json] = {"id": item_id, "prompt_id": prompt_id, "index": index, "model": version.model}
            stem = self._stem({**version.params, **filled.vars, **own}, item_id)
        if self._names_files or not self._ids_are_stems or row.asked is not None:
            stem = self._names.stem(stem, lambda: key or self._key(version, filled, body))
        if not is_wanted:
            return None
        return Item(
            id=item_id,
            prompt_id=prompt_id,
            index=index,
            key=key,
            model=version.model,
            prompt=filled.prompt,
            turns=filled.turns,
            vars=filled.vars,
            params=version.params,
            pictures=filled.pictures,
            files=filled.files,
            schema=self._schema,
            schema_sha256=self._schema_sha256,
            stream=self._stream,
            replica=version.replica,
            stem=stem,
            shows_messages=self._shows_messages
            or (row.asked is not None and self._is_chat and len(row.asked.turns) > 1),
            body=body,
            origin=row.origin,
        )

    def _stem(self, names: dict[str, Json], item_id: str) -> str:
        if self._templates.each:
            # Only to find its mistakes before anything is paid; the path is made when the answer is there.
            self._artifact_name(self._templates.each, names)
        name = self._artifact_name(self._templates.name, names) if self._templates.name else item_id
        return name or item_id

    def _artifact_name(self, keyed: NamedTemplate, names: dict[str, Json]) -> str:
        """Empty when it cannot be made, which is reported once for each template."""
        try:
            return artifact_name(self._job, keyed, names)
        except JobMistakesError as error:
            if keyed.key not in self._unnamed:
                self._unnamed.add(keyed.key)
                for mistake in error.mistakes:
                    self._findings.mistake(mistake)
            return ""


def _picture_identity(picture: InputPicture) -> str:
    return picture.sha256 if picture.detail is None else f"{picture.sha256}:{picture.detail}"


def artifact_name(job: Job, keyed: NamedTemplate, names: dict[str, Json]) -> str:
    """`output.name` or `output.each` filled with an item's parameters, variables, id, prompt_id, index and model.

    Raises:
        JobMistakesError: the template uses a name that this item does not have.
    """
    try:
        return keyed.template.render(names)
    except TemplateFault as fault:
        mistake = unfillable(fault, file=job.file, line=None, key=keyed.key, names=list(names))
        raise JobMistakesError((mistake,)) from fault
