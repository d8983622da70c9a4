"""The keys of `prompts:` where it is a source: a file, a folder, or the run of another job."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue, Tag

from batchrunner.spec.parts import Count, Part, Text, one_of


class SampleSpec(Part):
    """Which rows of a source are used, chosen by hash."""

    n: Count = Field(description="How many values of `by`, each with all of its rows.")
    seed: int = Field(default=0, description="Another seed is another choice.")
    by: Text | None = Field(
        default=None, description="The name whose values are chosen. Default: `id` of a run, else the whole row."
    )


class GroupSpec(Part):
    """Several rows in one prompt, which sees them as `rows`."""

    by: Text = Field(description="The name whose value the rows of a group share; the prompt sees it, too.")
    size: Count = Field(description="Rows of a group; what is left of each value makes a smaller one.")


class DrawSpec(Part):
    """What a value is drawn from, where it is more than a list."""

    file: Text = Field(description="A file whose rows are drawn, relative to the job file, or its address.")
    column: Text | None = Field(
        default=None, description="The column that is drawn. Default: the only one, else the whole row."
    )
    size: Count | None = Field(default=None, description="Draw so many different ones, as a list.")


DrawChoice: TypeAlias = Annotated[
    Annotated[list[JsonValue], Field(min_length=1), Tag("<list>")] | Annotated[DrawSpec, Tag("<mapping>")],
    one_of("a list of values, or a mapping with `file`"),
]


class SourceSpec(Part):
    """Prompts from a file, a folder or a run, streamed; or made by drawing."""

    file: Text | None = Field(
        default=None,
        description="A .txt, .csv, .tsv, .jsonl or .parquet file, an OpenAI batch file (.jsonl), or a folder of texts "
        "or pictures; relative to the job file. Or an address, like s3://bucket/rows.jsonl.",
    )
    run: Text | None = Field(
        default=None,
        description="The results folder of another job, instead of `file`: a row for each item that is done. Relative "
        "to the job file's folder, or to its parent if that folder is called jobs.",
    )
    template: Text | None = Field(
        default=None,
        description='Jinja2 over the row\'s columns, for example "{{ question }}". Default: the column `prompt`, '
        "a text file's content, a batch file's own requests.",
    )
    id: Text | None = Field(
        default=None,
        description='Template of each item\'s id, for example "q{{ row }}". Default: from content; over a run, '
        "the id there.",
    )
    images: list[Text] | None = Field(
        default=None, description="Pictures of each row, as `images` of the job, which it replaces."
    )
    where: Text | None = Field(
        default=None,
        description='Only rows for which this expression holds, for example "{{ pass and not truncated }}".',
    )
    sample: SampleSpec | None = Field(default=None, description="Use a part of the rows, chosen by hash.")
    explode: Text | None = Field(
        default=None,
        description='A row for each entry of a list, for example "{{ parsed.items }}". The entry is `item`; its fields '
        "are names that the row does not have yet.",
    )
    dedupe: Text | None = Field(
        default=None,
        description="A name, or a template, whose text no two rows may have: the first is used. Case, spaces and how "
        "accents are written make no difference.",
    )
    group: GroupSpec | None = Field(default=None, description="Put several rows into one prompt.")
    draw: dict[str, DrawChoice] = Field(
        default_factory=dict,
        description="Names with values that are drawn at random for each row, the same ones in every run: a list of "
        "values, or a mapping with `file`.",
    )
    seed: int = Field(default=0, description="Another seed draws other values.")
    count: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None, description="Make so many rows by drawing alone, instead of reading `file` or `run`."
    )
    unfinished: Literal["stop", "take"] | None = Field(
        default=None,
        description="When the run in `run` has items left: `stop` (default) before anything is sent, or `take` the "
        "rows that are there.",
    )
    limit: Count | None = Field(default=None, description="Use only this many rows, from the first one.")
    encoding: Text | None = Field(
        default=None,
        description="The text encoding of a file that is not UTF-8, for example gb18030 or cp1252. UTF-16 that begins "
        "with a byte order mark needs none.",
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        default=None, description='What separates the columns of a .csv file, for example ";". Default: a comma.'
    )
    on_bad_row: Literal["fail", "skip"] = Field(
        default="fail",
        description="What a broken row does: `fail` before anything is sent, or `skip` it and report it.",
    )
