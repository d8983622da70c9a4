"""The balance of points is read when it is told, and is unknown, never zero, when it is not."""

import json

import pytest

from batchrunner.core.http import Completed, Ending, Interrupted, ResponseHead
from batchrunner.core.plan import PointBalance
from batchrunner.providers.modelscope_images import BalanceReader, balance_origin, balance_request

TOLD = {
    "success": True,
    "request_id": "0b5e",
    "data": {"total_balance": 250, "available_balance": 247.5, "frozen_amount": 2.5},
}


def read(body: bytes, *, status: int = 200, ending: Ending | None = None) -> PointBalance:
    reader = BalanceReader("KEY")
    reader.begin(ResponseHead(status=status, headers={}, received_at=0.0))
    for place in range(0, len(body), 7):
        if reader.feed(body[place : place + 7]):
            break
    return reader.end(ending or Completed())


def test_a_balance_is_read_as_it_was_given() -> None:
    found = read(json.dumps(TOLD).encode())
    assert found == PointBalance(account="KEY", available=247.5, total=250.0, frozen=2.5)


def test_nothing_left_is_zero_and_known() -> None:
    assert read(b'{"data": {"available_balance": 0}}').available == 0.0


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"", 401, "HTTP 401"),
        (json.dumps(TOLD).encode(), 500, "HTTP 500"),
        (b"", 200, "the expected form"),
        (b"<html>", 200, "the expected form"),
        (b"[1]", 200, "the expected form"),
        (b'{"data": {"available_balance": "12"}}', 200, "the expected form"),
        (b'{"data": {"available_balance": NaN}}', 200, "the expected form"),
        (b"[" * 100_000, 200, "the expected form"),
        (b'{"success": true}', 200, "has no balance"),
        (b'{"success": true, "data": {}}', 200, "has no balance"),
        (b'{"success": true, "data": null}', 200, "has no balance"),
        (b'{"success": false, "data": {"available_balance": 0}}', 200, "has no balance"),
    ],
)
def test_a_failure_is_never_read_as_nothing_left(body: bytes, status: int, why: str) -> None:
    found = read(body, status=status)
    assert found.available is None
    assert why in (found.why or "")


def test_a_broken_reply_states_why() -> None:
    found = read(b'{"data"', ending=Interrupted(cause="reset", message="gone", sent=True))
    assert (found.available, found.why) == (None, "gone")


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        ("https://api-inference.modelscope.cn/v1", "https://modelscope.cn"),
        ("https://api-inference.modelscope.cn", "https://modelscope.cn"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("https://gateway.example/ms/v1", "https://gateway.example"),
        ("https://api-inference.modelscope.cn.evil.example/v1", "https://api-inference.modelscope.cn.evil.example"),
    ],
)
def test_it_is_asked_at_modelscopes_own_host_or_where_the_job_states_modelscope_is(base_url: str, origin: str) -> None:
    assert balance_origin(base_url) == origin
    request = balance_request(base_url)
    assert (request.method, request.url) == ("GET", f"{origin}/openapi/v1/magicubes/balance")
    assert request.body is None
