"""The simulated provider as a program."""

import json
import signal
import urllib.request
from typing import Any

import pytest

from tests.support.command_line import CommandLine


def ask(base_url: str) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(
        f"{base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_states_where_it_listens_answers_and_ends_with_0(batchrunner: CommandLine, number: int) -> None:
    server = batchrunner.start("simulate", "--port", "0", "--json")
    assert server.stdout is not None
    where = json.loads(server.stdout.readline())
    assert set(where) == {"base_url", "files_url"}
    assert ask(where["base_url"])["choices"][0]["message"]["content"]
    server.send_signal(number)
    out, err = server.communicate(timeout=120)
    assert server.returncode == 0, err
    assert out == ""
    assert f"base_url: {where['base_url']}" in err
    assert "Traceback" not in err


def test_a_job_runs_against_it(batchrunner: CommandLine) -> None:
    server = batchrunner.start("simulate", "--port", "0", "--json", "--faults", "5xx=0.2", "--latency", "0.01")
    assert server.stdout is not None
    where = json.loads(server.stdout.readline())["base_url"]
    job = batchrunner.folder / "job.yaml"
    job.write_text(
        f"provider: {{preset: openai, base_url: '{where}', api_key_env: []}}\nmodel: m\nprompts: [A, B, C]\n"
        "retry: {attempts: 9, max_wait_s: 0.1}\n",
        encoding="utf-8",
    )
    ran = batchrunner("run", "job.yaml", "--json")
    server.terminate()
    server.communicate(timeout=120)
    assert ran.status == 0, ran.err
    assert ran.json["items"]["done"] == 3
    assert ran.json["simulated"] is False


def test_a_port_that_is_taken_is_an_error_in_words(batchrunner: CommandLine) -> None:
    server = batchrunner.start("simulate", "--port", "0", "--json")
    assert server.stdout is not None
    port = json.loads(server.stdout.readline())["base_url"].split(":")[2].split("/")[0]
    second = batchrunner("simulate", "--port", port)
    server.terminate()
    server.communicate(timeout=120)
    assert second.status == 4
    assert port in second.err


@pytest.mark.parametrize(
    "arguments",
    [("--faults", "nonsense=1"), ("--scenario", "nonsense"), ("--latency", "nonsense"), ("--latency", "-1")],
)
def test_unknown_troubles_are_mistakes_that_list_what_exists(
    batchrunner: CommandLine, arguments: tuple[str, str]
) -> None:
    told = batchrunner("simulate", "--port", "0", *arguments)
    assert told.status == 2
    assert "error:" in told.err


def test_the_list_names_scenarios_faults_and_waits(batchrunner: CommandLine) -> None:
    told = batchrunner("simulate", "--list")
    assert told.status == 0
    assert "throttle:n" in told.err
    listed = batchrunner("simulate", "--list", "--json").json
    assert {"throttle", "img-ok"} <= {scenario["name"] for scenario in listed["scenarios"]}
    assert "5xx" in listed["faults"]
    assert "first" in listed["latency"]


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_model_of_a_simulated_run_that_names_no_scenario_is_a_mistake(batchrunner: CommandLine, command: str) -> None:
    (batchrunner.folder / "job.yaml").write_text('provider: simulator\nmodel: "sim/talker#nonsense"\nprompts: [a]\n')
    ran = batchrunner(command, "job.yaml")
    assert ran.status == 2
    assert "model: there is no scenario 'nonsense'; `batchrunner simulate --list` lists them" in ran.err
