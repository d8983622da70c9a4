"""Items of plain rows, made a batch at a time: what most rows of most jobs are, in a third of the steps.

A row is plain that is one item: no matrix, one model, one replica, no parameters, pictures or id of its own, and a
prompt of one template that only puts columns between words, or of one column. The same items as row by row, with the
same ids and keys; where any row of a batch needs a look of its own, all of them go the long way, which says what is
wrong with it.
"""

from collections.abc import Sequence

from batchrunner.core.item import AlikeItems, Item
from batchrunner.core.job import Job, Json
from batchrunner.core.picture_rules import prompt_mistake
from batchrunner.core.text import has_surrogate
from batchrunner.core.values import replace
from batchrunner.prompts.ids import KeyMaker, Names
from batchrunner.prompts.prompt_rows import Prompts
from batchrunner.prompts.render import OUTPUT_LIMIT_CHARS
from batchrunner.prompts.row_to_prompt import Filler
from batchrunner.prompts.templates import PROMPT, JobTemplates


class PlainItems:
    """Makes the items of one pass over plain rows; `names` are those of the pass."""

    def __init__(
        self,
        job: Job,
        templates: JobTemplates,
        filler: Filler,
        names: Names,
        *,
        keys: KeyMaker,
        params: dict[str, Json],
        schema_sha256: str | None,
    ) -> None:
        self._job = job
        self._templates = templates
        self._filler = filler
        self._names = names
        self._keys = keys
        is_chat = job.kind == "chat"
        self._like = Item(
            id="",
            prompt_id="",
            index=0,
            key="",
            model=job.models[0],
            prompt="",
            turns=(),
            params=params,
            schema=job.schema if is_chat else None,
            schema_sha256=schema_sha256,
            stream=is_chat and job.stream,
        )

    def __repr__(self) -> str:
        return f"<PlainItems of {self._job.name}>"

    def texts(self, prompts: Prompts) -> list[str] | None:
        """The prompts of these rows; None where one of them is not plain, or may be wrong."""
        stretch = prompts.plain
        if stretch is None or self._filler.fixed_first is None:
            return None
        template = self._templates.prompt
        if template is not None:
            texts = template.template.joined_all(stretch.values)
        else:
            texts = _column(stretch.values, prompts.prompt_column or PROMPT)
        if texts is None or not all(map(str.strip, texts)):
            return None
        whole = "".join(texts)
        if len(whole) > OUTPUT_LIMIT_CHARS or has_surrogate(whole):
            return None
        if self._job.provider.dialect == "modelscope-images" and any(map(prompt_mistake, texts)):
            return None
        return texts

    def items(self, texts: list[str], rows: Sequence[dict[str, Json]], index: int) -> AlikeItems:
        """The items of the rows that have these `texts`; the first one is the item of this index."""
        first = (self._filler.fixed_first or ()) if self._job.kind == "chat" else ()
        if self._like.turns != first:
            self._like = replace(self._like, turns=first)
        return AlikeItems(
            self._like,
            first_index=index,
            ids=self._names.automatic_all(texts),
            keys=self._keys.keys_of(first, texts),
            texts=texts,
            values=rows,
        )


def _column(rows: Sequence[dict[str, Json]], name: str) -> list[str] | None:
    """The texts of a column that every row has; None where one has none, or a value that is not text."""
    try:
        found = [row[name] for row in rows]
    except KeyError:
        return None
    return found if set(map(type, found)) == {str} else None  # type: ignore[return-value]  # all are str
