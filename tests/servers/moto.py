"""moto's S3, in a process of its own: a judge of what is read from and written to an object store.

`make test-servers` installs it into `.servers/moto`; where it is absent its tests skip.
"""

import contextlib
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

INSTALLED = Path(__file__).resolve().parents[2] / ".servers/moto/bin/moto_server"
ACCESS_KEY, SECRET_KEY = "AKIACANARY0CANARY001", "canary/secret+of+the+store=0123456789abc"
"""Canaries: they must stand in no output."""
_PATIENCE_S = 60.0

needs_moto = pytest.mark.skipif(not INSTALLED.exists(), reason="moto is not installed: run `make test-servers`")


@contextlib.contextmanager
def moto(folder: Path, *, port: int) -> Iterator[dict[str, str]]:
    """Start it; gives the environment in which a process finds it."""
    root = f"http://127.0.0.1:{port}"
    env = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "1000000"}
    with (folder / "moto.log").open("wb") as log:
        server = subprocess.Popen([str(INSTALLED), "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log, env=env)
        try:
            _wait_for(f"{root}/moto-api/data.json", server)
            yield {
                "AWS_ENDPOINT_URL": root,
                "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_DEFAULT_REGION": "eu-west-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        finally:
            server.kill()
            server.wait()


def guard(env: dict[str, str]) -> None:
    """From now on it checks rights, and nobody has any."""
    asked = urllib.request.Request(
        f"{env['AWS_ENDPOINT_URL']}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(asked, timeout=30).close()


def store_of(env: dict[str, str]) -> Any:
    """The store as fsspec sees it, to put files there and to look at them."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    return s3fs.S3FileSystem(
        key=env["AWS_ACCESS_KEY_ID"],
        secret=env["AWS_SECRET_ACCESS_KEY"],
        client_kwargs={"endpoint_url": env["AWS_ENDPOINT_URL"], "region_name": env["AWS_DEFAULT_REGION"]},
        use_listings_cache=False,
    )


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.05)
    raise AssertionError("moto does not answer")
