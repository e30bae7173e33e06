"""Traces by OpenTelemetry, sent to a collector by OTLP/HTTP. Imported only with `OTEL_EXPORTER_OTLP_ENDPOINT`.

    instrument    in the master, before the application is made: no thread yet
    start, stop   in each worker, after the fork and at its end

A request is a span, and so is each of its calls to PostgreSQL, Redis and Qdrant. Probes are not traced: they are
answered before the tracing middleware. What leaves is what `_SERVER` and `_CLIENT` name, whatever is collected.
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

_FLUSH = 2.0  # seconds that a worker's end may wait for the collector
_MOST_TEXT = 2_000  # characters of a statement

_SERVER = {"request_id", "http.method", "http.route", "http.status_code", "error.type"}
_CLIENT = {
    *("db.system", "db.name", "db.statement", "db.redis.database_index", "db.redis.pipeline_length"),
    *("http.method", "http.status_code", "net.peer.name", "net.peer.port", "error.type"),
}
_provider: TracerProvider | None = None


def instrument() -> None:
    propagate.set_global_textmap(_Traceparent())
    after_probes = settings.MIDDLEWARE.index("health.middleware.ProbeMiddleware") + 1
    DjangoInstrumentor().instrument(middleware_position=after_probes, request_hook=_request_id)
    for instrumentor in (RedisInstrumentor, HTTPXClientInstrumentor):
        instrumentor().instrument()
    # What PsycopgInstrumentor does to `psycopg.connect`, which the ORM doesn't call.
    attributes = {"database": "info.dbname", "port": "info.port", "host": "info.host", "user": "info.user"}
    dbapi.wrap_connect(
        *(__name__, Connection, "connect", "postgresql", attributes), db_api_integration_factory=DatabaseApiIntegration
    )


def _request_id(span: Span, request: HttpRequest) -> None:
    """What the envelope and the log call the request: a client's X-Request-ID may be no possible trace id."""
    span.set_attribute("request_id", get_or_create_trace_id())


def start() -> None:
    """Starts the thread that sends. Variables of OpenTelemetry's own (headers, certificate, batches) count."""
    exporter = _Redacting(OTLPSpanExporter(f"{(settings.OTEL_EXPORTER_OTLP_ENDPOINT or '').rstrip('/')}/v1/traces"))
    resource = {"service.name": settings.OTEL_SERVICE_NAME, "service.version": settings.VERSION}
    global _provider
    _provider = TracerProvider(
        sampler=ParentBased(_Requests()),
        resource=Resource.create(resource),
        id_generator=_TraceId(),
        shutdown_on_exit=False,
    )
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    set_tracer_provider(_provider)


def stop() -> None:
    """Sends what is left. A collector that says nothing is not waited for: the thread ends with the process."""
    if _provider:
        thread = threading.Thread(target=_provider.shutdown, daemon=True)
        thread.start()
        thread.join(_FLUSH)


class _TraceId(RandomIdGenerator):
    def generate_trace_id(self) -> int:
        return int(as_w3c_trace_id(), 16)


class _Requests(Sampler):
    """A trace begins with a request: what readiness asks by itself, once a second, is none."""

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


class _Traceparent(TraceContextTextMapPropagator):
    """Takes the ids of a client, and nothing else: `tracestate` and `baggage` could hold anything, and would go on."""

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        header = getter.get(carrier, "traceparent")
        return super().extract({"traceparent": header[0]} if header else {}, context)


class _Redacting(SpanExporter):
    """Sends spans without what may be PHI, and tells the log when the collector goes away and when it is back."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export([redacted(span) for span in spans])
        works = result is SpanExportResult.SUCCESS
        if works is not self._works:
            self._works = works
            if works:
                log.info("traces reach the collector again")
            else:
                log.warning("traces do not reach the collector: they are dropped")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def redacted(span: ReadableSpan) -> ReadableSpan:
    """Returns the span with the attributes that are allowed. Of an exception its type is left."""
    client = span.kind is SpanKind.CLIENT
    allowed = _CLIENT if client else _SERVER
    collected = span.attributes or {}
    attributes = {key: value for key, value in collected.items() if key in allowed}
    if client and "http.url" in collected:
        attributes["net.peer.name"] = urlsplit(str(collected["http.url"])).hostname or ""
    if "db.statement" in attributes:
        attributes["db.statement"] = _without_values(str(attributes["db.statement"]))
    events = [
        Event(event.name, {"exception.type": (event.attributes or {}).get("exception.type", "")}, event.timestamp)
        for event in span.events
        if event.name == "exception"
    ]
    return ReadableSpan(
        name=_without_values(span.name) if client else span.name,
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


def _without_values(statement: str) -> str:
    """Cuts a statement off at its first literal: parameters are not in it, but it may be put together of values."""
    return re.split(r"['$]|(?<![\w.])\d", statement[:_MOST_TEXT], maxsplit=1)[0]
