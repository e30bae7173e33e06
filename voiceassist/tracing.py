"""OpenTelemetry tracing, exported over OTLP/HTTP. Imported only if `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

    instrument    in the master, before the application is created; starts no thread
    start, stop   in each worker, after the fork and before it exits

Each request is a span, and so is each of its calls to PostgreSQL, Redis and Qdrant. Probes are not traced. Only the
attributes in `_SERVER_ATTRIBUTES` and `_CLIENT_ATTRIBUTES` are exported.
"""

import re
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.http import HttpRequest
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation import dbapi
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.psycopg import DatabaseApiIntegration
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Span, SpanKind, Status, set_tracer_provider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from core.clients.postgresql.connection import Connection
from core.trace_id import as_w3c_trace_id, get_or_create_trace_id

log = structlog.stdlib.get_logger("voiceassist.tracing")

_FLUSH_TIMEOUT = 2.0  # seconds that an exiting worker waits for the collector
MAX_STATEMENT = 2_000  # characters

# Names of the old semantic conventions, the default of the instrumentations. If an upgrade changes that, no attribute
# is exported, and tests/voiceassist/test_tracing.py fails.
_SERVER_ATTRIBUTES = {"request_id", "http.method", "http.route", "http.status_code", "error.type"}
_CLIENT_ATTRIBUTES = {
    *("db.system", "db.name", "db.statement", "db.redis.database_index", "db.redis.pipeline_length"),
    *("http.method", "http.status_code", "net.peer.name", "net.peer.port", "error.type"),
}
_provider: TracerProvider | None = None


def instrument() -> None:
    propagate.set_global_textmap(_TraceparentPropagator())
    after_probes = settings.MIDDLEWARE.index("health.middleware.ProbeMiddleware") + 1
    DjangoInstrumentor().instrument(middleware_position=after_probes, request_hook=_add_request_id)
    for instrumentor in (RedisInstrumentor, HTTPXClientInstrumentor):
        instrumentor().instrument()
    # PsycopgInstrumentor can wrap only `psycopg.connect`, which our database backend does not call.
    attributes = {"database": "info.dbname", "port": "info.port", "host": "info.host", "user": "info.user"}
    dbapi.wrap_connect(
        *(__name__, Connection, "connect", "postgresql", attributes), db_api_integration_factory=DatabaseApiIntegration
    )


def _add_request_id(span: Span, request: HttpRequest) -> None:
    """Add the trace id of the envelope and the log, because an X-Request-ID may not be a valid W3C trace id."""
    span.set_attribute("request_id", get_or_create_trace_id())


def start() -> None:
    """Start the thread that exports spans. OpenTelemetry reads its other OTEL_* variables itself."""
    exporter = RedactingSpanExporter(
        OTLPSpanExporter(f"{(settings.OTEL_EXPORTER_OTLP_ENDPOINT or '').rstrip('/')}/v1/traces")
    )
    resource = {"service.name": settings.OTEL_SERVICE_NAME, "service.version": settings.VERSION}
    global _provider
    _provider = TracerProvider(
        sampler=ParentBased(_RequestSampler()),
        resource=Resource.create(resource),
        id_generator=_CurrentTraceId(),
        shutdown_on_exit=False,
    )
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    set_tracer_provider(_provider)


def stop() -> None:
    """Export the remaining spans, in a daemon thread, which ends with the process if the collector hangs."""
    if _provider:
        thread = threading.Thread(target=_provider.shutdown, daemon=True)
        thread.start()
        thread.join(_FLUSH_TIMEOUT)


class _CurrentTraceId(RandomIdGenerator):
    """Use the trace id of the envelope and the log."""

    def generate_trace_id(self) -> int:
        return int(as_w3c_trace_id(), 16)


class _RequestSampler(Sampler):
    """Let only incoming requests start a trace, not readiness checks in the background."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        *args: Any,
        **kw: Any,
    ) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE if kind is SpanKind.SERVER else Decision.DROP)

    def get_description(self) -> str:
        return "requests"


class _TraceparentPropagator(TraceContextTextMapPropagator):
    """Accept only `traceparent` from clients. The other headers may contain anything and would be forwarded."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        header = getter.get(carrier, "traceparent")
        return super().extract({"traceparent": header[0]} if header else {}, context)


class RedactingSpanExporter(SpanExporter):
    """Export redacted spans, and log when the collector becomes unreachable or reachable again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_reachable = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export([redacted(span) for span in spans])
        is_reachable = result is SpanExportResult.SUCCESS
        if is_reachable is not self._is_reachable:
            self._is_reachable = is_reachable
            if is_reachable:
                log.info("trace collector reachable again")
            else:
                log.warning("trace collector unreachable, dropping traces")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def redacted(span: ReadableSpan) -> ReadableSpan:
    """Return a copy of the span with the allowed attributes, and without exception messages."""
    is_client = span.kind is SpanKind.CLIENT
    allowed = _CLIENT_ATTRIBUTES if is_client else _SERVER_ATTRIBUTES
    collected = span.attributes or {}
    attributes = {key: value for key, value in collected.items() if key in allowed}
    if is_client and "http.url" in collected:
        attributes["net.peer.name"] = urlsplit(str(collected["http.url"])).hostname or ""
    if "db.statement" in attributes:
        attributes["db.statement"] = _truncate_at_first_literal(str(attributes["db.statement"]))
    events = [
        Event(event.name, {"exception.type": (event.attributes or {}).get("exception.type", "")}, event.timestamp)
        for event in span.events
        if event.name == "exception"
    ]
    return ReadableSpan(
        name=_truncate_at_first_literal(span.name) if is_client else span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=events,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _truncate_at_first_literal(statement: str) -> str:
    """Return the statement up to its first literal. It has no parameters, but code may have inserted values."""
    return re.split(r"['$]|(?<![\w.])\d", statement[:MAX_STATEMENT], maxsplit=1)[0]
