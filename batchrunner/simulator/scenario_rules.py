"""Refusals and mishaps that a scenario asks for: tables from its name to the rule that decides about a call."""

import math
from collections.abc import Callable
from email.utils import formatdate

from batchrunner.core.values import replace
from batchrunner.simulator.answers import asks_for_json_schema
from batchrunner.simulator.chat_replies import thinks
from batchrunner.simulator.profiles import POST_FAULTS, FaultRates
from batchrunner.simulator.refusals import REFUSALS, Refusal
from batchrunner.simulator.requests import Order

_TPM_CLEARS_S = 60.0
_HUGE_S = 7200.0
_SLOPE_WINDOW_S = 10.0
_SLOPE_FREE = 5
_BURST = 5.0
_ROUNDING_S = 0.01
_FOR_EVER = float("inf")

Gate = Callable[[Order], Refusal | None]


def refusal_of(order: Order) -> Refusal | None:
    """What the first of the order's scenarios that refuses has to say."""
    return next(
        (
            said
            for name in order.chosen
            if name in RULES_OF_SCENARIOS and (said := RULES_OF_SCENARIOS[name](order)) is not None
        ),
        None,
    )


def failure_mode_of(order: Order, faults: FaultRates) -> str | None:
    """What goes wrong with a call that is not refused: by its scenario, else by chance. A name of MISHAPS' values."""
    for name in order.chosen:
        if name in FAILURE_MODES and order.nth <= order.figure(name, _FOR_EVER) and _meant(name, order):
            return FAILURE_MODES[name]
    return faults.pick(order.random_source, POST_FAULTS)


def _meant(failure_mode: str, order: Order) -> bool:
    return failure_mode != "schema-shell" or asks_for_json_schema(order.body)


FAILURE_MODES = {
    "shell200": "shell",
    "schema-shell": "shell",
    "choices-empty": "empty_choices",
    "5xx": "server_error",
    "html502": "bad_gateway",
    "hang-headers": "hang",
    "hang-mid-stream": "hang_mid",
    "reset-before-headers": "reset",
    "reset-mid-stream": "reset_mid",
    "cut-mid-stream": "cut",
}


def _first_calls(scenario: str, refusal: str) -> Gate:
    def gate(order: Order) -> Refusal | None:
        return REFUSALS[refusal] if order.lane.calls <= order.figure(scenario, _FOR_EVER) else None

    return gate


def _burst(order: Order) -> Refusal | None:
    return REFUSALS["T1"] if order.lane.in_flight > order.figure("burst", 1.0) else None


def _unpaid(order: Order) -> Refusal | None:
    return REFUSALS["unpaid"] if order.lane.calls > order.figure("unpaid", 0.0) else None


def _slope(order: Order) -> Refusal | None:
    recent = order.lane.recent
    recent.append(order.now)
    last = sum(1 for at in recent if at > order.now - _SLOPE_WINDOW_S)
    before = sum(1 for at in recent if order.now - 2 * _SLOPE_WINDOW_S < at <= order.now - _SLOPE_WINDOW_S)
    return REFUSALS["T4"] if last > 2 * max(before, _SLOPE_FREE) else None


def _tokens_per_minute(order: Order) -> Refusal | None:
    since = order.lane.memory.setdefault("tpm", order.now)
    return REFUSALS["T3"] if order.now < since + _TPM_CLEARS_S - _ROUNDING_S else None


def _seconds_left(order: Order, seconds: float) -> float | None:
    """Seconds left of a wait that starts with the first call; counts calls that come too early. None afterwards."""
    memory = order.lane.memory
    if "opens" in memory:
        if order.now >= memory["opens"] - _ROUNDING_S:
            return None
        memory["too early"] = memory.get("too early", 0) + 1
    return memory.setdefault("opens", order.now + seconds) - order.now


def _closed_for(order: Order, seconds: float, header: str, value: str) -> Refusal | None:
    """A refusal with the same wait for each call, in a header."""
    return None if _seconds_left(order, seconds) is None else REFUSALS["T1"].with_header(header, value)


def _loading(order: Order) -> Refusal | None:
    left_s = _seconds_left(order, order.figure("estimated-time", 12.5))
    return None if left_s is None else replace(REFUSALS["loading"], code=f"{math.ceil(left_s * 1000) / 1000:g}")


def _wait_in_prose(order: Order) -> Refusal | None:
    left_s = _seconds_left(order, order.figure("wait-in-prose", 7.3))
    if left_s is None:
        return None
    refusal = REFUSALS["prose"]
    return replace(refusal, message=f"{refusal.message}{math.ceil(left_s * 1000) / 1000:g}s.")


def _retry_after(order: Order) -> Refusal | None:
    seconds = order.figure("retry-after", 1.0)
    return _closed_for(order, seconds, "retry-after", f"{seconds:g}")


def _retry_after_ms(order: Order) -> Refusal | None:
    wait_ms = order.figure("retry-after-ms", 500.0)
    return _closed_for(order, wait_ms / 1000.0, "retry-after-ms", f"{wait_ms:g}")


def _retry_after_date(order: Order) -> Refusal | None:
    seconds = order.figure("retry-after-date", 2.0)
    opens = order.lane.memory.get("opens", order.now + seconds)
    return _closed_for(order, seconds, "retry-after", formatdate(math.ceil(opens), usegmt=True))


def _retry_after_huge(order: Order) -> Refusal | None:
    return _closed_for(order, _HUGE_S, "retry-after", f"{_HUGE_S:g}")


def _limit_req(order: Order) -> Refusal | None:
    """As nginx's `limit_req` with a burst of five: so many a second, the rest get its bare 503."""
    memory, per_s = order.lane.memory, order.figure("limit-req", 20.0)
    excess = max(0.0, memory.get("excess", -1.0) - (order.now - memory.get("last", order.now)) * per_s) + 1.0
    if "last" not in memory:
        excess = 0.0
    if excess > _BURST:
        return REFUSALS["bare-503"]
    memory["excess"], memory["last"] = excess, order.now
    return None


def _limit_conn(order: Order) -> Refusal | None:
    return REFUSALS["bare-503"] if order.lane.in_flight > order.figure("limit-conn", 8.0) else None


def _no_quota(order: Order) -> Refusal | None:
    return REFUSALS["no-quota-403"] if order.lane.calls > order.figure("unpaid-403", 0.0) else None


def _window(order: Order) -> Refusal | None:
    seconds = order.figure("quota-window", 4.0)
    opens = order.lane.memory.setdefault("window", order.now + seconds)
    left_s = opens - order.now
    return replace(REFUSALS["window"], code=f"{math.ceil(left_s)}s") if left_s > _ROUNDING_S else None


def _spent_until(order: Order, scenario: str, name: str) -> Refusal | None:
    """Closed for a while: `name` counts down, its partner says that nothing is left."""
    opens = order.lane.memory.setdefault("spent until", order.now + order.figure(scenario, 5.0))
    left_s = opens - order.now
    if left_s <= _ROUNDING_S:
        return None
    refusal = REFUSALS["slow"].with_header(name.replace("reset", "remaining"), "0")
    return refusal.with_header(name, f"{math.ceil(left_s)}")


def _not_streamed(order: Order) -> Refusal | None:
    return REFUSALS["unverified"] if order.body.get("stream") is True else None


def _should_not_retry(order: Order) -> Refusal | None:
    refused = order.lane.calls <= order.figure("should-retry-false", _FOR_EVER)
    return REFUSALS["busy"].with_header("x-should-retry", "false") if refused else None


def _thinking_needs_stream(order: Order) -> Refusal | None:
    fine = order.body.get("stream") is True or thinks(order.body) is False
    return None if fine else REFUSALS["needs-stream"]


def _no_stream_options(order: Order) -> Refusal | None:
    return REFUSALS["stream-options"] if "stream_options" in order.body else None


def _no_json_schema(order: Order) -> Refusal | None:
    return REFUSALS["json-schema"] if asks_for_json_schema(order.body) else None


RULES_OF_SCENARIOS: dict[str, Gate] = {
    "throttle": _first_calls("throttle", "T1"),
    "burst": _burst,
    "slope": _slope,
    "unpaid": _unpaid,
    "quota-noheader": _first_calls("quota-noheader", "T2-quiet"),
    "tpm": _tokens_per_minute,
    "retired": _first_calls("retired", "X1"),
    "empty429": _first_calls("empty429", "E"),
    "retry-after": _retry_after,
    "retry-after-ms": _retry_after_ms,
    "retry-after-date": _retry_after_date,
    "retry-after-huge": _retry_after_huge,
    "should-retry-false": _should_not_retry,
    "auth-bad": _first_calls("auth-bad", "bad-token-A"),
    "auth-unbound": _first_calls("auth-unbound", "unbound"),
    "forbidden": _first_calls("forbidden", "forbidden"),
    "noprovider": _first_calls("noprovider", "no-provider"),
    "bad-model-id": _first_calls("bad-model-id", "bad-model-id"),
    "think-needs-stream": _thinking_needs_stream,
    "so-unsupported": _no_stream_options,
    "schema-400": _no_json_schema,
    "limit-req": _limit_req,
    "limit-conn": _limit_conn,
    "bare-503": _first_calls("bare-503", "bare-503"),
    "page-403": _first_calls("page-403", "page-403"),
    "page-200": _first_calls("page-200", "page-200"),
    "login": _first_calls("login", "login"),
    "no-route": _first_calls("no-route", "no-route"),
    "moderated-403": _first_calls("moderated-403", "moderated"),
    "unpaid-403": _no_quota,
    "quota-window": _window,
    "error-in-200": _first_calls("error-in-200", "in-200"),
    "same-500": _first_calls("same-500", "no-pictures"),
    "odd-499": _first_calls("odd-499", "cancelled"),
    "tool-use-failed": _first_calls("tool-use-failed", "tool-use"),
    "no-stream": _not_streamed,
    "unknown-model-400": _first_calls("unknown-model-400", "not-listed"),
    "reset-requests": lambda order: _spent_until(order, "reset-requests", "x-ratelimit-reset-requests"),
    "ratelimit-reset": lambda order: _spent_until(order, "ratelimit-reset", "ratelimit-reset"),
    "cloudflare-522": _first_calls("cloudflare-522", "cloudflare-522"),
    "estimated-time": _loading,
    "wait-in-prose": _wait_in_prose,
}
"""Scenario to rule. The quotas are not here: they are limits of the day, see `world`."""
