"""ModelScope's balance of points: a free question, asked beside the API proper.

What cannot be read is unknown, never zero. There is no list of what a call of a model costs. See
docs/providers/modelscope.md#points.
"""

from typing import Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from batchrunner.core.http import Ending, Interrupted, Request, ResponseHead
from batchrunner.core.plan import PointBalance

_API_HOST: Final = "api-inference.modelscope.cn"
_BALANCE_ORIGIN: Final = "https://modelscope.cn"
_PATH: Final = "/openapi/v1/magicubes/balance"
_OK: Final = 200
_MOST_BYTES: Final = 65_536


class _Balances(msgspec.Struct):
    total_balance: float | None = None
    available_balance: float | None = None
    frozen_amount: float | None = None


class _Reply(msgspec.Struct):
    success: bool | None = None
    data: _Balances | None = None


def balance_origin(base_url: str) -> str:
    """Where the balance is asked: beside ModelScope's API on a host of its own, elsewhere at the API's own origin."""
    parts = urlsplit(base_url)
    if parts.hostname == _API_HOST:
        return _BALANCE_ORIGIN
    return urlunsplit((parts.scheme, parts.netloc, "", "", ""))


def balance_request(base_url: str) -> Request:
    """The free GET."""
    return Request(method="GET", url=balance_origin(base_url) + _PATH, headers={"Accept": "application/json"})


class BalanceReader:
    """Reads its reply."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._status: int | None = None
        self._body = bytearray()

    def __repr__(self) -> str:
        return f"<BalanceReader {self._account}: {len(self._body)} bytes>"

    def begin(self, head: ResponseHead) -> None:
        """The head of the reply."""
        self._status = head.status

    def feed(self, data: bytes) -> bool:
        """A piece of its body; more than any balance needs is not read."""
        self._body += data
        return len(self._body) > _MOST_BYTES

    def end(self, ending: Ending) -> PointBalance:
        """The balance, or why it is not known."""
        if isinstance(ending, Interrupted):
            return self._unknown(ending.message)
        if self._status != _OK:
            return self._unknown(f"the server answered with HTTP {self._status}")
        try:
            reply = msgspec.json.decode(self._body, type=_Reply)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._unknown("the reply has another form than expected")
        if reply.success is False or reply.data is None or reply.data.available_balance is None:
            return self._unknown("the reply names no balance")
        return PointBalance(
            account=self._account,
            available=reply.data.available_balance,
            total=reply.data.total_balance,
            frozen=reply.data.frozen_amount,
        )

    def _unknown(self, why: str) -> PointBalance:
        return PointBalance(account=self._account, why=why)
