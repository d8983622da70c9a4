"""What is written where something else belongs: addresses for folders, local files for a server."""

from pathlib import Path

import pytest

from batchrunner.core.errors import JobMistakesError
from tests.spec.job_files import Load, Mistakes

CHAT = "provider: simulator\nmodel: m\nprompts: [a]\n"
EDIT = "provider: {provider}\nkind: image\nmodel: m\nprompts: [a, {{prompt: b, params: {{}}}}]\n"


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/runs", "gs://b/x", "https://host/x", "file:///tmp/x", "hdfs://n:9/x", "s3:/b/x", "az://c/x"],
)
def test_results_go_to_no_address(load: Load, mistakes: Mistakes, address: str) -> None:
    (mistake,) = mistakes(CHAT + f"output: {{dir: '{address}'}}\n")
    assert (mistake.key, mistake.line) == ("output.dir", 4)
    assert address in mistake.problem
    assert "local folder" in mistake.problem
    with pytest.raises(JobMistakesError, match=r"--out.*local folder"):
        load(CHAT, out=address)


@pytest.mark.parametrize("folder", ["a:b/c", "C:/runs", "s3/bucket", "x.y/z"])
def test_a_folder_with_a_colon_in_it_is_a_folder(load: Load, folder: str) -> None:
    assert load(CHAT + f"output: {{dir: '{folder}'}}\n").output.dir.endswith(f"{folder}.simulated")


@pytest.mark.parametrize(
    ("provider", "params"),
    [
        ("modelscope", "image_url: ./x.png"),
        ("modelscope", "image_url: pictures/x.webp"),
        ("modelscope", "image_url: [https://host/a.png, ../b.jpg]"),
        ("modelscope", "image_url: /data/x"),
        ("modelscope", "image_url: 'file:///data/x.png'"),
        ("modelscope", "image_url: here"),
        ("openai", "image: ~/x.png"),
        ("openai", "image: 'C:\\x.png'"),
    ],
)
def test_a_local_picture_among_the_parameters_is_pointed_to_images(
    tmp_path: Path, mistakes: Mistakes, provider: str, params: str
) -> None:
    (tmp_path / "here").write_text("")
    (mistake,) = mistakes(EDIT.format(provider=provider) + f"params: {{{params}}}\n")
    assert str(mistake.key).startswith("params.image")
    assert mistake.hint == "local pictures go into `images:`"


def test_it_is_found_in_prompts_and_in_the_matrix_as_well(mistakes: Mistakes) -> None:
    job = EDIT.format(provider="modelscope").replace("params: {}", "params: {image_url: ./x.png}")
    assert [found.key for found in mistakes(job)] == ["prompts[1].params.image_url"]
    job = EDIT.format(provider="modelscope") + "matrix: {image_url: [https://host/a.png, b.png]}\n"
    assert [found.key for found in mistakes(job)] == ["matrix.image_url[1]"]


@pytest.mark.parametrize("url", ["https://host/a.png", "http://h/a", "data:image/png;base64,AAAA", "/9j/4AAQSkZJRg"])
def test_what_a_server_can_read_is_none(load: Load, url: str) -> None:
    load(EDIT.format(provider="openai") + f"params: {{image: '{url}'}}\n")


@pytest.mark.parametrize(
    "text",
    [
        "prompts: [Say {{ name }}]",
        "prompts: [a, Say {{ name }} aloud, b]",
        "prompts:\n- {prompt: Say {{ name }}, vars: {name: x}}",
        "prompts: [{{ name }}]",
        "prompts: {file: x.csv, template: Say {{ q }}}",
        "prompts:\n- {{ name }}",
        "prompts:\n- [a,\n  Say {{ name }},\n  b]",
        "prompts: [Say {% if a %}b{% endif %}]",
        "prompts:\n- {% if a %}b{% endif %}",
    ],
)
def test_an_unquoted_template_gets_the_hint_to_quote_it(mistakes: Mistakes, text: str) -> None:
    found = mistakes(f"provider: simulator\nmodel: m\n{text}\n")
    assert any("must be quoted" in str(mistake.hint) for mistake in found), found


def test_a_quoted_template_near_another_mistake_is_not_blamed(mistakes: Mistakes) -> None:
    (mistake,) = mistakes('provider: simulator\nmodel: m\nprompts: ["Say {{ name }}", b\nname: x\n')
    assert "must be quoted" not in str(mistake.hint)
