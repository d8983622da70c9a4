"""Image tasks at a field server: what it answers to orders and polls, row by row, and what must come of it.

`Tasks` is a script that counts orders; `TaskCase` a row of a table. In replies `T` stands for the order's own task id,
`U` for the address of its picture, and `{base}` for the server's own.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from batchrunner.simulator.drawing import draw
from tests.field.runs import Field, Ran
from tests.field.server import Answer, Asked, Reply, http

PNG: Final = draw("a boat", (64, 64), 1)
ParsedAnswer: TypeAlias = Any
"""JSON to be answered with 200, or a whole reply."""
ACCEPTED: Final = {"task_id": "T", "request_id": "r"}
RUNNING: Final = {"task_id": "T", "task_status": "RUNNING", "request_id": "r"}
DONE: Final = {"task_id": "T", "task_status": "SUCCEED", "output_images": ["U"], "request_id": "r"}


def failed(errors: Any = None, **fields: Any) -> dict[str, Any]:
    """A poll's reply: the task failed."""
    return {"task_id": "T", "task_status": "FAILED", **({} if errors is None else {"errors": errors}), **fields}


@dataclass
class Tasks:
    """A script: the n-th reply of `submits` to the n-th order, of `polls` to a task's n-th poll; the last one stays."""

    submits: Sequence[ParsedAnswer] = (ACCEPTED,)
    polls: Sequence[ParsedAnswer] = (DONE,)
    by_order: dict[int, Sequence[ParsedAnswer]] = field(default_factory=dict)
    """Polls of the tasks of certain orders, counted from 1."""
    at: Callable[[Asked, int], ParsedAnswer | None] = lambda _asked, _order: None
    """Asked before `polls`, with the number of the order; None leaves it to them."""
    file: Answer | None = None
    orders: int = 0
    polled: dict[int, int] = field(default_factory=dict)
    poll_times: list[float] = field(default_factory=list)
    order_times: list[float] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Answer:
        if asked.path.startswith("/files/"):
            return self.file if self.file is not None else http(PNG, kind="image/png")
        if asked.method == "POST":
            self.orders += 1
            self.order_times.append(asked.at_s)
            return self._filled(_nth(self.submits, self.orders), asked, self.orders)
        order = int("".join(char for char in asked.path.rpartition("/")[2] if char.isdigit()) or 1)
        self.polled[order] = self.polled.get(order, 0) + 1
        self.poll_times.append(asked.at_s)
        said = self.at(asked, order)
        if said is None:
            said = _nth(self.by_order.get(order, self.polls), self.polled[order])
        return self._filled(said, asked, order)

    def _filled(self, said: ParsedAnswer, asked: Asked, order: int) -> Answer:
        if isinstance(said, Reply):
            return said
        if isinstance(said, bytes):
            head, gap, body = said.partition(b"\r\n\r\n")
            filled = self._put(body.decode("latin-1"), asked, order).encode("latin-1")
            head = head.replace(f"Content-Length: {len(body)}".encode(), f"Content-Length: {len(filled)}".encode())
            return head + gap + filled
        return http(self._put(json.dumps(said), asked, order))

    def _put(self, text: str, asked: Asked, order: int) -> str:
        name = unquote(asked.path.rpartition("/")[2]) if asked.method == "GET" else f"t{order}"
        text = (
            text.replace('"T"', f'"{name}"')
            .replace('\\"T\\"', f'\\"{name}\\"')
            .replace('"U"', f'"{asked.base}/files/{order}.png"')
        )
        return text.replace("{base}", asked.base).replace("{host}", asked.base.partition("://")[2])


def _nth(said: Sequence[ParsedAnswer], number: int) -> ParsedAnswer:
    return said[min(number, len(said)) - 1]


def image_job(*, items: int = 1, **changes: Any) -> dict[str, Any]:
    """A picture job at a server like ModelScope's, with three tries."""
    provider = {"preset": "modelscope", **changes.pop("provider", {})}
    return {
        "kind": "image",
        "model": "Qwen/Qwen-Image",
        "provider": provider,
        "prompts": [f"a boat, number {number}" for number in range(items)],
        "retry": {"attempts": 3},
        "params": {"size": "64x64"},
        **changes,
    }


@dataclass(frozen=True, kw_only=True)
class TaskCase:
    """A row: what the server says, and what must come of it."""

    name: str
    submits: Sequence[ParsedAnswer] = (ACCEPTED,)
    polls: Sequence[ParsedAnswer] = (DONE,)
    orders: int = 1
    exit_status: int = 0
    done: int = 1
    failed: int = 0
    kind: str | None = None
    """`error.class` of the failure, or the kind of what is held."""
    words: str = ""
    """A part of the failure's message, or of what the run says at its end."""
    job: dict[str, Any] = field(default_factory=dict)
    reference: str = ""

    def __str__(self) -> str:
        return self.name


def check_task_case(field_: Field, case: TaskCase) -> tuple[Ran, Tasks]:
    """Run it and hold what came of it against the row."""
    tasks = Tasks(submits=case.submits, polls=case.polls)
    ran = field_.run(tasks, image_job(**case.job))
    told = (ran.rows, ran.failures, ran.report.status, ran.events("retry"))
    assert tasks.orders == case.orders, told
    assert (ran.exit_status, len(ran.rows), len(ran.failures)) == (case.exit_status, case.done, case.failed), told
    if case.done:
        assert all(row["output"]["images"] for row in ran.rows)
    if case.failed and case.kind is not None:
        assert {row["error"]["class"] for row in ran.failures} == {case.kind}, told
    elif case.kind is not None:
        assert {group.kind for group in ran.report.status.held} == {case.kind}, told
    shown = " ".join([*(str(row["error"]["message"]) for row in ran.failures), ran.report.status.message or ""])
    assert case.words in shown, shown
    return ran, tasks
