"""Task servers as tables: what is ordered, what every reply comes to, and what no table can change."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec
import pytest

from batchrunner.core.http import Completed, Decoder, Ending, Interrupted
from batchrunner.core.item import InputPicture
from batchrunner.core.job import Json, Provider
from batchrunner.core.outcome import (
    FollowUp,
    Pending,
    PictureBytes,
    Pictures,
    PictureUrl,
    PollOutcome,
    Problem,
    ProblemKind,
    Revision,
    SendOutcome,
    TaskAccepted,
    TaskAddresses,
)
from batchrunner.core.ports import TaskDialect
from batchrunner.core.task_table import TaskTable
from batchrunner.core.task_table_faults import table_of
from batchrunner.core.values import replace
from batchrunner.providers import dialect_for
from batchrunner.providers.tasks import TableTasks
from batchrunner.spec.reader import read_yaml
from batchrunner.spec.task_tables import shipped_table, shipped_tables
from tests.providers.reading import RESET, head, item, provider, read, read_every_way
from tests.providers.task_servers import API, FILE, MODEL, OTHER, PROMPT, SEED, SERVERS, Reply, Verdict

K = ProblemKind
T = TypeVar("T")

_ENDS: dict[ProblemKind, Verdict] = {
    K.TASK_CANCELLED: "cancelled",
    K.CONTENT_FILTER: "filtered",
    K.TASK_NOT_FOUND: "gone",
}


@cache
def dialect(name: str) -> TaskDialect:
    if name == "modelscope-images":
        made = dialect_for(provider(dialect="modelscope-images", base_url=API))
    else:
        made = dialect_for(served(shipped_table(name)))
    assert isinstance(made, TaskDialect)
    return made


def served(table: TaskTable, base_url: str = API) -> Provider:
    return replace(provider("openai", "task", base_url), task=table)


@cache
def made(text: str) -> TableTasks:
    """The dialect of a table as people write it."""
    tree = read_yaml(text).tree
    assert isinstance(tree, dict)
    table = table_of(tree)
    assert isinstance(table, TaskTable), table
    return TableTasks(served(table))


def verdict(outcome: PollOutcome) -> Verdict:
    match outcome:
        case Pending(state=state):
            return state
        case Pictures() | FollowUp():
            return "done"
        case Problem(of_task=True, kind=kind):
            return _ENDS.get(kind, "failed")
        case Problem(kind=kind):
            return "gone" if kind is K.TASK_NOT_FOUND else "of the poll"


def body_of(value: Json) -> bytes:
    return json.dumps(value).encode()


def answers(make: Callable[[], Decoder[T]], reply: Json, status: int = 200) -> T:
    return read_every_way(make, head(status), body_of(reply))


@cache
def addresses_of(name: str) -> TaskAddresses:
    submitted = answers(lambda: dialect(name).decoder(item()), SERVERS[name].submit)
    assert isinstance(submitted, TaskAccepted)
    return submitted.addresses


# -- all of them


def test_every_table_that_is_shipped_has_its_replies_here() -> None:
    assert set(SERVERS) == {"modelscope-images", *shipped_tables()}


@pytest.mark.parametrize("name", SERVERS)
def test_the_order_is_what_the_server_takes(name: str) -> None:
    server = SERVERS[name]
    ordered = item(PROMPT, params={"seed": SEED}, model=MODEL, body=server.graph)
    request = dialect(name).encode(ordered, Revision())
    assert (request.method, request.url) == ("POST", API + server.path)
    assert json.loads(request.body or b"") == server.body
    headers = {key.lower(): value for key, value in request.headers.items()}
    assert headers.items() >= {key.lower(): value for key, value in server.headers.items()}.items()


@pytest.mark.parametrize("name", SERVERS)
def test_the_reply_to_an_order_is_an_open_task_whatever_state_it_names(name: str) -> None:
    server = SERVERS[name]
    submitted = answers(lambda: dialect(name).decoder(item()), server.submit)
    assert isinstance(submitted, TaskAccepted)
    assert (submitted.task_id, submitted.guess) == ("TASK", False)
    poll = dialect(name).poll("TASK", submitted.addresses)
    assert (poll.method, poll.url) == ("GET", API + server.poll_path)
    headers = {key.lower(): value for key, value in poll.headers.items()}
    assert headers.items() >= {key.lower(): value for key, value in server.poll_headers.items()}.items()


POLLS = [(name, reply) for name, server in SERVERS.items() for reply in server.polls]
QUEUES = [(name, reply) for name, server in SERVERS.items() for reply in server.queue]
RESULTS = [(name, reply) for name, server in SERVERS.items() for reply in server.results]


def polled(name: str, reply: Reply) -> PollOutcome:
    status, value, _ = reply
    outcome = answers(lambda: dialect(name).poll_decoder("TASK", addresses_of(name)), value, status)
    if isinstance(outcome, FollowUp) and SERVERS[name].queue:
        status, value, _ = SERVERS[name].queue[0]
        return answers(lambda: queue_decoder(name), value, status)
    return outcome


def queue_decoder(name: str) -> Decoder[PollOutcome]:
    found = read(dialect(name).poll_decoder("TASK"), head(), [b"{}"], Completed())
    assert isinstance(found, FollowUp)
    assert found.request.url == f"{API}/queue"
    return found.decoder


def result_decoder(name: str) -> Decoder[PollOutcome]:
    done = next(reply for reply in SERVERS[name].polls if reply[2] == "done")
    found = polled(name, done)
    assert isinstance(found, FollowUp)
    assert found.request.url == API + SERVERS[name].result_path
    return found.decoder


@pytest.mark.parametrize(("name", "reply"), POLLS)
def test_every_reply_to_a_poll_is_read(name: str, reply: Reply) -> None:
    outcome = polled(name, reply)
    assert verdict(outcome) == reply[2]
    if isinstance(outcome, Pictures):
        first = f"{API}/view?filename=TASK%20a%26b.png&subfolder=&type=output" if name == "comfyui" else FILE
        first = API + SERVERS[name].content_path if SERVERS[name].content_path else first
        assert outcome.refs[0] == PictureUrl(url=first)
        assert PictureUrl(url=OTHER) not in outcome.refs or name == "replicate"


@pytest.mark.parametrize(("name", "reply"), RESULTS)
def test_every_reply_with_a_result_is_read(name: str, reply: Reply) -> None:
    status, value, expected = reply
    outcome = answers(lambda: result_decoder(name), value, status)
    assert verdict(outcome) == expected


@pytest.mark.parametrize(("name", "reply"), QUEUES)
def test_every_reply_about_what_waits_is_read(name: str, reply: Reply) -> None:
    status, value, expected = reply
    assert verdict(answers(lambda: queue_decoder(name), value, status)) == expected
    _cut(lambda: queue_decoder(name), body_of(value), status)


def test_an_order_carries_the_id_that_the_client_chose() -> None:
    ordered = item(PROMPT, model=MODEL, body=SERVERS["comfyui"].graph)
    request = dialect("comfyui").encode(ordered, Revision(task_id="c-1"))
    assert json.loads(request.body or b"") == {**SERVERS["comfyui"].body, "prompt_id": "c-1"}
    assert getattr(dialect("comfyui"), "names_tasks", False)
    assert not getattr(dialect("bfl"), "names_tasks", False)


def test_at_least_53_replies_are_read() -> None:
    assert len(SERVERS) - 1 + len(POLLS) + len(RESULTS) > 53


# -- each of them cut at every byte


def endings() -> tuple[Ending, ...]:
    return Completed(), RESET, Interrupted(cause="timeout", message="no bytes for 120 s", sent=True)


@pytest.mark.parametrize("name", SERVERS)
def test_half_a_reply_to_an_order_is_the_whole_id_or_none(name: str) -> None:
    body = body_of(SERVERS[name].submit)
    kept = 0
    for cut in range(len(body)):
        for ending in endings():
            outcome = read(dialect(name).decoder(item()), head(), [body[:cut]], ending)
            if isinstance(outcome, TaskAccepted):
                assert outcome.task_id == "TASK"
                assert b'"TASK"' in body[:cut]
                kept += 1
            else:
                assert isinstance(outcome, Problem)
                assert outcome.kind in {K.STREAM_CUT, K.TIMEOUT, K.NOT_UNDERSTOOD}, (cut, outcome)
    assert kept or b'"TASK"}' in body.replace(b" ", b"") or name == "fal-queue"


@pytest.mark.parametrize(("name", "reply"), POLLS)
def test_half_a_reply_to_a_poll_ends_no_task(name: str, reply: Reply) -> None:
    status, value, _ = reply
    made_of, addresses = dialect(name), addresses_of(name)
    _cut(lambda: made_of.poll_decoder("TASK", addresses), body_of(value), status)


@pytest.mark.parametrize(("name", "reply"), RESULTS)
def test_half_a_result_ends_no_task(name: str, reply: Reply) -> None:
    status, value, _ = reply
    _cut(lambda: result_decoder(name), body_of(value), status)


def _cut(make: Callable[[], Decoder[PollOutcome]], body: bytes, status: int) -> None:
    for cut in range(len(body)):
        for ending in endings():
            outcome = read(make(), head(status), [body[:cut]], ending)
            assert isinstance(outcome, Problem)
            assert verdict(outcome) == "of the poll", (cut, outcome)


# -- what no table can change

PLAIN = """
source: here
base: https://api.example
submit: {path: /order, body: {prompt: $prompt, ...: $params}, id: [id, task.id], poll_url: url}
poll: {path: "/tasks/{id}", state: [status]}
states: {queued: [waiting], running: [busy], done: [ready], failed: [bad], gone: [lost]}
result: {urls: ["files.*.url", file], b64: ["files.*.b64"], message: [why], code: [code]}
"""
WITHOUT_PATH = PLAIN.replace('path: "/tasks/{id}", ', "")


def submitted(table: str, reply: Json, status: int = 200) -> SendOutcome:
    return answers(lambda: made(table).decoder(item()), reply, status)


def asked(reply: Json, status: int = 200, table: str = PLAIN) -> PollOutcome:
    return answers(lambda: made(table).poll_decoder("T"), reply, status)


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example/tasks/T",
        "http://api.example/tasks/T",
        "https://api.example.evil.example/T",
        "https://api.example@evil.example/T",
        "https://user:pw@api.example/T",
        "https://api.example:8443/T",
        "ftp://api.example/T",
        "https://[::1",
        "https://api.example/a b",
        "//evil.example/T",
        "https://api.example/T#x",
        "https:\\\\evil.example/T",
    ],
)
def test_an_address_on_a_host_that_the_table_does_not_name_is_never_asked(url: str) -> None:
    accepted = submitted(PLAIN, {"id": "T", "url": url})
    assert accepted == TaskAccepted(task_id="T", hints=accepted.hints if isinstance(accepted, TaskAccepted) else None)
    held = submitted(WITHOUT_PATH, {"id": "T", "url": url})
    assert isinstance(held, Problem)
    assert held.kind is K.NOT_UNDERSTOOD
    assert "task T" in held.message


@pytest.mark.parametrize(
    ("hosts", "url", "is_asked"),
    [
        ("[other.example]", "https://other.example/T", True),
        ("[other.example]", "https://eu.other.example/T?id=1", True),
        ("[other.example]", "https://eu.other.example:443/T", True),
        ("[other.example]", "http://other.example/T", False),
        ("[other.example]", "https://other.example:8443/T", False),
        ("[other.example]", "https://another.example/T", False),
        ("[]", "/tasks/T/now", True),
        ("[]", "https://api.example/tasks/T", True),
    ],
)
def test_an_address_on_a_named_domain_is_asked_over_https(hosts: str, url: str, *, is_asked: bool) -> None:
    table = PLAIN.replace("poll_url: url", f"poll_url: url, poll_hosts: {hosts}")
    accepted = submitted(table, {"id": "T", "url": url})
    assert isinstance(accepted, TaskAccepted)
    assert bool(accepted.addresses.poll) is is_asked


@pytest.mark.parametrize("task_id", ["..", ".", "9" * 600])
def test_an_id_that_cannot_stand_in_an_address_is_held(task_id: str) -> None:
    held = submitted(PLAIN, {"id": task_id})
    assert isinstance(held, Problem)
    assert held.kind is K.NOT_UNDERSTOOD


@pytest.mark.parametrize(("task_id", "written"), [("a/b", "a%2Fb"), ("a?b#c", "a%3Fb%23c"), ("é", "%C3%A9")])
def test_an_id_is_quoted(task_id: str, written: str) -> None:
    assert made(PLAIN).poll(task_id).url == f"https://api.example/tasks/{written}"


def test_a_model_keeps_its_slashes_and_nothing_else() -> None:
    table = PLAIN.replace("path: /order", 'path: "/run/{model}/x"')
    request = made(table).encode(item(model="a/b?c d"), Revision())
    assert request.url == "https://api.example/run/a/b%3Fc%20d/x"


SUBMITS: dict[str, tuple[int, Json, ProblemKind | str]] = {
    "a refusal with 200": (200, {"success": False, "message": "Rate limit reached for requests"}, K.THROTTLE),
    "neither id nor picture": (200, {"ok": True}, K.NOT_UNDERSTOOD),
    "an id elsewhere": (200, {"data": {"task_id": "X"}}, "X"),
    "a gateway's error with the id": (504, {"id": "T", "message": "upstream timed out"}, "T"),
    "a refusal": (400, {"error": {"message": "bad size"}}, K.BAD_REQUEST),
    "a refused key": (401, {"detail": "Authentication failed"}, K.AUTH),
}


@pytest.mark.parametrize(("status", "reply", "expected"), SUBMITS.values(), ids=SUBMITS.keys())
def test_a_reply_to_an_order_that_is_no_plain_task(status: int, reply: Json, expected: ProblemKind | str) -> None:
    outcome = submitted(PLAIN, reply, status)
    if isinstance(outcome, TaskAccepted):
        assert (outcome.task_id, outcome.guess) == (expected, True)
    else:
        assert isinstance(outcome, Problem)
        assert outcome.kind is expected


def test_pictures_without_a_task_finish_the_item() -> None:
    outcome = submitted(PLAIN, {"files": [{"b64": "iVBORw0KGgo="}]})
    assert isinstance(outcome, Pictures)
    assert outcome.refs == (PictureBytes(data=b"\x89PNG\r\n\x1a\n"),)


POLLED: dict[str, tuple[int, Json, Verdict]] = {
    "a word that the table does not have": (200, {"status": "DONE"}, "unknown"),
    "a word in other letters": (200, {"status": " READY ", "file": FILE}, "done"),
    "no word": (200, {}, "unknown"),
    "another task": (200, {"id": "X", "status": "ready", "file": FILE}, "of the poll"),
    "this task in other letters": (200, {"id": "t", "status": "busy"}, "running"),
    "done without a file": (200, {"status": "ready"}, "of the poll"),
    "done, filtered": (200, {"status": "ready", "why": "NSFW content detected"}, "filtered"),
    "a refused key": (401, {"detail": "Authentication failed"}, "of the poll"),
    "a web page": (404, "<html>404</html>", "of the poll"),
    "a path that is not there": (404, {"detail": "Not Found", "path": "/tasks/T"}, "of the poll"),
    "a task that is not there": (404, {"message": "task not found"}, "gone"),
    "an error with 200": (200, {"error": {"message": "try later"}}, "of the poll"),
    "the state of something else": (200, {"state": "ready"}, "unknown"),
    "a list": (200, [], "unknown"),
    "a text": (200, "ready", "unknown"),
}


@pytest.mark.parametrize(("status", "reply", "expected"), POLLED.values(), ids=POLLED.keys())
def test_what_a_poll_states_of_the_task_and_what_only_of_itself(status: int, reply: Json, expected: Verdict) -> None:
    body = reply.encode() if isinstance(reply, str) and reply.startswith("<") else body_of(reply)
    content = "text/html" if body.startswith(b"<") else "application/json"
    outcome = read_every_way(lambda: made(PLAIN).poll_decoder("T"), head(status, content), body)
    assert verdict(outcome) == expected


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_refused_request_for_the_result_states_nothing_of_the_task(status: int) -> None:
    table = PLAIN.replace("result: {", 'result: {path: "/results/{id}", ')
    found = asked({"status": "ready"}, table=table)
    assert isinstance(found, FollowUp)
    outcome = answers(lambda: fresh_result(table), {"message": "x"}, status)
    assert verdict(outcome) == "of the poll"


def fresh_result(table: str) -> Decoder[PollOutcome]:
    found = asked({"status": "ready"}, table=table)
    assert isinstance(found, FollowUp)
    return found.decoder


def test_the_words_of_a_table_name_the_kind_of_a_refusal() -> None:
    table = PLAIN + "errors: [{code: E7, kind: quota_model}, {text: out of tea, kind: overloaded}]\n"
    failed = asked({"status": "bad", "why": "no", "code": "e7"}, table=table)
    refused = submitted(table, {"error": {"message": "We are OUT OF TEA"}}, 400)
    assert isinstance(failed, Problem)
    assert isinstance(refused, Problem)
    assert (failed.kind, failed.of_task, refused.kind) == (K.QUOTA_MODEL, True, K.OVERLOADED)


def test_the_seconds_that_a_server_asks_for_are_followed() -> None:
    outcome = asked(
        {"status": "waiting", "eta": 12}, table=PLAIN.replace("state: [status]", "state: [status], wait: eta")
    )
    assert isinstance(outcome, Pending)
    assert outcome.hint_s == 12.0


# -- the body

BODIES: list[tuple[str, dict[str, Any], Json]] = [
    ("{text: $prompt, n: 1}", {}, {"text": "Say hi", "n": 1}),
    ("{a: $params}", {"params": {"seed": 1}}, {"a": {"seed": 1}}),
    ("{a: $params.seed, b: $params}", {"params": {"seed": 1, "n": 2}}, {"a": 1, "b": {"n": 2}}),
    ("{a: $params.seed, b: 1}", {}, {"b": 1}),
    ("{a: {b: $params.seed}}", {}, {}),
    ("{a: {b: $params.seed, c: 1}}", {}, {"a": {"c": 1}}),
    ("{a: [{b: x, c: {d: $image}}, {e: 1}]}", {}, {"a": [{"e": 1}]}),
    ("{a: $images, b: $image}", {"pictures": True}, {"a": [FILE, OTHER], "b": FILE}),
    ("{a: 1, ...: $params}", {"params": {"a": 2, "b": None}}, {"a": 2, "b": None}),
]


@pytest.mark.parametrize(("body", "fields", "sent"), BODIES)
def test_the_holes_of_a_body_are_filled_or_left_out(body: str, fields: dict[str, Any], sent: Json) -> None:
    if fields.pop("pictures", False):
        fields["pictures"] = tuple(InputPicture(name=url, sha256="", url=url) for url in (FILE, OTHER))
    table = PLAIN.replace("{prompt: $prompt, ...: $params}", body)
    bare = msgspec.convert(read_yaml(table).tree, TaskTable)  # without the rule that a body has the prompt
    request = TableTasks(served(bare)).encode(item(**fields), Revision())
    assert json.loads(request.body or b"") == sent
