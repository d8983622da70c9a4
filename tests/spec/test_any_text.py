"""Whatever stands in a job file or a setting: a Job or mistakes come of it, never anything else."""

from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.core.errors import JobMistakesError
from batchrunner.core.job import Job
from batchrunner.spec import load_job
from batchrunner.spec.models import PARTS, keys_of

_QUICK = settings(max_examples=150)
_KEYS = sorted({key for part in PARTS.values() for key in keys_of(part)} | {"seed", "size", "loras", "x"})
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["modelscope", "image", "chat", "simulator", "openai", "auto", "m", "{{ x }}", "1024x1024", "."])
    | st.dates()
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)
_PIECES = st.sampled_from(
    [
        *"[]{}:,-&*!|>'\"%@`#?\t\n ",
        "\n  ",
        ": ",
        "- ",
        "<<: *a",
        "&a ",
        "*a",
        "!!int ",
        "no",
        "0x",
        "1:2",
        "prompts:",
        "\\u",
    ]
)


def attempt(path: str, overrides: tuple[str, ...], *, simulate: bool) -> Job | JobMistakesError:
    try:
        return load_job(path, overrides=overrides, simulate=simulate)
    except JobMistakesError as error:
        return error


def outcome(raw: bytes, overrides: tuple[str, ...] = ()) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_bytes(raw)
        for simulate in (False, True):
            came = attempt(str(path), overrides, simulate=simulate)
            if isinstance(came, JobMistakesError):
                assert came.mistakes
                assert all(mistake.line is None or mistake.line >= 1 for mistake in came.mistakes)
                str(came).encode()


@_QUICK
@given(st.text())
def test_any_text_is_a_job_or_mistakes(text: str) -> None:
    outcome(text.encode("utf-8", "surrogatepass"))


@_QUICK
@given(st.binary())
def test_any_bytes_are_a_job_or_mistakes(raw: bytes) -> None:
    outcome(raw)


@_QUICK
@given(st.lists(_PIECES | st.text(max_size=3), max_size=40).map("".join))
def test_any_yaml_like_text_is_a_job_or_mistakes(text: str) -> None:
    """Threat 7."""
    outcome(text.encode("utf-8", "surrogatepass"))


@_QUICK
@given(st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=8))
def test_any_values_at_the_known_keys_are_a_job_or_mistakes(tree: dict[str, object]) -> None:
    outcome(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@_QUICK
@given(
    st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=5),
    st.sampled_from(["simulator", "modelscope", "{base_url: 'http://127.0.0.1'}"]),
)
def test_a_valid_job_with_any_other_values_is_a_job_or_mistakes(tree: dict[str, object], provider: str) -> None:
    more = yaml.safe_dump({key: value for key, value in tree.items() if key not in ("provider", "model", "prompts")})
    outcome(f"provider: {provider}\nmodel: m\nprompts: [a]\n{more}".encode("utf-8", "surrogatepass"))


@_QUICK
@given(
    st.lists(st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from(_KEYS), st.text(max_size=9)), max_size=3)
)
def test_any_setting_is_a_job_or_mistakes(overrides: list[str]) -> None:
    outcome(b"provider: simulator\nmodel: m\nprompts: [a]\n", tuple(overrides))
