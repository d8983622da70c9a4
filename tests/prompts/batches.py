"""Lines of OpenAI batch files for the tests of the prompts room."""

import base64
import json
from pathlib import Path
from typing import Any

from batchrunner.core.job import DialectName, Job, Source
from batchrunner.core.values import replace
from tests.prompts.jobs import source

PNG = b"\x89PNG\r\n\x1a\nrest"
PNG_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
SAID = [{"role": "user", "content": "hi"}]


def line(**changes: Any) -> dict[str, Any]:
    return {
        "custom_id": "r1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "a/One", "messages": SAID, "max_tokens": 64},
        **changes,
    }


def body(**changes: Any) -> dict[str, Any]:
    return line(body={"model": "a/One", "messages": SAID, **changes})


def parts(*content: dict[str, Any] | str) -> dict[str, Any]:
    listed = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return body(messages=[{"role": "user", "content": listed}])


def shown(url: str = PNG_URL, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def batch(path: Path, *lines: dict[str, Any], **how: Any) -> Source:
    return source(path / "batch.jsonl", "".join(json.dumps(one) + "\n" for one in lines), **how)


def user(content: Any, **more: Any) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": content, **more}])


def speaking(dialect: DialectName, job: Job) -> Job:
    return replace(job, provider=replace(job.provider, dialect=dialect))
