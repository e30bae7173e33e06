"""The envelope of every path. Paths are literals, because clients rely on them."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client, override_settings

from core.api.error_codes import ErrorCode
from health.multiprocess import draining

pytestmark = pytest.mark.django_db

ENVELOPE = {"success", "data", "error", "trace_id", "timestamp"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
REASONS = {
    "timeout", "connection_refused", "connection_lost", "dns_failure", "tls_failure", "auth_failed", "misconfigured",
    "bad_response", "not_ready", "migrations_pending", "schema_too_new", "error",
}  # fmt: skip


def check_envelope(body: Any, status: int) -> None:
    assert set(body) == ENVELOPE
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert datetime.now(UTC) - datetime.fromisoformat(body["timestamp"]) < timedelta(seconds=30)
    if status < 400:
        assert body["success"] is True
        assert body["error"] is None
        assert body["data"] is not None
    else:
        assert body["success"] is False
        assert body["data"] is None
        assert set(body["error"]) == {"code", "message", "details"}
        assert ErrorCode[body["error"]["code"]].status == status
        assert body["error"]["message"]


@pytest.mark.parametrize("accept", ["application/json", "text/html", "image/png", "*/*", "", "nonsense"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/health", 200),
        ("GET", "/health/", 200),
        ("GET", "/ready", 200),
        ("GET", "/ready/", 200),
        ("POST", "/", 405),
        ("POST", "/health", 405),
        ("PUT", "/ready", 405),
        ("DELETE", "/health/", 405),
        ("OPTIONS", "/ready/", 405),
        ("POST", "/metrics", 405),
        ("FOOA", "/", 405),
        ("FOOA", "/admin/", 405),
        ("GET", "/nothing/here", 404),
        ("GET", "/health/more", 404),
        ("GET", "/READY", 404),
        ("POST", "/nothing", 404),
    ],
)
def test_every_response_is_an_envelope(client: Client, method: str, path: str, status: int, accept: str) -> None:
    response = client.generic(method, path, headers={"accept": accept})
    assert response.status_code == status
    assert response["Content-Type"] == "application/json"
    body = json.loads(response.content)
    check_envelope(body, status)
    assert response.content.decode() == json.dumps(body, separators=(",", ":"))  # one encoding for all
    assert response["X-Request-ID"] == body["trace_id"]
    if status == 405:
        assert "GET" in response["Allow"]


def test_rejects_unknown_host_with_envelope(client: Client) -> None:
    response = client.get("/", headers={"host": "evil.example.org"})
    assert response.status_code == 400
    check_envelope(response.json(), 400)
    assert "evil" not in response.content.decode()


# Probes


def test_health(client: Client) -> None:
    data = client.get("/health").json()["data"]
    assert set(data) == {"status", "service", "version"}
    assert data["status"] == "healthy"
    assert data["service"] == "voiceassist"
    assert re.fullmatch(r"\d+\.\d+\.\d+", data["version"])


def test_index(client: Client) -> None:
    data = client.get("/").json()["data"]
    assert set(data) == {"service", "version", "commit", "built_at", "links"}
    for path in data["links"].values():
        assert client.get(path).status_code in (200, 302), path


def test_ready(client: Client) -> None:
    report = client.get("/ready").json()["data"]
    assert set(report) == {"status", "dependencies", "checked_at"}
    assert report["status"] == "ready"
    assert list(report["dependencies"]) == ["postgres", "redis", "qdrant", "migrations", "queue"]
    for name, dependency in report["dependencies"].items():
        assert set(dependency) == {"status", "critical", "latency_ms", "reason"}
        assert dependency["status"] == "healthy"
        assert dependency["critical"] is (name != "queue")
        assert dependency["latency_ms"] >= 0
        assert dependency["reason"] is None


def test_ready_reports_draining(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "is_draining", lambda: True)
    response = client.get("/ready")
    assert response.status_code == 503
    check_envelope(response.json(), 503)
    error = response.json()["error"]
    assert error["code"] == "NOT_READY"
    assert error["details"]["status"] == "draining"
    assert "voiceassist_ready 0.0" in client.get("/metrics").content.decode()
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/health", "/health/", "/ready", "/ready/", "/metrics", "/metrics/"])
@override_settings(SECURE_SSL_REDIRECT=True, ALLOWED_HOSTS=["only.example.org"])
def test_probes_work_with_any_host_over_http_without_cookies(client: Client, path: str) -> None:
    for host in ("10.1.2.3:8000", "only.example.org", "a_b", "[::1]"):
        for method in ("GET", "HEAD"):
            response = client.generic(method, path, headers={"host": host})
            assert response.status_code == 200, (host, method)
            assert response["Cache-Control"] == "no-store"
            assert not response.cookies
            assert response.get("Vary") == ("Accept-Encoding" if "metrics" in path else None)
            assert (response.content == b"") is (method == "HEAD")
            assert int(response["Content-Length"]) > 50
    assert client.get("/", headers={"host": "only.example.org"}).status_code == 301


# Metrics


def test_metrics(client: Client) -> None:
    client.get("/ready")
    response = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert response["Content-Type"].startswith("text/plain; version=0.0.4")
    text = response.content.decode()
    for dependency in ("postgres", "redis", "qdrant", "migrations", "queue"):
        assert f'voiceassist_dependency_up{{dependency="{dependency}"}} 1.0' in text
        assert f'voiceassist_dependency_check_duration_seconds_count{{dependency="{dependency}"}}' in text
    assert "# TYPE voiceassist_dependency_up gauge" in text
    assert "# TYPE voiceassist_dependency_check_duration_seconds histogram" in text
    assert "# TYPE voiceassist_dependency_check_failures_total counter" in text
    assert "voiceassist_ready 1.0" in text
    assert re.search(
        r'voiceassist_build_info\{commit="[^"]+",django="5\.2[^"]*",python="3[^"]*",version="[^"]+"\} 1\.0', text
    )
    assert "django_http_requests_before_middlewares_total" in text


def test_unknown_method_creates_no_series(client: Client) -> None:
    for method in ("FOOA", "FOOB"):
        client.generic(method, "/")
    assert "FOO" not in client.get("/metrics").content.decode()


@override_settings(METRICS_TOKEN="a-token")
def test_metrics_require_the_token(client: Client) -> None:
    for authorization, status, code in [
        (None, 401, "AUTH_REQUIRED"),
        ("Bearer wrong", 401, "AUTH_FAILED"),
        ("a-token", 401, "AUTH_FAILED"),
        ("Bearer ä", 401, "AUTH_FAILED"),
    ]:
        response = client.get("/metrics", headers={"authorization": authorization} if authorization else {})
        assert response.status_code == status
        check_envelope(response.json(), 401)
        assert response.json()["error"]["code"] == code
        assert response["WWW-Authenticate"] == "Bearer"
        assert "Send the metrics token" in response.json()["error"]["message"]
        assert response["Cache-Control"] == "no-store"
    assert client.get("/metrics", headers={"authorization": "Bearer a-token"}).status_code == 200


# Trace id


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "mine"}, TRACE),
        ({"traceparent": f"cc-{TRACE}-00f067aa0ba902b7-01-later"}, TRACE),
        ({"x-request-id": "A.b_c-1"}, "A.b_c-1"),
        ({"x-request-id": "x" * 128}, "x" * 128),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01", "x-request-id": "mine"}, "mine"),
        ({"traceparent": f"00-{TRACE}-{'0' * 16}-01", "x-request-id": "mine"}, "mine"),
        ({"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "mine"}, "mine"),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01-more", "x-request-id": "mine"}, "mine"),
        ({"traceparent": f"00-{TRACE.upper()}-00f067aa0ba902b7-01", "x-request-id": "mine"}, "mine"),
        ({}, None),
        ({"x-request-id": ""}, None),
        ({"x-request-id": "x" * 129}, None),
        ({"x-request-id": "two words"}, None),
        ({"x-request-id": "line\nbreak"}, None),
        ({"x-request-id": "ümlaut"}, None),
    ],
)
@pytest.mark.parametrize("path", ["/health", "/", "/nothing"])
def test_trace_id(client: Client, path: str, headers: dict[str, str], expected: str | None) -> None:
    response = client.get(path, headers=headers)
    trace_id = response.json()["trace_id"]
    assert response["X-Request-ID"] == trace_id
    if expected is None:
        assert str(uuid.UUID(trace_id)) == trace_id
        assert client.get(path, headers=headers).json()["trace_id"] != trace_id
    else:
        assert trace_id == expected
