"""What the world accepts, refuses, answers and counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.core.job import Json
from batchrunner.simulator.answers import expected_text
from batchrunner.simulator.profiles import FaultRates
from batchrunner.simulator.script import Call, Script
from batchrunner.simulator.world import World
from tests.simulator.calls import (
    ASYNC,
    CHAT,
    NOW,
    ask,
    error_of,
    get,
    post,
    streamed_text,
    submit,
    text_of,
)


def test_the_answer_is_the_text_that_a_test_can_compute() -> None:
    world = World(7)
    assert text_of(ask(world, prompt="Why is the sky blue?", temperature=0.5)) == expected_text(
        "Qwen/Qwen3-8B", "Why is the sky blue?", params={"temperature": 0.5}, seed=7
    )


def test_a_stream_carries_the_same_text_as_the_whole_answer() -> None:
    world = World(1)
    assert streamed_text(ask(world, prompt="A café, 3 €?", stream=True)) == text_of(ask(world, prompt="A café, 3 €?"))


def test_a_question_with_numbers_gets_an_answer_that_ends_in_one() -> None:
    assert expected_text("m", "I had 3 apples and ate 2. How many are left?").split()[-1].isdecimal()


@pytest.mark.parametrize("change", [{"seed": 2}, {"model": "b"}, {"prompt": "q"}, {"params": {"temperature": 1}}])
def test_the_text_depends_on_seed_model_prompt_and_parameters(change: dict[str, object]) -> None:
    given: dict[str, object] = {"seed": 1, "model": "a", "prompt": "p" * 80, "params": {}}
    changed = {**given, **change}

    def text(arguments: dict[str, object]) -> str:
        params = arguments["params"]
        assert isinstance(params, dict)
        return expected_text(
            str(arguments["model"]), str(arguments["prompt"]), params=params, seed=int(str(arguments["seed"]))
        )

    assert text(given) != text(changed)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    def replies(seed: int) -> list[Script]:
        world = World(seed, faults=FaultRates.parse("throttle=0.2,5xx=0.2,reset=0.1,cut=0.2,shell=0.1"))
        return [ask(world, prompt=f"question {at % 40}", stream=bool(at % 2)) for at in range(120)]

    assert replies(3) == replies(3)
    assert replies(3) != replies(4)


def test_chance_does_not_depend_on_the_order_in_which_different_orders_arrive() -> None:
    def statuses(order: list[int]) -> dict[int, int]:
        world = World(3, faults=FaultRates.parse("5xx=0.5"))
        return {at: ask(world, prompt=f"question {at}").status for at in order}

    assert statuses(list(range(50))) == statuses(list(reversed(range(50))))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "Invalid model id"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": ["hi"]}, "role"),
        ({"model": "m", "messages": [{"role": "user", "content": [{"type": "image"}]}]}, "Invalid value: image"),
        (
            {
                "model": "m",
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            },
            "Failed to download multimodal content",
        ),
        ({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 0}, "max_tokens"),
        ({"model": "m#nonsense", "messages": [{"role": "user", "content": "hi"}]}, "no scenario"),
        (["no", "object"], "JSON object"),
    ],
)
def test_a_bad_chat_body_is_refused_with_a_400(body: Json, said: str) -> None:
    script = post(World(), CHAT, body)
    assert script.status == 400
    assert said in error_of(script)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
turns = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": json_values}), max_size=3)
keys = st.sampled_from(
    [
        *("messages", "prompt", "stream", "tools", "tool_choice", "response_format", "max_tokens", "size", "seed"),
        *("loras", "stream_options", "steps", "guidance", "negative_prompt", "chat_template_kwargs", "temperature"),
    ]
)


@given(
    st.dictionaries(keys, json_values, max_size=5),
    turns,
    st.sampled_from([CHAT, "/v1/images/generations"]),
    st.sampled_from(["ok", "ok-tools", "ok-reasoning", "img-ok", "sse-multiline"]),
)
def test_whatever_the_body_there_is_a_reply(body: dict[str, Json], said: list[Json], path: str, scenario: str) -> None:
    script = post(World(), path, {"prompt": "a", "messages": said, "model": f"m#{scenario}", **body}, headers=ASYNC)
    assert script.status in {200, 400}
    assert script.whole


def test_bytes_that_are_no_json_are_refused_with_a_400() -> None:
    for body in (b"", b"\xff\xfe", b"{", b"[" * 100_000):
        assert World().answer(Call(method="POST", path=CHAT, body=body), NOW).status == 400


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 2000}, "shorter than 2000"),
        ({"negative_prompt": "x" * 2000}, "negative_prompt"),
        ({"size": "1024X1024"}, "size"),
        ({"size": "2048x512"}, "between 64 and 1664"),
        ({"model": "black-forest-labs/FLUX.1-dev", "size": "1328x1328"}, "between 64 and 1024"),
        ({"model": "Tongyi-MAI/Z-Image", "size": "256x256"}, "between 512 and 2048"),
        ({"seed": -1}, "seed"),
        ({"steps": 101}, "steps"),
        ({"guidance": 1.0}, "guidance"),
        ({"loras": {"a/b": 0.5, "c/d": 0.4}}, "sum to 1.0"),
        ({"loras": {f"a/{at}": 1 / 7 for at in range(7)}}, "at most 6"),
        ({"loras": []}, "loras"),
    ],
)
def test_a_bad_image_order_is_refused_with_a_400(change: dict[str, Json], said: str) -> None:
    world = World()
    body: dict[str, Json] = {"model": "Qwen/Qwen-Image", "prompt": "a cat", **change}
    script = post(world, "/v1/images/generations", body, headers=ASYNC)
    assert script.status == 400
    assert said in error_of(script)
    assert world.stats().paid == 0


def test_a_body_whose_prompt_key_was_lost_is_refused() -> None:
    body: dict[str, Json] = {"model": "Qwen/Qwen-Image", "required; the text prompt": "A golden cat"}
    assert post(World(), "/v1/images/generations", body, headers=ASYNC).status == 400


def test_an_image_order_without_the_async_header_is_refused() -> None:
    script = submit(World(), headers={})
    assert (script.status, "does not support synchronous calls" in error_of(script)) == (400, True)


def test_lora_weights_within_a_thousandth_are_taken_and_distilled_models_may_have_no_guidance() -> None:
    assert submit(World(), loras={"a/b": 0.3334, "c/d": 0.3333, "e/f": 0.3333}).status == 200
    assert submit(World(), model="Tongyi-MAI/Z-Image-Turbo", guidance=0).status == 200


@pytest.mark.parametrize(("token", "status"), [("bad-one", 401), ("unbound-one", 401), ("ms-good", 200), ("", 200)])
def test_tokens_show_by_their_beginning_what_they_are(token: str, status: int) -> None:
    assert ask(World(), token=token).status == status


def test_a_world_with_auth_wants_a_token_for_all_but_the_list_of_models() -> None:
    world = World(auth=True)
    assert ask(world).status == 401
    assert ask(world, token="anything").status == 200
    assert get(world, "/v1/tasks/1").status == 401
    assert get(world, "/v1/models").status == 200


def test_a_world_with_known_tokens_refuses_others() -> None:
    world = World(tokens=frozenset({"ms-known"}))
    assert [ask(world, token=token).status for token in ("ms-known", "ms-other", "")] == [200, 401, 401]


def test_the_token_stands_in_nothing_that_is_kept() -> None:
    world = World()
    ask(world, token="ms-canary-5521")
    ask(world, token="bad-canary-5521")
    shown = get(world, "/_simulator/log").body + get(world, "/_simulator/stats").body + repr(world).encode()
    assert b"canary" not in shown
