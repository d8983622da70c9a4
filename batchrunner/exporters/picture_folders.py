"""Pictures with their captions: `imagefolder`, `captions` and `webdataset`, which takes videos and sounds, too.

Files are numbered in the job's order: ids may hold anything. The same rows give the same bytes. A picture is in memory
as long as it is written, of a file in a tar only a piece. One that is gone or changed is left out, and so is one of a
kind that readers do not know.
"""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from batchrunner.core.exports import ExportPart, ExportRow, Shapable, Split
from batchrunner.core.job import Json
from batchrunner.core.values import dataclass
from batchrunner.exporters.columns import json_text, mapping, mappings, text

_ENDINGS: Final = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif"}
"""By the format that a row names."""
_NO_PICTURE: Final = "rows without a picture"
_NO_CAPTION: Final = "pictures without a caption (--caption)"
_LEAST_DIGITS: Final = 6
_CAPTION_DIGITS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Captioned:
    row: ExportRow
    content: bytes
    ending: str
    caption: str
    width: Json
    height: Json


def _captioned(run: Shapable, endings: dict[str, str]) -> Iterator[_Captioned]:
    """The pictures of the run that such an export has."""
    for row in run.rows():
        pictures = mappings(mapping(row.fields.get("output")).get("images"))
        if not pictures:
            run.leave_out(_NO_PICTURE)
        for picture in pictures:
            ending = endings.get(text(picture.get("format")))
            if ending is None:
                run.leave_out(f"{text(picture.get('format'))} pictures, which the readers of this format do not know")
                continue
            sha256 = text(picture.get("sha256"))
            caption = run.caption(row, sha256)
            if caption is None:
                run.leave_out(_NO_CAPTION)
                continue
            content = run.picture(text(picture.get("path")), sha256)
            if content is not None:
                run.wrote()
                yield _Captioned(
                    row=row,
                    content=content,
                    ending=ending,
                    caption=caption,
                    width=picture.get("width"),
                    height=picture.get("height"),
                )


def imagefolder(splits: Sequence[Split]) -> Iterator[ExportPart]:
    """`train/000001.png` …, and `train/metadata.jsonl`, which has to lie beside them: its columns are flat."""
    for split in splits:
        folder = split.name or "train"
        yield ExportPart(path=f"{folder}/metadata.jsonl", content=b"", more=True)
        for number, picture in enumerate(_captioned(split.run, _ENDINGS), 1):
            name = f"{number:0{_LEAST_DIGITS}}.{picture.ending}"
            yield ExportPart(path=f"{folder}/{name}", content=picture.content)
            line = json_text(_metadata(name, picture)).encode() + b"\n"
            yield ExportPart(path=f"{folder}/metadata.jsonl", content=line, more=True)


def _metadata(name: str, picture: _Captioned) -> dict[str, Json]:
    """`params` and `vars` as text: their values may have other types in other rows, which columns may not."""
    fields = picture.row.fields
    told: dict[str, Json] = {"file_name": name, "text": picture.caption}
    told |= {key: text(fields.get(key)) for key in ("prompt", "id", "prompt_id", "model")}
    told |= {key: json_text(mapping(fields.get(key))) for key in ("params", "vars")}
    return told | {"width": picture.width, "height": picture.height, "key": text(fields.get("key"))}


def captions(splits: Sequence[Split]) -> Iterator[ExportPart]:
    """`0001.png` with `0001.txt`, its caption on one line, and `metadata.jsonl` with `image` and `prompt`."""
    for split in splits:
        folder = "" if split.name is None else f"{split.name}/"
        yield ExportPart(path=f"{folder}metadata.jsonl", content=b"", more=True)
        for number, picture in enumerate(_captioned(split.run, _STILL), 1):
            name = f"{number:0{_CAPTION_DIGITS}}"
            image = f"{name}.{picture.ending}"
            yield ExportPart(path=f"{folder}{image}", content=picture.content)
            yield ExportPart(path=f"{folder}{name}.txt", content=" ".join(picture.caption.split()).encode())
            line = json_text({"image": image, "prompt": picture.caption}).encode() + b"\n"
            yield ExportPart(path=f"{folder}metadata.jsonl", content=line, more=True)


_STILL: Final = {name: ending for name, ending in _ENDINGS.items() if name != "GIF"}
"""Trainers of adapters read no GIF."""


# `webdataset`: a tar of samples for training, `000001.png` with `000001.txt`, the caption, and `000001.json`, the row.
#
# An item's further pictures are `000001.1.png` and so on. The text of an answer is `000001.txt`. Members have no times
# and no owners.

_MODE: Final = 0o644
_LONGEST_ENDING: Final = 8


def webdataset(run: Shapable) -> Iterator[bytes]:
    """A tar, its members one after the other."""
    digits = max(_LEAST_DIGITS, len(str(run.count)))
    written = 0
    for number, row in enumerate(run.rows(), 1):
        for member in _members(run, row):
            written += member.tar_bytes
            yield from member.blocks(f"{number:0{digits}}")
    yield _end_of_tar(written)


def webdataset_shards(splits: Sequence[Split]) -> Iterator[ExportPart]:
    """`train-000000.tar` and so on: a new one where the next sample would make it larger than asked for."""
    for split in splits:
        most = split.run.options.shard_bytes
        shard = written = 0
        path = f"{split.name or 'train'}-{shard:06}.tar"
        digits = max(_LEAST_DIGITS, len(str(split.run.count)))
        for number, row in enumerate(split.run.rows(), 1):
            sample = list(_members(split.run, row))
            sample_bytes = sum(member.tar_bytes for member in sample)
            if most is not None and written and written + sample_bytes > most:
                yield ExportPart(path=path, content=_end_of_tar(written))
                shard, written = shard + 1, 0
                path = f"{split.name or 'train'}-{shard:06}.tar"
            written += sample_bytes
            for member in sample:
                for block in member.blocks(f"{number:0{digits}}"):
                    yield ExportPart(path=path, content=block, more=True)
        yield ExportPart(path=path, content=_end_of_tar(written))


def _end_of_tar(written: int) -> bytes:
    end = bytes(2 * tarfile.BLOCKSIZE)
    return end + bytes(-(written + len(end)) % tarfile.RECORDSIZE)


class _Member(NamedTuple):
    """A file of a sample. A large one is in memory a piece at a time."""

    ending: str
    size_bytes: int
    pieces: Iterable[bytes]

    @property
    def tar_bytes(self) -> int:
        """With its head, in whole blocks."""
        return tarfile.BLOCKSIZE + self.size_bytes + -self.size_bytes % tarfile.BLOCKSIZE

    def blocks(self, stem: str) -> Iterator[bytes]:
        """The member as a tar has it."""
        head = tarfile.TarInfo(f"{stem}.{self.ending}")
        head.size = self.size_bytes
        head.mode = _MODE
        yield head.tobuf(tarfile.USTAR_FORMAT)
        yield from self.pieces
        yield bytes(-self.size_bytes % tarfile.BLOCKSIZE)


def _members(run: Shapable, row: ExportRow) -> Iterator[_Member]:
    """The row last, after all files that it names."""
    output = mapping(row.fields.get("output"))
    caption: str | None = None
    pictures, media = (mappings(output.get(name)) for name in ("images", "media"))
    for place, file in enumerate([*pictures, *media]):
        path, sha256 = text(file.get("path")), text(file.get("sha256"))
        content = run.file(path, sha256)
        if content is not None:
            ending = _ENDINGS.get(text(file.get("format"))) or (_ending_of(path) if place >= len(pictures) else "bin")
            yield _Member(f"{place}.{ending}" if place else ending, *content)
            caption = run.caption(row, sha256) if caption is None else caption
    said = output.get("text") if isinstance(output.get("text"), str) else caption
    if said is not None:
        words = text(said).encode()
        yield _Member("txt", len(words), (words,))
    yield _Member("json", len(row.line), (row.line,))


def _ending_of(path: str) -> str:
    """Of a file that has the ending of its type, such as `mp4`; `bin` where there is none, or one of the others'."""
    stem, _, ending = path.rpartition("/")[2].lower().rpartition(".")
    known = stem and ending.isascii() and ending.isalnum() and len(ending) <= _LONGEST_ENDING
    return ending if known and ending not in {"txt", "json"} else "bin"
