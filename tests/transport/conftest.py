"""What the transport promises holds on both of its ways: on aiohttp's internals, and on its public interface."""

import pytest


@pytest.fixture(params=["direct", "public"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way that POSTs take; a module that uses this runs each of its tests on both."""
    chosen: str = request.param
    if chosen == "public":
        monkeypatch.setattr("batchrunner.transport.api_transport.direct_way", lambda _: None)
    return chosen
