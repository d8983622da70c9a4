"""`examples/kubernetes/`: what the official schema says of the manifests, and what the schema cannot say."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchrunner.core.errors import ExitStatus
from tests.clusters.examples import EXAMPLES, HOME

MANIFESTS = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
VALIDATE = HOME / ".servers" / "kubernetes" / "bin" / "kubernetes-validate"
needs_schema = pytest.mark.skipif(
    not VALIDATE.exists(), reason="the schema of Kubernetes is not installed: run `make test-servers`"
)


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def the_job() -> dict[str, Any]:
    (found,) = [one for one in documents(EXAMPLES / "kubernetes" / "job.yaml") if one["kind"] == "Job"]
    return dict(found["spec"])


def first_rule(status: int) -> str:
    """What the policy does with a container that ended so; what no rule names is started again and counted."""
    for rule in the_job()["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes is not None and (status in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
    return "Count"


@needs_schema
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_fits_the_schema_of_kubernetes(path: Path) -> None:
    done = subprocess.run([VALIDATE, "--strict", path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_schema
def test_the_schema_notices_a_wrong_key(tmp_path: Path) -> None:
    wrong = tmp_path / "job.yaml"
    text = (EXAMPLES / "kubernetes" / "job.yaml").read_text("utf-8")
    wrong.write_text(text.replace("podReplacementPolicy:", "podReplacementPolice:"))
    done = subprocess.run([VALIDATE, "--strict", wrong], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0


def test_a_pod_begins_only_when_the_one_before_has_ended() -> None:
    spec = the_job()
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "the server refuses podFailurePolicy beside others"
    assert spec["completionMode"] == "Indexed"


def test_there_are_as_many_indexes_as_shards() -> None:
    spec = the_job()
    (container,) = spec["template"]["spec"]["containers"]
    (shards,) = [one["value"] for one in container["env"] if one["name"] == "SHARDS"]
    assert shards == str(spec["completions"])
    assert "exec batchrunner run" in container["command"][-1], "a shell in between would keep SIGTERM to itself"


def test_each_exit_status_leads_to_what_it_means() -> None:
    spec = the_job()
    (container,) = spec["template"]["spec"]["containers"]
    rules = [rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    for rule in rules:
        assert rule["containerName"] == container["name"]
        assert 0 not in rule["values"], "the server refuses it"
        assert rule["values"] == sorted(set(rule["values"])), "the server wants them in order, each once"
    again = {ExitStatus.PAUSED, ExitStatus.INTERRUPTED, ExitStatus.TERMINATED}
    for status in set(ExitStatus) - {ExitStatus.DONE}:
        assert first_rule(int(status)) == ("Ignore" if status in again else "FailIndex"), status
    assert first_rule(137) == "Count", "killed, such as for memory: started again, so many times"
