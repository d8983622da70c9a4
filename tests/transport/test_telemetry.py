"""Spans and metrics of a run, read from OpenTelemetry's own exporters in memory."""

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from batchrunner import api
from batchrunner.cli.main import main
from batchrunner.transport.telemetry import CONTENT_VARIABLE, Telemetry

CANARY = "canary-zebra-9231"


def exported(folder: Path, *, more: str = "", with_content: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """(spans, the points of each metric) of a simulated run of three items."""
    spans, readings = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    telemetry = Telemetry(tracers=tracers, meters=MeterProvider([readings]), with_content=with_content)
    (folder / "job.yaml").write_text(
        f"name: night\nprovider: simulator\nmodel: sim/talker\nprompts: [{CANARY} a, {CANARY} b, {CANARY} c]\n{more}"
    )
    api.run_sync(api.load_job(str(folder / "job.yaml")), traced=telemetry.traced)
    data = json.loads(readings.get_metrics_data().to_json())  # type: ignore[union-attr]  # there are some
    metrics = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    return list(spans.get_finished_spans()), {one["name"]: one["data"]["data_points"] for one in metrics}


def test_each_request_is_a_span_by_the_names_of_the_conventions_and_holds_no_prompt_or_answer(tmp_path: Path) -> None:
    spans, metrics = exported(tmp_path)
    assert [span.name for span in spans] == ["chat sim/talker"] * 3
    for span in spans:
        assert (span.kind.name, span.status.status_code.name, span.parent) == ("CLIENT", "UNSET", None)
        found = dict(span.attributes)
        assert found["gen_ai.operation.name"] == "chat"
        assert found["gen_ai.request.model"] == "sim/talker"
        assert found["gen_ai.provider.name"] == "simulator"
        assert found["gen_ai.response.finish_reasons"] == ("stop",)
        assert found["gen_ai.usage.input_tokens"] > 0
        assert found["gen_ai.usage.output_tokens"] > 0
        assert found["batchrunner.job"] == "night"
        assert not {"gen_ai.input.messages", "gen_ai.output.messages"} & set(found)
        assert CANARY not in span.to_json()
    (point,) = metrics["gen_ai.client.operation.duration"]
    assert point["count"] == 3
    tokens = {point["attributes"]["gen_ai.token.type"]: point["sum"] for point in metrics["gen_ai.client.token.usage"]}
    assert tokens == {
        kind: sum(span.attributes[f"gen_ai.usage.{kind}_tokens"] for span in spans) for kind in ("input", "output")
    }
    assert CANARY not in json.dumps(metrics)


def test_a_refusal_is_an_error_of_its_kind_without_the_servers_words(tmp_path: Path) -> None:
    spans, metrics = exported(tmp_path, more="scenario: throttle:1\n")
    failed = [span for span in spans if span.status.status_code.name == "ERROR"]
    assert failed
    assert len(spans) == 3 + len(failed), "each try is a request"
    for span in failed:
        assert span.attributes["error.type"]
        assert span.attributes["http.response.status_code"] == 429
        assert span.status.description is None
        assert not span.events
    assert {point["attributes"].get("error.type") for point in metrics["gen_ai.client.operation.duration"]} == {
        None,
        failed[0].attributes["error.type"],
    }


def test_prompts_and_answers_are_there_when_they_are_asked_for(tmp_path: Path) -> None:
    spans, _ = exported(tmp_path, with_content=True)
    for span in spans:
        (given,) = json.loads(span.attributes["gen_ai.input.messages"])
        (answered,) = json.loads(span.attributes["gen_ai.output.messages"])
        assert given["role"] == "user"
        assert CANARY in given["parts"][0]["content"]
        assert (answered["role"], answered["finish_reason"]) == ("assistant", "stop")
        assert answered["parts"][0]["content"]


@pytest.mark.parametrize(("value", "asked"), [("", False), ("false", False), ("true", True), ("SPAN_ONLY", True)])
def test_the_variable_of_the_conventions_asks_for_prompts(
    monkeypatch: pytest.MonkeyPatch, value: str, *, asked: bool
) -> None:
    monkeypatch.setenv(CONTENT_VARIABLE, value)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert Telemetry.of_environment(print).with_content is asked


class Collector(BaseHTTPRequestHandler):
    """Takes what comes by OTLP over HTTP."""

    got: ClassVar[dict[str, list[bytes]]] = {}

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.got.setdefault(self.path, []).append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_the_option_exports_to_the_collector_that_the_variables_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it, before the command ends."""
    Collector.got = {}
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listening.server_address[1]}")
        (tmp_path / "job.yaml").write_text(f"provider: simulator\nmodel: sim/talker\nprompts: [{CANARY} a, b]\n")
        assert main(["run", str(tmp_path / "job.yaml"), "--otel", "-q"]) == 0
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
    requests = [ExportTraceServiceRequest.FromString(body) for body in Collector.got["/v1/traces"]]
    names = [
        span.name
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert names == ["chat sim/talker"] * 2
    assert Collector.got["/v1/metrics"]
    assert CANARY.encode() not in b"".join(body for bodies in Collector.got.values() for body in bodies)
    assert "--otel" not in capsys.readouterr().err


def test_without_the_sdk_the_option_states_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    (tmp_path / "job.yaml").write_text("provider: simulator\nmodel: sim/talker\nprompts: [a]\n")
    assert main(["run", str(tmp_path / "job.yaml"), "--otel"]) == 2
    assert "pip install 'batchrunner[otel]'" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
