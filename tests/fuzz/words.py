"""Texts that become names, addresses and lines on a terminal."""

import ipaddress
import unicodedata
from pathlib import PurePosixPath

from yarl import URL

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.item import STEM_LIMIT_BYTES, fold, safe_stem
from batchrunner.core.job import Timeouts
from batchrunner.core.outcome import PictureUrl
from batchrunner.core.status import FailureGroup, ItemCounts, LaneStatus, SendCounts, Status, UsageCounts
from batchrunner.core.values import replace
from batchrunner.prompts.ids import auto_id, slug
from batchrunner.providers.result_pictures import pictures_in
from batchrunner.report.summary import summary
from batchrunner.report.wording import printable
from batchrunner.stores.artifacts import safe_path
from batchrunner.transport.addresses import is_loopback_name, literal, looks_internal, reach
from batchrunner.transport.api_transport import _origin
from batchrunner.transport.downloads import PictureDownloads, _joined, _parsed, _shown
from tests.fuzz.target import Target
from tests.providers.reading import provider

STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
JOINERS = "\u200c\u200d"
STATUS = Status(
    job="j", state="failed", items=ItemCounts(total=3, failed=3), sends=SendCounts(total=3), usage=UsageCounts()
)


def as_words(data: bytes) -> str:
    """Text with lone surrogates where the bytes are no UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def name(data: bytes) -> object:
    """Any text as an id, a stem and a path of an answer: relative, below, short, printable."""
    text = as_words(data)
    path = PurePosixPath(safe_path(text))
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert path.parts
    for part in (*path.parts, safe_stem(text), safe_stem(text, suffix="-0123456789ab")):
        assert 0 < len(part.encode()) <= STEM_LIMIT_BYTES + 17
        assert not set(part) & set('/\\:*?"<>|\0\n')
        assert not part.startswith((".", "-"))
        assert all(unicodedata.category(char) not in STEERING for char in part)
        fold(part)
    assert auto_id(text)
    assert slug(text).isascii()
    return str(path)


def line(data: bytes) -> object:
    """Any text shown to people: no character of it steers a terminal or begins a line of its own."""
    text = as_words(data)
    shown = printable(text)
    steers(shown)
    assert len(printable(text, most=40)) <= 40 * 10
    lane = LaneStatus(account=text, model=text, state="parked", reason=text, until=text, concurrency=1)
    failure = FailureGroup(kind=text, message=text, count=2, example=text)
    status = replace(STATUS, job=text, message=text, lanes=(lane,), failures=(failure,), notes=(text,), dir=text)
    for part in summary(status).split("\n"):
        steers(part)
    return shown


def steers(shown: str) -> None:
    assert "\n" not in shown
    assert all(unicodedata.category(char) not in STEERING or char in JOINERS for char in shown), ascii(shown)


def address(data: bytes) -> object:
    """Any text as a picture's URL or a redirect: what passes leads outside, by https, without a password."""
    text = as_words(data)
    strict = PictureDownloads(timeouts=Timeouts(), allow_private=False, allow_http=False)
    told: list[object] = []
    for url in (_parsed(text), _joined(URL("https://files.example/a?x=1"), text)):
        objection = strict._objection(url)
        _shown(url).encode()
        told.append(objection)
        if objection is None:
            assert url is not None
            assert url.scheme == "https"
            assert url.raw_user is None
            assert leads_out(url.host or "")
    for ref in pictures_in({"images": [text], "output_images": [{"url": text}]}):
        assert not isinstance(ref, PictureUrl) or len(ref.url) <= 4096
    return told


def leads_out(host: str) -> bool:
    """True for names, which the gate judges later, and for addresses out in the world."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:
        return True


def host(data: bytes) -> object:
    """Any text as a host or a base URL."""
    text = as_words(data)
    told: list[object] = [reach(text), literal(text), is_loopback_name(text), looks_internal(text)]
    try:
        told.append(_origin(provider(base_url=text)))
    except JobMistakesError as error:
        told.append(str(error))
    return told


WORDS = (
    b"../../etc/passwd", b"/abs", b"con.txt", b"a/b\\c", b"", b".", b"..", b"\xc3\xa9", b"e\xcc\x81", b"x" * 300,
    b"a\0b", b"\xed\xa0\x80",
    b"\x1b]0;x\x07", b"\xe2\x80\xaeabc", b"line\r\nnext: rm", b"LPT1", b"-rf", b"~/.ssh", b"a%2f..%2fb",
    b"\xe4\xb8\xad\xe6\x96\x87",
    b"C:\\x", b"\xef\xbc\x8e\xef\xbc\x8e/\xef\xbc\x8f", b"\xe2\x80\xa8",
    b"\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9", b"NUL .png",
)  # fmt: skip
URLS = (
    b"https://files.example/a.png?Signature=x", b"http://127.0.0.1/", b"https://127.1/", b"https://2130706433/",
    b"https://0x7f.1/",
    b"https://[::1]/", b"https://[::ffff:127.0.0.1]/", b"https://[64:ff9b::7f00:1]/",
    b"https://169.254.169.254/latest", b"//b/c",
    b"https://user:pw@h/", b"https://h:99999/", b"https://h:0x50/", b"file:///etc/passwd",
    b"https://\xe2\x91\xa0.1.1.1/", b"https://10.0.0.1%00.b/",
    b"https://a\\@10.0.0.1/", b"https://[fe80::1%25eth0]/", b"HTTPS://LOCALHOST/", b"https:/x", b"/rel", b"?q",
    b"gopher://x", b"https://0/",
    b"https://[::]/", b"https://xn--/", b"https://a..b/", b"https://[v1.x]/", b"data:image/png;base64,AAAA",
    b"https://h/%zz%00",
)  # fmt: skip
TARGETS: tuple[Target, ...] = (
    Target("name", name, lambda: WORDS),
    Target("line", line, lambda: WORDS),
    Target("address", address, lambda: URLS),
    Target("host", host, lambda: (*URLS, b"localhost", b"127.0.0.1", b"a.internal", b"http://h/v1/chat/completions")),
)
