"""`hf`: a folder that `datasets.load_dataset` reads, and that can be uploaded to a hub as it is.

`README.md`, the card, and `data/train-00000-of-00003.parquet`. Neither has a path or a host of this machine: of the job
the card shows what was asked for, and not where.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import PurePath
from typing import Final

from batchrunner.core.exports import ExportPart, Shapable, Split
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass, field
from batchrunner.exporters.arrow_tables import TableLayout, card_features, layout_of, table_file
from batchrunner.exporters.columns import mapping, mappings, text

SHARD_BYTES: Final = 500_000_000
_SHOWN_OF_THE_JOB: Final = (
    *("kind", "models", "system", "messages", "matrix", "params", "schema", "replicas", "stream", "checks"),
)
_NOT_PRINTABLE: Final = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML takes as an escape only, and line ends that not everybody takes for one."""
_TASKS: Final = {
    "image": "text-to-image",
    "embedding": "feature-extraction",
    "transcription": "automatic-speech-recognition",
}
"""What the hub calls what a kind of job makes, where that is not text."""
_BACKTICKS: Final = re.compile("`+")


@dataclass(slots=True, kw_only=True)
class _Size:
    """Of a split."""

    name: str
    shards: list[int] = field(default_factory=lambda: [0])
    """Rows of each."""
    size_bytes: int = 0
    """Of the rows as JSON, and of the pictures."""
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def rows(self) -> int:
        """Of all shards."""
        return sum(self.shards)


def hub_dataset(splits: Sequence[Split]) -> Iterator[ExportPart]:
    """The shards of each split, then the card. Raises ImportError without pyarrow."""
    layout = layout_of(splits[0].run, pictures=splits[0].run.options.images or "bytes")
    sizes = [_size_of(split, layout) for split in splits]
    for split, size in zip(splits, sizes, strict=True):
        rows = split.run.rows()
        for number, count in enumerate(size.shards):
            path = f"data/{size.name}-{number:05}-of-{len(size.shards):05}.parquet"
            for piece in table_file(split.run, islice(rows, count), layout):
                yield ExportPart(path=path, content=piece, more=True)
            yield ExportPart(path=path, content=b"")
    card = _card(splits[0].run, layout, sizes)
    yield ExportPart(path="README.md", content=card.encode("utf-8", "replace"))


def _size_of(split: Split, layout: TableLayout) -> _Size:
    """One pass over the rows: how many go into each shard."""
    size = _Size(name=split.name or "train")
    most = split.run.options.shard_bytes or SHARD_BYTES
    filled = 0
    for row in split.run.rows():
        row_bytes = len(row.line)
        if layout.pictures == "bytes":
            pictures = mappings(mapping(row.fields.get("output")).get("images"))
            row_bytes += sum(_whole(picture.get("bytes")) for picture in pictures)
        if filled and filled + row_bytes > most:
            size.shards.append(0)
            filled = 0
        filled += row_bytes
        size.shards[-1] += 1
        size.size_bytes += row_bytes
        usage = mapping(row.fields.get("usage"))
        size.input_tokens += _whole(usage.get("input_tokens"))
        size.output_tokens += _whole(usage.get("output_tokens"))
    return size


def _whole(value: Json) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _card(run: Shapable, layout: TableLayout, sizes: Sequence[_Size]) -> str:
    files: list[Json] = [{"split": size.name, "path": f"data/{size.name}-*"} for size in sizes]
    counts: list[Json] = [
        {"name": size.name, "num_bytes": size.size_bytes, "num_examples": size.rows} for size in sizes
    ]
    front: dict[str, Json] = {
        "pretty_name": " ".join(run.name.split()),
        "task_categories": [_TASKS.get(str(run.job.get("kind")), "text-generation")],
        "tags": ["synthetic", "batchrunner", *(["simulated"] if run.simulated else [])],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"features": card_features(layout.columns), "splits": counts},
    }
    head = "".join(f"{name}: {_yaml(value)}\n" for name, value in front.items())
    return f"---\n{head}---\n\n{''.join(_body(run, sizes))}"


def _body(run: Shapable, sizes: Sequence[_Size]) -> Iterator[str]:
    title = run.printable(" ".join(run.name.split()))
    yield f"# {_plain(title)}{' (simulated)' if run.simulated else ''}\n\n"
    if run.simulated:
        yield "**Nothing here was said or drawn by a model**: the simulator of batchrunner answered.\n\n"
    yield "Synthetic: each row is a prompt, as it was sent to a model, with its answer.\n\n"
    yield "| split | rows | input tokens | output tokens |\n|---|---|---|---|\n"
    for size in sizes:
        yield f"| {size.name} | {size.rows:,} | {size.input_tokens:,} | {size.output_tokens:,} |\n"
    listed = run.job.get("models")
    models = ", ".join(_plain(run.printable(text(model))) for model in listed) if isinstance(listed, list) else ""
    yield f"\nModels: {models or 'not known'}.\n\n"
    yield '```python\nimport datasets\n\nrows = datasets.load_dataset("PATH OF THIS FOLDER")\n```\n\n'
    yield "The job, without the addresses of servers and files:\n\n"
    shown = "\n".join(map(run.printable, json.dumps(_job(run), ensure_ascii=False, indent=2).split("\n")))
    fence = "`" * max(3, 1 + max((len(found) for found in _BACKTICKS.findall(shown)), default=0))
    yield f"{fence}json\n{shown}\n{fence}\n\nMade with batchrunner.\n"


def _job(run: Shapable) -> dict[str, Json]:
    shown = {name: run.job[name] for name in _SHOWN_OF_THE_JOB if run.job.get(name)}
    if "checks" in shown:
        shown["checks"] = [_without_place(check) for check in mappings(shown["checks"])]
    prompts = mapping(run.job.get("prompts"))
    if isinstance(prompts.get("path"), str):
        count, name = prompts.get("count"), PurePath(str(prompts["path"])).name
        read = {"count": count} if count else {"run" if prompts.get("run") else "file": name}
        listed = {**read, "template": prompts.get("template")}
        shown["prompts"] = {name: value for name, value in listed.items() if value is not None}
    return shown


def _without_place(check: dict[str, Json]) -> dict[str, Json]:
    """The check, with the name alone of a file of functions or of a judge."""
    if check.get("kind") not in {"python", "judge"}:
        return check
    return {**check, "expected": PurePath(text(check.get("expected"))).name}


def _yaml(value: Json) -> str:
    """JSON is YAML, but for characters that YAML wants as escapes."""
    encoded = json.dumps(value, ensure_ascii=False)
    return _NOT_PRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)


def _plain(said: str) -> str:
    """Text that is no Markdown."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>#|&" else char for char in said)
