"""`run --otel`: a span for each request to a model, and metrics of requests, for OpenTelemetry.

Names follow its conventions for generative AI, which still change: all of them are in one table here. Prompts and
answers are left out unless the variable of those conventions asks for them; keys are never known here, and what a
server repeats of one is masked in an answer. The only module that knows OpenTelemetry.
"""

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import urlsplit

from batchrunner.core import VERSION
from batchrunner.core.errors import JobMistakesError, Mistake
from batchrunner.core.http import Decoder, Gate, Request
from batchrunner.core.job import Job, Json, Kind
from batchrunner.core.outcome import Answer, Problem
from batchrunner.core.ports import GatedTransport, Transport

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

T = TypeVar("T")

_N: Final[Mapping[str, str]] = {
    "operation": "gen_ai.operation.name",
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "finish_reasons": "gen_ai.response.finish_reasons",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cache_read": "gen_ai.usage.cache_read.input_tokens",
    "input_messages": "gen_ai.input.messages",
    "output_messages": "gen_ai.output.messages",
    "token_type": "gen_ai.token.type",
    "duration": "gen_ai.client.operation.duration",
    "tokens": "gen_ai.client.token.usage",
    "server": "server.address",
    "port": "server.port",
    "status": "http.response.status_code",
    "error": "error.type",
    "job": "batchrunner.job",
    "account": "batchrunner.account",
}
"""What we call it -> what the conventions call it, as of opentelemetry-semantic-conventions 0.66."""
_OPERATIONS: Final[Mapping[Kind, str]] = {
    "chat": "chat",
    "embedding": "embeddings",
    "image": "generate_content",
    "media": "generate_content",
    "transcription": "generate_content",
}
_PROVIDERS: Final[Mapping[str, str]] = {"azure": "azure.ai.openai", "gemini": "gcp.gemini"}
"""Where the conventions have another name than the preset."""
CONTENT_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_SHARED: Final = ("operation", "provider", "model", "server", "port", "error")
"""Attributes that metrics have, too."""


class Telemetry:
    """A context manager; on leaving it, what has not been exported is."""

    def __init__(
        self, *, tracers: "TracerProvider", meters: "MeterProvider", with_content: bool = False, own: bool = False
    ) -> None:
        self._tracers, self._meters, self._own = tracers, meters, own
        self.with_content = with_content
        self.tracer = tracers.get_tracer("batchrunner", VERSION)
        meter = meters.get_meter("batchrunner", VERSION)
        self.durations = meter.create_histogram(_N["duration"], unit="s", description="Duration of a request.")
        self.tokens = meter.create_histogram(_N["tokens"], unit="{token}", description="Tokens of a request.")

    def __repr__(self) -> str:
        return f"<Telemetry{' with content' if self.with_content else ''}>"

    @classmethod
    def of_environment(cls, say: Callable[[str], None]) -> "Telemetry":
        """Exports by OTLP, as the SDK's environment variables say. `say` is told once of what cannot be exported.

        Raises:
            JobMistakesError: the SDK or its exporter is not installed, or a variable has a value that it refuses.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - an extra
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - as above
            from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - as above
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415 - as above
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above
        except ImportError:
            hint = "pip install 'batchrunner[otel]'"
            raise JobMistakesError((Mistake(key="--otel", problem="needs OpenTelemetry's SDK", hint=hint),)) from None
        try:
            named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "batchrunner"}
            if "service.instance.id=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
                named["service.instance.id"] = uuid.uuid4().hex  # processes that share a job have metrics of one name
            resource = Resource.create(named)
            tracers = TracerProvider(resource=resource)
            tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=resource)
        except (ValueError, OSError) as error:
            problem = f"OpenTelemetry refuses its environment variables: {error}"
            raise JobMistakesError((Mistake(key="--otel", problem=problem),)) from error
        _report_export_errors(say)
        asked = os.environ.get(CONTENT_VARIABLE, "").strip().lower()
        return cls(
            tracers=tracers, meters=meters, with_content=asked in {"true", "1", "span_only", "span_and_event"}, own=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Export the rest, which takes as long as the exporter's own limit at most."""
        for provider in (self._tracers, self._meters) if self._own else ():
            provider.shutdown()  # type: ignore[union-attr]  # the SDK's own have it

    def traced(self, transport: Transport, job: Job) -> "TracedTransport":
        """The same transport, with a span for each POST."""
        return TracedTransport(transport, job, self)


def _report_export_errors(say: Callable[[str], None]) -> None:
    """What the SDK logs goes to `say`, once for each place in it: a collector that is not there fails every export."""
    told: set[tuple[str, int]] = set()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            place = record.pathname, record.lineno
            if place not in told:
                told.add(place)
                say(f"--otel: {record.getMessage()}; the run continues")

    logger = logging.getLogger("opentelemetry")
    logger.handlers, logger.propagate = [Handler(logging.WARNING)], False


class TracedTransport:
    """A `GatedTransport`."""

    def __init__(self, transport: Transport, job: Job, telemetry: Telemetry) -> None:
        self._transport = transport
        self._telemetry = telemetry
        self.takes_gates = bool(getattr(transport, "takes_gates", False))
        place = urlsplit(job.provider.base_url)
        self._fixed: dict[str, str | int] = {
            _N["operation"]: _OPERATIONS[job.kind],
            _N["provider"]: _PROVIDERS.get(job.provider.preset, job.provider.preset),
            _N["server"]: place.hostname or "",
            _N["job"]: job.name,
        }
        if place.port is not None:
            self._fixed[_N["port"]] = place.port
        self._models = job.models

    def __repr__(self) -> str:
        return f"<TracedTransport of {self._transport!r}>"

    async def exchange(self, request: Request, decoder: Decoder[T], *, account: str, gate: Gate | None = None) -> T:
        """As of the transport."""
        if request.method != "POST":
            return await self._sent(request, decoder, account, gate)
        body = _body(request)
        model = body.get("model") if isinstance(body.get("model"), str) else self._models[0]
        attributes: dict[str, str | int] = {**self._fixed, _N["model"]: str(model), _N["account"]: account}
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - an extra, loaded by now

        name = f"{self._fixed[_N['operation']]} {model}"
        span = self._telemetry.tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        began_s, outcome = time.perf_counter(), None
        try:
            outcome = await self._sent(request, decoder, account, gate)
        except BaseException as error:
            self._failed(span, attributes, type(error).__name__)
            raise
        else:
            self._note(span, attributes, outcome, body)
            return outcome
        finally:
            shared = {_N[name]: attributes[_N[name]] for name in _SHARED if _N[name] in attributes}
            self._telemetry.durations.record(time.perf_counter() - began_s, shared)
            span.end()

    async def _sent(self, request: Request, decoder: Decoder[T], account: str, gate: Gate | None) -> T:
        if gate is None or not isinstance(self._transport, GatedTransport):
            return await self._transport.exchange(request, decoder, account=account)
        return await self._transport.exchange(request, decoder, account=account, gate=gate)

    @staticmethod
    def _failed(span: "Span", attributes: dict[str, str | int], kind: str) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an extra, loaded by now

        attributes[_N["error"]] = kind
        span.set_attribute(_N["error"], kind)
        span.set_status(Status(StatusCode.ERROR))  # without a description: a server's words may quote the prompt

    def _note(self, span: "Span", attributes: dict[str, str | int], outcome: object, body: dict[str, Json]) -> None:
        if isinstance(outcome, Problem):
            self._failed(span, attributes, outcome.kind.value)
            if outcome.status is not None:
                span.set_attribute(_N["status"], outcome.status)
        usage = outcome.usage if isinstance(outcome, Answer | Problem) else None
        if usage is not None:
            shared = {_N[name]: attributes[_N[name]] for name in _SHARED if _N[name] in attributes}
            for name, count in (("input_tokens", usage.input_tokens), ("output_tokens", usage.output_tokens)):
                if count is not None:
                    span.set_attribute(_N[name], count)
                    kind = name.removesuffix("_tokens")
                    self._telemetry.tokens.record(count, {**shared, _N["token_type"]: kind})
            if usage.cache_read_tokens is not None:
                span.set_attribute(_N["cache_read"], usage.cache_read_tokens)
        if isinstance(outcome, Answer) and outcome.finish_reason is not None:
            span.set_attribute(_N["finish_reasons"], (outcome.finish_reason,))
        if self._telemetry.with_content:
            span.set_attribute(_N["input_messages"], json.dumps(_messages(body)))
            if isinstance(outcome, Answer):
                said = [_message("assistant", outcome.text) | {"finish_reason": outcome.finish_reason or ""}]
                span.set_attribute(_N["output_messages"], json.dumps(said))


def _body(request: Request) -> dict[str, Json]:
    """What is sent, where it is JSON; empty for forms and files."""
    try:
        found = json.loads(request.body or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _messages(body: dict[str, Json]) -> list[dict[str, Json]]:
    """The messages of a request in the conventions' form, or its prompt as one."""
    listed = body.get("messages", body.get("input"))
    if isinstance(listed, list):
        return [
            _message(str(turn.get("role", "user")), turn.get("content"))
            if isinstance(turn, dict)
            else _message("user", turn)
            for turn in listed
        ]
    return [_message("user", body.get("prompt", listed))]


def _message(role: str, content: Json) -> dict[str, Json]:
    text = content if isinstance(content, str) else json.dumps(content)
    return {"role": role, "parts": [{"type": "text", "content": text}]}
