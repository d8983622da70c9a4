"""Forms as `multipart/form-data`: fields and files of one request, the same bytes for the same request.

Servers that take files read such a form. Names of fields are quoted as browsers do it; a boundary is made of the
content, so that a retry sends what the first try sent, and it stands in no part. See docs/transcription.md.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

from batchrunner.core.http import Request
from batchrunner.core.job import Json
from batchrunner.providers.json_bodies import encode


def form_request(url: str, parts: Sequence[bytes]) -> Request:
    """The POST of these parts, in their order."""
    boundary = _boundary(parts)
    body = b"".join(
        (*(piece for part in parts for piece in (b"--", boundary, b"\r\n", part, b"\r\n")), b"--", boundary, b"--\r\n")
    )
    kind = f"multipart/form-data; boundary={boundary.decode()}"
    return Request(method="POST", url=url, headers={"content-type": kind}, body=body)


def field_part(name: str, value: Json) -> bytes:
    """A value: text as it is, anything else as JSON."""
    said = value if isinstance(value, str) else encode(value).decode()
    return f'Content-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{said}'.encode("utf-8", "replace")


def field_parts(name: str, value: Json) -> Iterator[bytes]:
    """A parameter as OpenAI's form has it: a part `name[]` for each entry of a list, `name[key]` for each of a mapping.

    A null has no form: it is left out, which says the same.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from field_parts(f"{name}[{key}]", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from field_parts(name if name.endswith("[]") else f"{name}[]", inner)
    elif value is not None:
        yield field_part(name, value)


def file_part(name: str, data: bytes, *, file_name: str, media_type: str) -> bytes:
    """A file with a name of our own: that on this machine is nobody's business."""
    head = f'Content-Disposition: form-data; name="{_quoted(name)}"; filename="{file_name}"\r\n'
    return head.encode("utf-8", "replace") + f"Content-Type: {media_type}\r\n\r\n".encode("utf-8", "replace") + data


def _quoted(name: str) -> str:
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def _boundary(parts: Sequence[bytes]) -> bytes:
    """The same for the same request; in no part, or another is taken."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    boundary = b"batchrunner-" + digest.hexdigest().encode()
    while any(boundary in part for part in parts):
        digest.update(boundary)
        boundary = b"batchrunner-" + digest.hexdigest().encode()
    return boundary
