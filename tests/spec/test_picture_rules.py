"""ModelScope's rules for pictures hold wherever a parameter or a prompt can stand in a job file."""

from collections.abc import Callable

import pytest

from batchrunner.core.errors import Mistake
from batchrunner.core.job import Job, Json
from batchrunner.core.picture_rules import params_mistakes, picture_notes, prompt_mistake

Load = Callable[..., Job]
Mistakes = Callable[..., tuple[Mistake, ...]]

QWEN, FLUX, TURBO, OTHER = "Qwen/Qwen-Image", "black-forest-labs/FLUX.1-dev", "Tongyi-MAI/Z-Image-Turbo", "me/mine"
IMAGE = f"provider: modelscope\nkind: image\nmodel: {QWEN}\n"

GOOD: list[tuple[str, str, Json]] = [
    (QWEN, "size", "1664x928"),
    (QWEN + "#img-ok", "size", "64x64"),
    (FLUX, "size", "1024x64"),
    (TURBO, "size", "2048x512"),
    (OTHER, "size", "2048x64"),
    (QWEN, "seed", 0),
    (QWEN, "seed", 2**31 - 1),
    (QWEN, "steps", 100),
    (QWEN, "guidance", 1.5),
    (QWEN, "guidance", 20),
    (TURBO, "guidance", 0),
    (QWEN, "loras", "me/style"),
    (QWEN, "loras", {"a": 0.6, "b": 0.4009}),
    (QWEN, "loras", dict.fromkeys("abcdef", 1 / 6)),
    (QWEN, "negative_prompt", "x" * 1999),
    (QWEN, "num_inference_steps", "anything"),
    (QWEN, "image_url", "https://x.example/a.png"),
    (QWEN, "image_url", ["https://x.example/a.png", "data:image/png;base64,AAAA"]),
    (QWEN, "image_url", "http://192.168.1.5/a.png"),
    (QWEN, "image_url", None),
]
BAD: list[tuple[str, str, Json]] = [
    (QWEN, "size", "1665x64"),
    (QWEN, "size", "1024X1024"),
    (QWEN, "size", "1024*1024"),
    (QWEN, "size", "01024x1024"),
    (QWEN, "size", " 1024x1024"),
    (QWEN, "size", 1024),
    (FLUX, "size", "1025x64"),
    (TURBO, "size", "511x512"),
    (OTHER, "size", "2049x64"),
    (QWEN, "seed", -1),
    (QWEN, "seed", 2**31),
    (QWEN, "seed", True),
    (QWEN, "seed", 1.0),
    (QWEN, "steps", 0),
    (QWEN, "steps", 101),
    (QWEN, "guidance", 1.4),
    (QWEN, "guidance", 0),
    (TURBO, "guidance", 20.5),
    (QWEN, "guidance", "4"),
    (QWEN, "loras", ""),
    (QWEN, "loras", {}),
    (QWEN, "loras", {"a": 0.6, "b": 0.402}),
    (QWEN, "loras", dict.fromkeys("abcdefg", 1 / 7)),
    (QWEN, "loras", {"a": "1"}),
    (QWEN, "loras", ["a"]),
    (QWEN, "image_url", ""),
    (QWEN, "image_url", " "),
    (QWEN, "image_url", []),
    (QWEN, "image_url", ["https://x.example/a.png", ""]),
    (QWEN, "image_url", "file:///pictures/x.png"),
    (QWEN, "image_url", "FILE:/pictures/x"),
    (QWEN, "image_url", "pictures/x.png"),
    (QWEN, "image_url", "~/x.jpeg"),
    (QWEN, "image_url", "ftp://x.example/a.png"),
    (QWEN, "image_url", "x.example/a"),
    (QWEN, "image_url", "https:///a.png"),
    (QWEN, "image_url", "https://[::1/a.png"),
    (QWEN, "image_url", 7),
    (QWEN, "negative_prompt", "x" * 2000),
    (QWEN, "negative_prompt", None),
]


@pytest.mark.parametrize(("model", "key", "value"), GOOD)
def test_what_the_service_takes_is_no_mistake(model: str, key: str, value: Json) -> None:
    assert params_mistakes(model, {key: value}) == []


@pytest.mark.parametrize(("model", "key", "value"), BAD)
def test_what_the_service_refuses_is_a_mistake(model: str, key: str, value: Json) -> None:
    ((found, problem, expected),) = params_mistakes(model, {key: value, "other": 1})
    assert found == key
    assert problem
    assert expected


def test_a_picture_prompt_has_a_text_of_fewer_than_2000_characters() -> None:
    assert prompt_mistake("x" * 1999) is None
    assert prompt_mistake("猫" * 2000) is not None
    assert prompt_mistake(" \n") is not None


def test_the_rules_reach_job_prompt_and_matrix(mistakes: Mistakes) -> None:
    found = mistakes(
        IMAGE
        + f"prompts:\n- {'x' * 2000}\n- {{prompt: b, params: {{steps: 0}}}}\n- {{prompt: {'y' * 2000}}}\n"
        + "matrix:\n  seed: [1, -1]\nparams:\n  size: 2048x2048\n"
    )
    assert [(mistake.line, mistake.key) for mistake in found] == [
        (5, "prompts[0]"),
        (6, "prompts[1].params.steps"),
        (7, "prompts[2].prompt"),
        (9, "matrix.seed[1]"),
        (11, "params.size"),
    ]


def test_every_model_of_the_job_is_asked_and_each_answer_given_once(mistakes: Mistakes) -> None:
    job = IMAGE.replace(f"model: {QWEN}", f"models: [{QWEN}, {FLUX}, {TURBO}]")
    (one,) = mistakes(job + "prompts: [a]\nparams: {size: 1100x600}\n")
    assert FLUX in (one.expected or "")
    (same,) = mistakes(job + "prompts: [a]\nparams: {steps: 0}\n")
    assert same.key == "params.steps"


def test_a_matrix_name_that_a_template_uses_is_no_parameter(load: Load) -> None:
    job = load(IMAGE + 'prompts: ["a {{ size }} cat"]\nmatrix: {size: [small, large]}\n')
    assert job.matrix == {"size": ("small", "large")}


def test_a_templates_length_is_measured_when_it_is_rendered(load: Load) -> None:
    job = load(IMAGE + f'prompts: ["{"x" * 2000}{{{{ seed }}}}"]\nmatrix: {{seed: [1]}}\n')
    assert job.matrix == {"seed": (1,)}


@pytest.mark.parametrize("provider", ["openai", "{preset: simulator, dialect: openai-images}"])
def test_other_services_have_other_rules(load: Load, provider: str) -> None:
    assert load(IMAGE.replace("modelscope", provider, 1) + "prompts: [a]\nparams: {size: auto}\n").params == {
        "size": "auto"
    }


@pytest.mark.parametrize("given", ['"file:///pictures/x.png"', '""', "[]", "ftp://x.example/a.png", "./x.png"])
def test_an_address_that_the_server_cannot_fetch_is_refused_once_with_its_place(mistakes: Mistakes, given: str) -> None:
    (one,) = mistakes(IMAGE + f"prompts: [a]\nparams:\n  image_url: {given}\n")
    assert (one.line, (one.key or "").partition("[")[0]) == (6, "params.image_url")
    (two,) = mistakes(IMAGE + f"prompts:\n- prompt: a\n  params:\n    image_url: {given}\n")
    assert two.line == 7


PLACES = ("params: {image_url: '%s'}", "matrix: {image_url: ['%s']}")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "given",
    [
        "http://192.168.1.5/a.png",
        "http://10.1.2.3:8080/a.png",
        "http://localhost/a.png",
        "https://nas.local/a.png",
        "http://[fd00::1]/a.png",
    ],
)
def test_an_address_inside_a_network_is_noted(load: Load, given: str, place: str) -> None:
    (note,) = picture_notes(load(IMAGE + "prompts: [a]\n" + place % given + "\n"))
    assert "image_url" in note


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("given", ["https://x.example/a.png", "https://8.8.8.8/a.png", "data:image/png;base64,AA"])
def test_an_address_out_in_the_world_needs_no_note(load: Load, given: str, place: str) -> None:
    assert picture_notes(load(IMAGE + "prompts: [a]\n" + place % given + "\n")) == ()
