"""Tracing: spans reach a collector with the trace id of the envelope and the log, and contain no PHI."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from core.trace_id import as_w3c_trace_id, clear_trace_id, outgoing_traceparent, set_trace_id
from tests.support.load_settings import PRODUCTION
from tests.support.plugin import Servers
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.proxy import Proxy
from tests.support.trace_collector import Collector
from tests.support.traced_urls import CANARY
from tests.support.voiceassist_server import VoiceAssistServer
from tests.voiceassist.test_settings import ROOT

SERVER, CLIENT = 2, 3  # opentelemetry.proto.trace.v1.Span.SpanKind
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SETTINGS: dict[str, Any] = {"DJANGO_SETTINGS_MODULE": "tests.support.traced_settings"}
HEADERS = {
    "User-Agent": CANARY,
    "Referer": f"http://localhost/{CANARY}",
    "Cookie": f"sessionid={CANARY}",
    "Authorization": f"Bearer {CANARY}",
    "X-Forwarded-For": CANARY,
    "Baggage": f"patient={CANARY}",
    "Tracestate": f"vendor={CANARY}",
    "traceparent": f"00-{TRACE}-{PARENT}-01",
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def app(collector: Collector) -> Iterator[VoiceAssistServer]:
    variables = SETTINGS | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "clinic"}
    with VoiceAssistServer(OTEL_BSP_SCHEDULE_DELAY="100", **variables) as app:
        yield app


def problems(app: VoiceAssistServer) -> list[dict[str, object]]:
    """Return the lines of the log above `info`, except those of readiness, because no test migrates its database."""
    return [line for line in app.log_lines() if line["level"] != "info" and line["logger"] != "voiceassist.readiness"]


def test_request_span_has_child_spans_for_its_calls(
    app: VoiceAssistServer, collector: Collector, servers: Servers
) -> None:
    status, headers, _ = app.get(f"/touch/{CANARY}/?q={CANARY}", headers=HEADERS)
    assert (status, headers["X-Request-ID"]) == (200, TRACE)
    *calls, request = collector.trace(TRACE)
    assert request.name == "GET touch/<str:name>/"
    assert request.kind == SERVER
    assert request.parent_span_id.hex() == PARENT
    assert {call.parent_span_id for call in calls} == {request.span_id}
    assert {call.kind for call in calls} == {CLIENT}
    assert {attribute.key for attribute in request.attributes} == {
        *("http.method", "http.route", "http.status_code", "request_id")
    }
    attributes = [{a.key: a.value.string_value for a in call.attributes} for call in calls]
    assert {"SELECT upper(%s)", "SELECT "} <= {call.get("db.statement") for call in attributes}
    assert {call.get("db.system") for call in attributes} >= {"postgresql", "redis"}
    assert collector.resource["service.name"] == "clinic"
    assert {call.trace_state for call in (*calls, request)} == {""}
    # Qdrant received the trace id, and the span of this call as the parent.
    assert attributes[-1] == {"http.method": "DELETE", "http.status_code": "", "net.peer.name": "127.0.0.1"}
    assert servers.qdrant.traceparents[-1] == f"00-{TRACE}-{calls[-1].span_id.hex()}-01"
    assert not {"tracestate", "baggage"} & servers.qdrant.header_names


def test_request_that_the_client_does_not_sample_is_not_traced(
    app: VoiceAssistServer, collector: Collector, servers: Servers
) -> None:
    assert app.get("/touch/x/", headers={"traceparent": f"00-{'d' * 32}-{PARENT}-00"})[0] == 200
    assert re.fullmatch(rf"00-{'d' * 32}-[0-9a-f]{{16}}-00", servers.qdrant.traceparents[-1])
    app.get("/", headers={"traceparent": f"00-{'e' * 32}-{PARENT}-01"})
    collector.trace("e" * 32)
    assert not [span for span in collector.spans if span.trace_id.hex() == "d" * 32]


def test_exception_event_has_only_the_type(app: VoiceAssistServer, collector: Collector) -> None:
    assert app.get(f"/fail/{CANARY}/", headers={**HEADERS, "traceparent": f"00-{'a' * 32}-{PARENT}-01"})[0] == 500
    *_, call, request = collector.trace("a" * 32)
    for span, error_type in (
        (call, "psycopg.errors.InvalidTextRepresentation"),
        (request, "django.db.utils.DataError"),
    ):
        (event,) = span.events
        assert [(a.key, a.value.string_value) for a in event.attributes] == [("exception.type", error_type)]
        assert span.status.code == 2
        assert span.status.message == ""


def test_envelope_log_and_span_have_the_same_trace_id(app: VoiceAssistServer, collector: Collector) -> None:
    for headers in ({}, {"X-Request-ID": "client-id"}, {"X-Request-ID": "01A20D61-A32A-73FE-AEA0-A1644A63DB09"}):
        trace_id = json.loads(app.get("/", headers=headers)[2])["trace_id"]
        assert trace_id == headers.get("X-Request-ID", trace_id)
        assert succeeds_within(5, lambda trace_id=trace_id: trace_id in app.log())  # type: ignore[misc]
        set_trace_id(trace_id)
        (span,) = collector.trace(as_w3c_trace_id())
        clear_trace_id()
        assert {a.key: a.value.string_value for a in span.attributes}["request_id"] == trace_id
        assert headers or span.trace_id.hex() == trace_id


def test_probes_are_not_traced(app: VoiceAssistServer, collector: Collector) -> None:
    for path in ("/health", "/ready", "/metrics/"):
        for host in ("localhost", "10.1.2.3"):
            status, _, _ = app.get(path, headers={"Host": host, "traceparent": f"00-{'b' * 32}-{PARENT}-01"})
            assert status != 400
    assert app.get("/", headers={"Host": "10.1.2.3"})[0] == 400
    app.get("/", headers={"traceparent": f"00-{'c' * 32}-{PARENT}-01"})
    collector.trace("c" * 32)
    roots = [span for span in collector.spans if not span.parent_span_id]
    assert {span.kind for span in roots} <= {SERVER}
    assert not [span for span in collector.spans if span.trace_id.hex() == "b" * 32]


def test_exported_spans_contain_no_value_of_a_request(app: VoiceAssistServer, collector: Collector) -> None:
    for path, trace_id in (("touch", "1" * 32), ("fail", "2" * 32)):
        headers = {**HEADERS, "traceparent": f"00-{trace_id}-{PARENT}-01"}
        app.get(f"/{path}/{CANARY}/?q={CANARY}", headers=headers)
        assert len(collector.trace(trace_id)) > 1  # the request and its calls
    assert CANARY.encode() not in b"".join(collector.bodies).lower()
    assert b"4711" not in b"".join(collector.bodies)
    assert CANARY not in app.log()


def test_exiting_worker_exports_remaining_spans() -> None:
    with Collector() as collector:
        environment: dict[str, Any] = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "DRAIN_SECONDS": "0"}
        with VoiceAssistServer(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **environment) as app:
            app.get("/", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
            assert not collector.spans
            app.terminate()
            assert app.process.wait(15) == 0
        assert [span.name for span in collector.trace(TRACE)] == ["GET"]


def test_silent_collector_delays_neither_requests_nor_shutdown() -> None:
    with Collector(silent=True) as collector:
        environment: dict[str, Any] = {
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
            "DRAIN_SECONDS": "0",
        }
        with VoiceAssistServer(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, WEB_CONCURRENCY="1", **environment) as app:
            app.get("/")
            assert succeeds_within(5, lambda: collector.received > 0)
            for _ in range(20):
                assert app.get("/", timeout=5)[0] == 200
            app.terminate()
            assert app.process.wait(15) == 0
            assert problems(app) == []


def test_unreachable_collector_is_logged_once() -> None:
    environment: dict[str, Any] = {
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2",
        "DRAIN_SECONDS": "0",
    }
    with Proxy(1) as closing:
        closing.mode = "close"
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{closing.port}"
        with VoiceAssistServer(WEB_CONCURRENCY="1", **environment) as app:

            def is_tried_again() -> bool:
                app.get("/")
                return closing.accepted > 2 * 2  # of three exports, because each retries once

            assert succeeds_within(20, is_tried_again)
            app.terminate()
            assert app.process.wait(15 * SLOWNESS) == 0
            (line,) = problems(app)
        assert line["message"] == "trace collector unreachable, dropping traces"


def test_collector_that_refuses_connections_is_logged_once() -> None:
    environment: dict[str, Any] = {
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2",
        "DRAIN_SECONDS": "0",
    }
    with VoiceAssistServer(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", WEB_CONCURRENCY="1", **environment) as app:
        for _ in range(5):
            app.get("/")
            assert succeeds_within(5, lambda: problems(app))
        app.terminate()
        assert app.process.wait(15 * SLOWNESS) == 0
        assert len(problems(app)) == 1


def test_tracing_is_not_imported_without_an_endpoint() -> None:
    code = (
        "import sys, voiceassist.wsgi, redis, django.core.cache.backends.redis\n"
        "print([name for name in ('voiceassist.tracing', 'opentelemetry.instrumentation', 'opentelemetry.exporter')"
        " if name in sys.modules])"
    )
    environment = {**PRODUCTION, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("trace_id", "expected"),
    [
        (TRACE, TRACE),
        ("4bf92f35-77b3-4da6-a3ce-929d0e0e4736", TRACE),
        ("mine", "3fd30542fe3f61b1"),
        ("0" * 32, ""),
        ("x" * 128, ""),
    ],
)
def test_traceparent_is_valid_for_every_trace_id(trace_id: str, expected: str) -> None:
    set_trace_id(trace_id)
    try:
        first, second = outgoing_traceparent(), outgoing_traceparent()
    finally:
        clear_trace_id()
    match = re.fullmatch(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-01", first)
    assert match
    assert match[1].startswith(expected)
    assert first[:36] == second[:36]
    assert first != second
