"""The job's templates, compiled once, each with the key under which it stands in the job file.

Also decides what a matrix name is: one that a template uses is a variable, any other a parameter. `output.name`,
`output.each` and `prompts.id` do not decide that: a file may be named by a parameter, and a prompt has its id before
the matrix.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from batchrunner.core.errors import Mistake
from batchrunner.core.job import Job, Json, ListedPrompt, Listing, Source
from batchrunner.core.values import dataclass
from batchrunner.prompts.render import ROW, Expression, Template, TemplateFault, Templates
from batchrunner.prompts.row_condition import OF_SCORES, RowCondition
from batchrunner.prompts.variants import RowParams, body_filling, row_params

PROMPT = "prompt"
"""The variable with the rendered prompt, for `messages`; and the column that needs no template."""
BODY_FILE = "provider.body_file"
_PLAIN_NAME = "{{ id }}"
_SHOWN_NAMES = 30
_STAND_IN = "-"
"""For a template that is broken, in checks."""
_MAY_BE_ABSENT = ("prompts.id", "output.name", "output.each")
_NO_NAME = re.compile(r"\W|^(?=\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTemplate:
    """A template and where it stands."""

    key: str
    template: Template
    role: str = "user"
    """Of a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A listed prompt with its templates compiled."""

    key: str
    listed: ListedPrompt
    prompt: NamedTemplate | None
    images: tuple[NamedTemplate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTemplates:
    """How a row becomes an item."""

    prompt: NamedTemplate | None
    """The source's template."""
    id: NamedTemplate | None
    system: NamedTemplate | None
    messages: tuple[NamedTemplate, ...]
    images: tuple[NamedTemplate, ...]
    files: tuple[NamedTemplate, ...]
    name: NamedTemplate | None
    """None when an artifact is called by its item's id, as by default."""
    each: NamedTemplate | None
    """The path of an answer's own file."""
    entries: tuple[Entry, ...]
    params: RowParams | None
    """The job's `params` where some are templates over the row."""
    body: RowParams | None
    """What `provider.body_file` holds, over the row, the parameters, `prompt` and `model`."""
    where: RowCondition | None
    """Which rows of the source are used."""
    explode: Expression | None
    dedupe: Expression | None
    variables: frozenset[str]
    """The names of the matrix that some template uses."""

    @property
    def uses_scores(self) -> bool:
        """Whether a template may use the verdicts on the rows of a run."""
        in_where = self.where is not None and self.where.needs_scores
        others = (self.explode, self.dedupe)
        names = {*self.needs(), *(name for one in others if one is not None for name in one.names)}
        return in_where or not OF_SCORES.isdisjoint(names)

    def needs(self) -> dict[str, str]:
        """Names that the rows have to bring, each with the key of the first template that uses it."""
        shared = (self.prompt, self.id, self.system, *self.messages, *self.images, *self.files)
        own = self.variables | {ROW} | ({PROMPT} if self.messages else frozenset())
        found: dict[str, str] = {}
        for keyed in shared:
            for name in sorted(keyed.template.names - own) if keyed else ():
                found.setdefault(name, keyed.key if keyed else "")
        for slot in self.params.slots if self.params else ():
            for name in sorted(slot.expression.names - own):
                found.setdefault(name, slot.key)
        return found


def templates_of(job: Job) -> tuple[JobTemplates, tuple[Mistake, ...]]:
    """The job's templates and every mistake in them; with mistakes, the templates are for checks only.

    A harmless text then stands in for a broken template, so that whatever else is wrong is found as well.
    """
    compiler = _Compiler(job)
    source = job.prompts if isinstance(job.prompts, Source) else None
    prompt = compiler.template(source.template if source else None, "prompts.template")
    system = compiler.template(job.system, "system")
    messages = compiler.messages()
    own_images = source is not None and source.images is not None
    images = compiler.images(
        source.images or () if source and own_images else job.images, "prompts.images" if own_images else "images"
    )
    files = compiler.images(job.files, "files")
    entries = compiler.entries(job.prompts) if isinstance(job.prompts, Listing) else ()
    deciding = [
        prompt,
        system,
        *messages,
        *images,
        *files,
        *(own for entry in entries for own in (entry.prompt, *entry.images)),
    ]
    params = compiler.params()
    used = frozenset[str]().union(*(keyed.template.names for keyed in deciding if keyed))
    used = used.union(*(slot.expression.names for slot in params.slots)) if params else used
    name = job.output.name.strip()
    templates = JobTemplates(
        prompt=prompt,
        id=compiler.template(source.id if source else None, "prompts.id"),
        system=system,
        messages=messages,
        images=images,
        files=files,
        name=None if name == _PLAIN_NAME else compiler.template(name, "output.name"),
        each=compiler.template(job.output.each, "output.each"),
        entries=entries,
        params=params,
        body=compiler.body(used),
        where=compiler.condition(source.where if source else None, "prompts.where"),
        explode=compiler.expression(source.explode if source else None, "prompts.explode"),
        dedupe=compiler.expression(source.dedupe if source else None, "prompts.dedupe"),
        variables=used & job.matrix.keys(),
    )
    return templates, tuple(compiler.mistakes)


def variable_of(column: str) -> str:
    """The name of a column in a template."""
    return column if column.isidentifier() else _NO_NAME.sub("_", column)


def named(values: dict[str, Json], *, row: int | None = None) -> dict[str, Json]:
    """The values as templates see them: with the row's number, and `Sub_Category` for a column `Sub Category`."""
    for name in values:
        if not name.isidentifier():
            break
    else:
        return {ROW: row, **values}
    aliases = {variable_of(name): value for name, value in values.items() if not name.isidentifier()}
    return {**aliases, ROW: row, **values}


def unfillable(fault: TemplateFault, *, file: str, line: int | None, key: str, names: list[str]) -> Mistake:
    """The mistake of a template that these values cannot fill; `names` are what the values have."""
    if fault.unknown is None:
        return Mistake(problem=fault.problem, file=file, line=line, key=key)
    return unknown_name(fault.unknown, file=file, line=line, key=key, names=names)


def unknown_name(name: str, *, file: str, line: int | None, key: str, names: list[str]) -> Mistake:
    """The mistake of a template that uses a name which is nowhere."""
    shown = ", ".join(f"`{known}`" for known in names[:_SHOWN_NAMES]) or "none"
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return Mistake(
        problem=f"the template uses `{name}`, which is unknown here",
        file=file,
        line=line,
        key=key,
        expected=f"available names: {shown}{more}",
        hint=_meant(name, names),
    )


def _meant(name: str, names: list[str]) -> str | None:
    by_case = {known.casefold(): known for known in names}
    close = [by_case[found] for found in get_close_matches(name.casefold(), by_case, n=1)]
    return f"did you mean `{close[0]}`?" if close else None


class _Compiler:
    """Compiles every template of a job and collects what is wrong with them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._templates = Templates()
        self.mistakes: list[Mistake] = []

    def template(
        self, text: str | None, key: str, *, line: int | None = None, role: str = "user", optional: bool = False
    ) -> NamedTemplate | None:
        """The template, or None when there is none or it is a mistake."""
        if text is None:
            return None
        try:
            template = self._templates.lenient(text) if optional else self._templates.strict(text)
        except TemplateFault as fault:
            place = f" (line {fault.line} of the template)" if fault.line and "\n" in text else ""
            self.mistakes.append(Mistake(problem=fault.problem + place, file=self._job.file, line=line, key=key))
            if optional or key in _MAY_BE_ABSENT:
                return None
            template = self._templates.strict(_STAND_IN)
        return NamedTemplate(key=key, template=template, role=role)

    def condition(self, text: str | None, key: str) -> RowCondition | None:
        """None when there is none or it is a mistake."""
        if text is None:
            return None
        try:
            return RowCondition(text, self._templates)
        except TemplateFault as fault:
            self.mistakes.append(Mistake(problem=fault.problem, file=self._job.file, key=key))
            return None

    def expression(self, text: str | None, key: str) -> Expression | None:
        """An expression over the row, or a mere name; None when there is none or it is a mistake."""
        if text is None:
            return None
        try:
            return self._templates.expression(text if "{" in text else f"{{{{ {text} }}}}")
        except TemplateFault as fault:
            self.mistakes.append(Mistake(problem=fault.problem, file=self._job.file, key=key))
            return None

    def params(self) -> RowParams | None:
        """The templates in `params`, of a job over a source."""
        found, faults = row_params(self._job, self._templates)
        for wrong in faults:
            self.mistakes.append(Mistake(problem=wrong.fault.problem, file=self._job.file, key=wrong.key))
        return found

    def body(self, used: frozenset[str]) -> RowParams | None:
        """The templates in the body file. What they do not use would be dropped in silence: that is a mistake, too.

        `used` are the names that other templates use.
        """
        found, faults = body_filling(self._job, self._templates)
        for wrong in faults:
            self.mistakes.append(self._of_body(f"{wrong.key}: {wrong.fault.problem}"))
        if found is None or faults:
            return found
        names = frozenset[str]().union(*(slot.expression.names for slot in found.slots))
        if PROMPT not in names:
            self.mistakes.append(self._of_body("no text in it uses `{{ prompt }}`: every prompt would order the same"))
        entries = self._job.prompts.entries if isinstance(self._job.prompts, Listing) else ()
        places: list[tuple[str, Iterable[str]]] = [("params", self._job.params), ("matrix", self._job.matrix)]
        places += [(f"prompts[{number}].params", entry.params) for number, entry in enumerate(entries)]
        for place, params in places:
            for name in params:
                if name not in names and not (place == "matrix" and name in used):
                    problem = "is used nowhere in the body file"
                    self.mistakes.append(Mistake(problem=problem, file=self._job.file, key=f"{place}.{name}"))
        return found

    def _of_body(self, problem: str) -> Mistake:
        return Mistake(problem=problem, file=self._job.file, key=BODY_FILE)

    def images(self, texts: tuple[str, ...], key: str, *, line: int | None = None) -> tuple[NamedTemplate, ...]:
        """Templates of pictures or files, which a row may leave out."""
        found = (self.template(text, f"{key}[{n}]", line=line, optional=True) for n, text in enumerate(texts))
        return tuple(keyed for keyed in found if keyed)

    def messages(self) -> tuple[NamedTemplate, ...]:
        """The turns of `messages`."""
        turns = self._job.messages
        if turns and all(turn.role != "user" for turn in turns):
            problem = "there is no turn with the role `user`"
            self.mistakes.append(Mistake(problem=problem, file=self._job.file, key="messages"))
        found = (self.template(t.content, f"messages[{n}].content", role=t.role) for n, t in enumerate(turns))
        return tuple(keyed for keyed in found if keyed)

    def entries(self, listing: Listing) -> tuple[Entry, ...]:
        """The listed prompts."""
        return tuple(self._entry(f"prompts[{n}]", listed) for n, listed in enumerate(listing.entries))

    def _entry(self, key: str, listed: ListedPrompt) -> Entry:
        prompt = self.template(listed.prompt, f"{key}.prompt", line=listed.line)
        images = self.images(listed.images or (), f"{key}.images", line=listed.line)
        if prompt is None and not self._job.messages and listed.prompt is None:
            self.mistakes.append(
                Mistake(problem="there is no `prompt`", file=self._job.file, line=listed.line, key=key)
            )
        return Entry(key=key, listed=listed, prompt=prompt, images=images)
