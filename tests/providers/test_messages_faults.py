"""Anthropic streams that hold no whole answer: cut, refused, broken, too long."""

import pytest

from batchrunner.core.http import Completed
from batchrunner.core.outcome import Problem, ProblemKind
from batchrunner.providers.stream_decoder import TEXT_CAP_BYTES
from tests.providers.messages import (
    BEGUN,
    BLOCK,
    HI,
    PING,
    START,
    STOP,
    TOOL,
    USED,
    block,
    decoder,
    ended,
    event,
    nameless,
    outcome_of,
    pieces_of_input,
    text,
    thinking,
)
from tests.providers.reading import EVENTS, RESET, TIMEOUT, head

K = ProblemKind

CUTS = {
    "inside the text": START + BLOCK + HI,
    "inside an event": BEGUN + ended()[:40],
    "inside the thinking": START + block(0, type="thinking", thinking="") + thinking("hm"),
    "inside a call": START + TOOL + pieces_of_input(0, '{"a": 1}'),
    "after its beginning": START,
    "at once": b"",
    "after a ping": PING,
}


@pytest.mark.parametrize("body", CUTS.values(), ids=CUTS.keys())
def test_a_stream_that_ends_before_its_answer_is_cut(body: bytes) -> None:
    for ending, kind in ((Completed(), K.STREAM_CUT), (RESET, K.STREAM_CUT), (TIMEOUT, K.TIMEOUT)):
        problem = outcome_of(body, ending=ending)
        assert isinstance(problem, Problem)
        assert problem.kind is kind


def failure(kind: str, message: str = "m") -> bytes:
    return event("error", error={"type": kind, "message": message})


PROBLEMS: dict[str, tuple[bytes, ProblemKind, str | None]] = {
    "no message_start before a later block": (
        block(1, type="text", text="") + text("Hi.", 1) + ended() + STOP,
        K.STREAM_CORRUPT,
        None,
    ),
    "no message_start before a piece": (HI + ended() + STOP, K.STREAM_CORRUPT, None),
    "no message_start before the end": (STOP, K.STREAM_CORRUPT, None),
    "a piece of a call that never began": (START + pieces_of_input(3, "{}") + STOP, K.STREAM_CORRUPT, None),
    "no content": (START + ended() + STOP, K.EMPTY_RESPONSE, None),
    "no content and no reason": (START + STOP, K.EMPTY_RESPONSE, None),
    "no answer": (START + ended() + STOP, K.EMPTY_RESPONSE, None),
    "refused": (BEGUN + ended("refusal") + STOP, K.CONTENT_FILTER, "Hi."),
    "refused without a word": (START + ended("refusal") + STOP, K.CONTENT_FILTER, None),
    "a reason that says it did not finish": (BEGUN + ended("error") + STOP, K.STREAM_CUT, None),
    "overloaded": (BEGUN + failure("overloaded_error", "Overloaded"), K.OVERLOADED, "Overloaded"),
    "overloaded at once": (failure("overloaded_error", "Overloaded"), K.OVERLOADED, "Overloaded"),
    "overloaded, without its type": (
        BEGUN + b'event: error\ndata: {"error": {"type": "overloaded_error", "message": "o"}}\n\n',
        K.OVERLOADED,
        "o",
    ),
    "overloaded, without its line": (nameless(BEGUN + failure("overloaded_error", "o")), K.OVERLOADED, "o"),
    "throttled": (BEGUN + failure("rate_limit_error"), K.THROTTLE, "m"),
    "the server's own": (BEGUN + failure("api_error"), K.SERVER_ERROR, "m"),
    "a timeout of the server's": (BEGUN + failure("timeout_error"), K.SERVER_ERROR, "m"),
    "a bad key": (failure("authentication_error"), K.AUTH, "m"),
    "unpaid": (failure("billing_error"), K.BILLING, "m"),
    "not allowed": (failure("permission_error"), K.FORBIDDEN_MODEL, "m"),
    "no such model": (failure("not_found_error"), K.MODEL_NOT_FOUND, "m"),
    "a bad request": (failure("invalid_request_error"), K.BAD_REQUEST, "m"),
    "too large a request": (failure("request_too_large"), K.BAD_REQUEST, "m"),
    "a type nobody knows": (BEGUN + failure("surprise_error"), K.SERVER_ERROR, "m"),
    "an error before the reason": (BEGUN + failure("api_error"), K.SERVER_ERROR, "m"),
    "a detail in the middle": (BEGUN + b'data: {"detail": "m"}\n\n', K.SERVER_ERROR, "m"),
    "an error in another server's words": (b'data: {"errors": {"message": "Rate limited"}}\n\n', K.THROTTLE, None),
    "an error that is not JSON": (BEGUN + b"event: error\ndata: oh no\n\n", K.SERVER_ERROR, "oh no"),
    "words at the start": (b"data: the spend limit is reached\n\n", K.BILLING, "the spend limit is reached"),
    "words later": (BEGUN + b"data: oh no\n\n", K.STREAM_CORRUPT, None),
    "a part of another shape": (BEGUN + event("message_delta", delta=[1]), K.STREAM_CORRUPT, None),
    "JSON that is not an object": (b"data: [1]\n\n", K.STREAM_CORRUPT, None),
    "nested too deeply": (b"data: " + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"\n\n", K.STREAM_CORRUPT, None),
    "a page of HTML": (b"<html>Log in</html>", K.NOT_REACHED, None),
    "another server's stream": (b'data: {"choices": [{"delta": {"content": "Hi."}}]}\n\n', K.STREAM_CUT, None),
}


@pytest.mark.parametrize(("body", "kind", "message"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_a_stream_without_an_answer_states_why(body: bytes, kind: ProblemKind, message: str | None) -> None:
    problem = outcome_of(body)
    assert isinstance(problem, Problem)
    assert problem.kind is kind
    assert message is None or problem.message == message


def test_an_error_inside_a_stream_came_after_the_work_began() -> None:
    problem = outcome_of(BEGUN + failure("overloaded_error"))
    assert isinstance(problem, Problem)
    assert (problem.under_way, problem.status, problem.code) == (True, 200, "overloaded_error")


def test_a_refused_answer_was_paid_for_all_the_same() -> None:
    problem = outcome_of(BEGUN + ended("refusal") + STOP)
    assert isinstance(problem, Problem)
    assert problem.usage == USED


def test_an_answer_beyond_16_mb_is_too_large() -> None:
    reader = decoder()
    reader.begin(head(200, EVENTS))
    reader.feed(START + BLOCK)
    enough = [reader.feed(text("x" * 1024 * 1024)) for _ in range(17)]
    assert enough == [False] * 16 + [True]
    problem = reader.end(Completed())
    assert isinstance(problem, Problem)
    assert problem.kind is K.TOO_LARGE
    assert TEXT_CAP_BYTES == 16 * 1024 * 1024
