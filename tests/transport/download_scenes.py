"""What the tests of downloads share: a picture, a signed address, and how a fetch ends."""

from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.transport import PictureDownloads
from tests.transport.servers import downloads

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
SIGNED = "?Expires=9&Signature=canary-signature"


async def fetch(url: str, loader: PictureDownloads | None = None) -> bytes | Problem:
    async with loader or downloads() as opened:
        return await opened.fetch(url)


def failed(result: bytes | Problem) -> Problem:
    assert isinstance(result, Problem), result
    assert result.kind is ProblemKind.DOWNLOAD_FAILED
    assert "canary-signature" not in repr(result)
    return result
