"""A prompt's templates filled with its values: the conversation, the pictures, and what rows show of it."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from batchrunner.core.errors import Mistake
from batchrunner.core.item import InputFile, InputPicture
from batchrunner.core.job import TASK_KINDS, Job, Json, Turn
from batchrunner.core.picture_rules import params_mistakes, prompt_mistake
from batchrunner.core.text import has_surrogate
from batchrunner.core.values import dataclass, replace
from batchrunner.prompts.ids import ID_LIMIT_CHARS
from batchrunner.prompts.input_pictures import BadPictureError, PictureCache
from batchrunner.prompts.prompt_rows import PromptRow
from batchrunner.prompts.render import TemplateFault
from batchrunner.prompts.sources.base import AskedFile, AskedPicture, BatchRequest
from batchrunner.prompts.sources.openai_batch import CUSTOM_ID
from batchrunner.prompts.templates import PROMPT, JobTemplates, NamedTemplate, named, unfillable
from batchrunner.prompts.variants import ParamSlotFault, RowParams

_SYSTEM_ROLES = ("system", "developer")
_Given = TypeVar("_Given", InputFile, InputPicture)
_SOUND_HINT = "`files` is a template of its path; the default is the column `file`"


@dataclass(slots=True)
class Filled:
    """A prompt with one combination of the matrix's variables. Nobody changes one, as with `PromptRow`."""

    prompt: str
    turns: tuple[Turn, ...]
    vars: dict[str, Json]
    pictures: tuple[InputPicture, ...]
    params: dict[str, Json]
    """The job's own, filled where they are templates."""
    files: tuple[InputFile, ...] = ()


class UnusableRowError(Exception):
    """A row cannot be made into a prompt."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


class Filler:
    """Fills the prompts of one pass."""

    def __init__(self, job: Job, templates: JobTemplates) -> None:
        self._job = job
        self._templates = templates
        self._picture_cache = PictureCache(job)
        self._fixed_first: tuple[Turn, ...] | None = None
        """The turns before the prompt's own where they are the same for every row."""
        self._is_modelscope_picture = job.provider.dialect == "modelscope-images"
        self._is_picture = job.kind in TASK_KINDS
        self._hears = job.kind == "transcription"
        """The prompt is a hint of how names are written, and may be empty; what is asked about is one file."""
        self._seen: tuple[dict[str, Json], int] | None = None
        self._seen_named: dict[str, Json] = {}

    @property
    def fixed_first(self) -> tuple[Turn, ...] | None:
        """The turns before the prompt's own, once a row has shown that they are the same for every other."""
        return self._fixed_first

    async def fill(self, row: PromptRow, variables: dict[str, Json]) -> Filled:
        """The prompt with these variables of the matrix.

        Raises:
            UnusableRowError: a template, a value or a picture is at fault; it says where.
        """
        shown = {**row.values, **variables} if variables else row.values
        filled = self._worded(row, shown, variables)
        if row.images or self._templates.files or (row.asked and row.asked.has_media):
            await self._add_media(filled, row, self._named(row, shown))
        return self._with_params(filled, row, shown)

    def fill_text(self, row: PromptRow, variables: dict[str, Json]) -> Filled:
        """As `fill`, for a row without pictures and files, which need not wait for anything."""
        shown = {**row.values, **variables} if variables else row.values
        filled = self._worded(row, shown, variables)
        return filled if self._templates.params is None else self._with_params(filled, row, shown)

    def _worded(self, row: PromptRow, shown: dict[str, Json], variables: dict[str, Json]) -> Filled:
        """The prompt without its pictures and its own parameters, made of these columns and variables."""
        turns = self._asked_turns(row.asked, row, shown) if row.asked else self._turns(row, shown)
        last = turns[-1]
        if last.role != "user":
            last = next(turn for turn in reversed(turns) if turn.role == "user")
        prompt = last.content
        if self._is_picture:
            turns = (Turn(role="user", content=prompt),)
        if self._is_modelscope_picture and (problem := prompt_mistake(prompt)):
            raise _unusable(row, f"the prompt {problem}")
        if row.unshown:
            unshown = row.unshown - variables.keys() if variables else row.unshown
            shown = {name: value for name, value in shown.items() if name not in unshown}
        return Filled(prompt, turns, shown, (), self._job.params)

    def _named(self, row: PromptRow, shown: dict[str, Json]) -> dict[str, Json]:
        """The values as templates see them; made once for all templates of a row."""
        if self._seen is None or self._seen[0] is not shown or self._seen[1] != row.number:
            self._seen, self._seen_named = (shown, row.number), named(shown, row=row.number)
        return self._seen_named

    def _with_params(self, filled: Filled, row: PromptRow, shown: dict[str, Json]) -> Filled:
        if self._templates.params is not None:
            filled.params = self._params(row, self._templates.params, shown)
        return filled

    def _params(self, row: PromptRow, params: RowParams, shown: dict[str, Json]) -> dict[str, Json]:
        try:
            filled = params.plain(shown)
            if filled is None:
                filled = params.filled(self._named(row, shown))
        except ParamSlotFault as wrong:
            names = list(self._named(row, shown))
            raise UnusableRowError(
                unfillable(wrong.fault, file=row.file, line=row.line, key=wrong.key, names=names)
            ) from wrong
        if self._is_modelscope_picture:
            for model in self._job.models:
                for name, problem, expected in params_mistakes(model, filled):
                    key, words = f"params.{name}", f"`{name}` is {str(filled.get(name))[:80]}: {problem}"
                    mistake = Mistake(problem=words, file=row.file, line=row.line, key=key, expected=expected)
                    raise UnusableRowError(mistake)
        return filled

    def id_key(self, row: PromptRow) -> str:
        """Where a row's given id comes from."""
        if row.entry is not None:
            return f"{row.entry.key}.id"
        return CUSTOM_ID if self._templates.id is None else self._templates.id.key

    def given_id(self, row: PromptRow) -> str | None:
        """The row's given id, None if it gets an automatic one; the matrix has no part in it.

        Raises:
            UnusableRowError: it is empty or too long, or its template is at fault.
        """
        key = self.id_key(row)
        if row.entry is not None:
            given = row.entry.listed.id
        elif self._templates.id is not None:
            given = self._text(row, self._templates.id, row.values)
        elif row.asked is not None:
            given = row.asked.id
        else:
            return None
        if given is None:
            return None
        if len(given) > ID_LIMIT_CHARS:
            raise _unusable(row, f"the id has {len(given):,} characters; the limit is {ID_LIMIT_CHARS:,}", key=key)
        return _required(row, given, key=key, what="the id")

    def _turns(self, row: PromptRow, shown: dict[str, Json]) -> tuple[Turn, ...]:
        first = self._system_turn(row, shown) if self._fixed_first is None else self._fixed_first
        if not self._templates.messages:
            return (*first, Turn("user", self._prompt(row, shown)))
        if row.prompt is not None and PROMPT not in shown:
            shown = {**shown, PROMPT: self._prompt(row, shown)}
        return (*first, *[Turn(keyed.role, self._text(row, keyed, shown)) for keyed in self._templates.messages])

    def _asked_turns(self, asked: BatchRequest, row: PromptRow, shown: dict[str, Json]) -> tuple[Turn, ...]:
        """The request's own turns; the job's `system` comes first where the request has none."""
        has_system = "system" in asked.params or any(turn.role in _SYSTEM_ROLES for turn in asked.turns)
        return asked.turns if has_system else (*self._system_turn(row, shown), *asked.turns)

    def _system_turn(self, row: PromptRow, shown: dict[str, Json]) -> tuple[Turn, ...]:
        if self._fixed_first is not None:
            return self._fixed_first
        system = self._templates.system
        content = self._text(row, system, shown, may_be_empty=True) if system else ""
        first = (Turn(role="system", content=content),) if content.strip() else ()
        if system is None or system.template.is_fixed:
            self._fixed_first = first
        return first

    def _prompt(self, row: PromptRow, shown: dict[str, Json]) -> str:
        if row.prompt is not None:
            return self._text(row, row.prompt, shown, may_be_empty=self._hears)
        column = row.prompt_column or _prompt_column(row.values)
        if column is None and self._hears:
            return ""
        if column is None:
            columns = ", ".join(f"`{name}`" for name in row.values) or "none"
            raise UnusableRowError(
                Mistake(
                    problem=f"there is no column `{PROMPT}`; the columns are {columns}",
                    file=row.file,
                    line=row.line,
                    key="prompts.template",
                    hint="write a `template` that makes the prompt from the row",
                )
            )
        value = row.values[column]
        if isinstance(value, bool | list | dict | None):
            raise _unusable(row, f"`{column}` is not text", key=None)
        text = str(value)
        if text.isascii() and text and not text.isspace():
            return text
        return _required(row, text, what=f"`{column}`", may_be_blank=self._hears)

    def _text(self, row: PromptRow, keyed: NamedTemplate, shown: dict[str, Json], *, may_be_empty: bool = False) -> str:
        text = keyed.template.joined(shown, row.number)
        if text is None:
            try:
                text = keyed.template.render(self._named(row, shown))
            except TemplateFault as fault:
                names = list(self._named(row, shown))
                raise UnusableRowError(
                    unfillable(fault, file=row.file, line=row.line, key=keyed.key, names=names)
                ) from fault
        if text.isascii() and text and not text.isspace():
            return text
        return text if may_be_empty and not text else _required(row, text, key=keyed.key, may_be_blank=may_be_empty)

    async def _add_media(self, filled: Filled, row: PromptRow, values: dict[str, Json]) -> None:
        """All pictures and files, or what is wrong with any of them."""
        wrong: list[Mistake] = []
        cache, asked, files = self._picture_cache, row.asked, self._templates.files
        pictures = [self._asked_picture(row, picture) for picture in (asked.pictures if asked else ())]
        pictures += [self._given(row, keyed, values, cache.picture) for keyed in row.images]
        filled.pictures = await _all_found(pictures, wrong)
        documents = [self._asked_file(row, file) for file in (asked.files if asked else ())]
        documents += [self._given(row, keyed, values, cache.file) for keyed in files]
        filled.files = await _all_found(documents, wrong)
        if self._hears and not wrong and len(filled.files) != 1:
            raise _unusable(row, "the row names no file of sound", key="files", hint=_SOUND_HINT)
        if wrong:
            raise UnusableRowError(*wrong)

    async def _asked_picture(self, row: PromptRow, asked: AskedPicture) -> InputPicture | None:
        try:
            picture = await self._picture_cache.given(asked.url)
        except BadPictureError as error:
            raise _unusable(row, str(error), key="body.messages", hint=error.hint) from error
        return replace(picture, detail=asked.detail)

    async def _asked_file(self, row: PromptRow, asked: AskedFile) -> InputFile | None:
        try:
            return await self._picture_cache.given_file(asked.url, asked.name)
        except BadPictureError as error:
            raise _unusable(row, str(error), key="body.messages", hint=error.hint) from error

    async def _given(
        self,
        row: PromptRow,
        keyed: NamedTemplate,
        values: dict[str, Json],
        read: Callable[[str], Awaitable[_Given]],
    ) -> _Given | None:
        try:
            name = keyed.template.render(values).strip()
            if not name and row.origin is not None:  # a question about a picture is not sent without it
                what = "file" if keyed.key.startswith("files") else "picture"
                raise _unusable(row, f"the item has no such {what}", key=keyed.key)
            return await read(name) if name else None
        except BadPictureError as error:
            raise _unusable(row, str(error), key=keyed.key, hint=error.hint) from error
        except TemplateFault as fault:
            if fault.unknown is not None:
                return None
            raise _unusable(row, fault.problem, key=keyed.key) from fault


async def _all_found(looking: Iterable[Awaitable[_Given | None]], wrong: list[Mistake]) -> tuple[_Given, ...]:
    """What is there; what is wrong with the others goes to `wrong`."""
    found: list[_Given] = []
    for one in looking:
        try:
            given = await one
        except UnusableRowError as error:
            wrong.extend(error.mistakes)
        else:
            if given is not None:
                found.append(given)
    return tuple(found)


def _prompt_column(values: dict[str, Json]) -> str | None:
    if PROMPT in values:
        return PROMPT
    return next((name for name in values if name.casefold() == PROMPT), None)


def _required(
    row: PromptRow, text: str, *, key: str | None = None, what: str = "the rendered text", may_be_blank: bool = False
) -> str:
    if not may_be_blank and not text.strip():
        raise _unusable(row, f"{what} is empty", key=key)
    if has_surrogate(text):
        raise _unusable(row, f"{what} contains an unpaired surrogate (invalid Unicode)", key=key)
    return text


def _unusable(row: PromptRow, problem: str, *, key: str | None = None, hint: str | None = None) -> UnusableRowError:
    key = key or (row.entry.key if row.entry else None)
    return UnusableRowError(Mistake(problem=problem, file=row.file, line=row.line, key=key, hint=hint))
