"""Every response has the security headers, whatever part of the server or of HAProxy creates it."""

import socket
from collections.abc import Iterator
from email.message import Message
from http.client import HTTPResponse
from pathlib import Path

import psutil
import pytest
import yaml

from tests.benchmarks.middleware import ENVIRONMENT
from tests.support.haproxy import HAProxy, needs_haproxy
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

HOST = b"Host: localhost\r\n"
HTTPS = HOST + b"X-Forwarded-Proto: https\r\n"
STYLE_SHEET = b"/static/admin/css/base.css"

# Name: start of the request, and the status of the response.
RESPONSES = {
    "malformed header": (b"GET / HTTP/1.1\r\nnothing\r\n", 400),
    "malformed method": (b"get / HTTP/1.1\r\n" + HOST, 400),
    "malformed chunk": (b"POST / HTTP/1.1\r\n" + HTTPS + b"Transfer-Encoding: chunked\r\n\r\nx", 400),
    "too long head": (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n", 400),
    "too large body": (b"POST / HTTP/1.1\r\n" + HTTPS + b"Content-Length: 200000\r\n", 413),
    "unknown method": (b"BREW / HTTP/1.1\r\n" + HTTPS, 405),
    "unknown host": (b"GET / HTTP/1.1\r\nHost: other\r\nX-Forwarded-Proto: https\r\n", 400),
    "redirect to HTTPS": (b"GET / HTTP/1.1\r\n" + HOST, 301),
    "liveness": (b"GET /health HTTP/1.1\r\n" + HOST, 200),
    "liveness, HEAD": (b"HEAD /health HTTP/1.1\r\n" + HOST, 200),
    "liveness, POST": (b"POST /health HTTP/1.1\r\n" + HOST, 405),
    "readiness": (b"GET /ready HTTP/1.1\r\n" + HOST, 503),
    "metrics": (b"GET /metrics HTTP/1.1\r\n" + HOST, 200),
    "root": (b"GET / HTTP/1.1\r\n" + HTTPS, 200),
    "static file": (b"GET " + STYLE_SHEET + b" HTTP/1.1\r\n" + HTTPS, 200),
    "unchanged static file": (
        b"GET " + STYLE_SHEET + b" HTTP/1.1\r\nIf-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n" + HTTPS,
        304,
    ),
    "missing static file": (b"GET /static/none HTTP/1.1\r\n" + HTTPS, 404),
    "missing page": (b"GET /none HTTP/1.1\r\n" + HTTPS, 404),
    "missing slash": (b"GET /admin HTTP/1.1\r\n" + HTTPS, 301),
    "login without a database": (b"GET /admin/login/ HTTP/1.1\r\n" + HTTPS, 503),
    "refused form": (b"POST /admin/login/ HTTP/1.1\r\n" + HTTPS, 403),
    "API schema": (b"GET /api/schema/ HTTP/1.1\r\n" + HTTPS, 200),
    "API documentation": (b"GET /api/docs/ HTTP/1.1\r\n" + HTTPS, 200),
    "unreachable database": (b"GET /admin/ HTTP/1.1\r\nCookie: __Host-sessionid=%s\r\n" % (b"a" * 32) + HTTPS, 503),
}


@pytest.fixture(scope="module")
def app() -> Iterator[VoiceAssistServer]:
    environment = {**ENVIRONMENT, "HTTPS_ONLY": "true", "BEHIND_PROXY": "true"}
    with VoiceAssistServer(**environment) as app:
        yield app


def headers(port: int, request: bytes) -> tuple[int, Message]:
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(request + b"\r\n")
        response = HTTPResponse(client)
        response.begin()
        response.close()
        return response.status, response.headers


def assert_secure(found: Message) -> None:
    assert found["X-Frame-Options"] == "DENY"
    assert found["X-Content-Type-Options"] == "nosniff"
    assert found["Referrer-Policy"] == "same-origin"
    assert found["Cross-Origin-Opener-Policy"] == "same-origin"
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(found["Content-Security-Policy"].split("; "))
    assert "Access-Control-Allow-Origin" not in found
    for name in ("X-Frame-Options", "X-Content-Type-Options", "Referrer-Policy", "Content-Security-Policy"):
        assert len(found.get_all(name, [])) == 1


@pytest.mark.parametrize("kind", RESPONSES)
def test_response_has_the_headers(app: VoiceAssistServer, kind: str) -> None:
    request, expected = RESPONSES[kind]
    status, found = headers(app.port, request)
    assert status == expected
    assert_secure(found)


@needs_haproxy
def test_responses_of_haproxy_have_the_headers(app: VoiceAssistServer, tmp_path: Path) -> None:
    """HAProxy's fixed pages for requests that it can't parse are not tested, because no rule applies to them."""
    with HAProxy(tmp_path, "haproxy.cfg", APP1=f"127.0.0.1:{app.port}", APP2="127.0.0.1:1") as haproxy:
        haproxy.wait_for("alive", {"app1"})
        long_body = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 200000\r\n\r\n" + b"x" * 20_000
        for request, expected in (
            (b"GET /health HTTP/1.1\r\n" + HOST, 200),
            (b"GET /metrics HTTP/1.1\r\n" + HOST, 403),
            (b"GET /api/docs/ HTTP/1.1\r\n" + HOST, 301),
            (long_body, 413),
        ):
            status, found = headers(haproxy.port, request)
            assert status == expected
            assert_secure(found)


def test_crashes_write_no_core_dump(app: VoiceAssistServer) -> None:
    """A core dump would contain PHI."""
    for process in (psutil.Process(app.process.pid), *app.workers()):
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert {service["ulimits"]["core"] for service in compose["services"].values()} == {0}
