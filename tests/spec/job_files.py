"""What every test of the spec room starts from: job files on the disk, and their mistakes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.job import Job
from batchrunner.spec import load_job

Load = Callable[..., Job]
Mistakes = Callable[..., tuple[Mistake, ...]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a job file called `job.yaml` and load it."""

    def loaded(
        text: str | bytes, *, overrides: Sequence[str] = (), simulate: bool = False, out: str | None = None
    ) -> Job:
        path = tmp_path / "job.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_job(str(path), overrides=overrides, simulate=simulate, out=out)

    return loaded


@pytest.fixture
def mistakes(load: Load) -> Mistakes:
    """The mistakes of a job file that has some."""

    def found(text: str | bytes, *, overrides: Sequence[str] = (), simulate: bool = False) -> tuple[Mistake, ...]:
        with pytest.raises(JobMistakesError) as caught:
            load(text, overrides=overrides, simulate=simulate)
        return caught.value.mistakes

    return found
