"""The edges of HTTP with the real server behind a proxy: odd requests, refused hosts, and the client's address."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPResponse
from typing import Any

import httpx
import psycopg
import pytest

from tests.core.http.odd_requests import odd_requests
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

EMAIL, PASSWORD = "owner@example.org", "correct horse battery"
CANARY = "canary-of-a-patient"


@pytest.fixture(scope="module")
def database(servers: Servers) -> str:
    return database_with_staff(servers.postgres, "http_server", EMAIL, PASSWORD)


@pytest.fixture(scope="module")
def app(database: str) -> Iterator[VoiceAssistServer]:
    with VoiceAssistServer(DATABASE_URL=database, BEHIND_PROXY="true", WEB_CONCURRENCY="1") as app:
        yield app


@pytest.fixture
def new_app(database: str) -> Iterator[VoiceAssistServer]:
    """A server that has logged no refused request yet."""
    with VoiceAssistServer(DATABASE_URL=database, BEHIND_PROXY="true", WEB_CONCURRENCY="1") as app:
        yield app


def lines(app: VoiceAssistServer, logger: str) -> list[dict[str, Any]]:
    return [line for line in app.log_lines() if line["logger"] == logger]


def log_in(app: VoiceAssistServer, password: str, forwarded_for: str) -> int:
    with httpx.Client(base_url=app.url, timeout=30, headers={"X-Forwarded-For": forwarded_for}) as client:
        client.get("/admin/login/")
        form = {"username": EMAIL, "password": password, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        return client.post("/admin/login/?next=/admin/", data=form).status_code


def test_strangers_behind_a_proxy_that_appends_ports_do_not_lock_the_owner_out(
    app: VoiceAssistServer, database: str
) -> None:
    def login_events() -> list[Any]:
        query = "SELECT action, host(address) FROM audit_events WHERE action LIKE 'login%' ORDER BY created_at, id"
        with psycopg.connect(database) as connection:
            return connection.execute(query).fetchall()

    events_before, lines_before = login_events(), lines(app, "voiceassist.client_ip")
    strangers = [f"203.0.113.{number}" for number in range(1, 6)]
    for number, address in enumerate(strangers):
        assert log_in(app, "wrong", f"198.51.100.9, {address}:{17085 + number}") == 200
    assert log_in(app, PASSWORD, "[2001:db8::9]:443") == 302
    new_events = [*(("login_failed", address) for address in strangers), ("login", "2001:db8::9")]
    assert login_events() == events_before + new_events
    assert lines(app, "voiceassist.client_ip") == lines_before


def test_logs_once_that_the_proxy_appends_no_address(new_app: VoiceAssistServer) -> None:
    for _ in range(2):
        log_in(new_app, "wrong", f"203.0.113.1, {CANARY}")
        log_in(new_app, "wrong", "")
    messages = [line["message"].partition(".")[0] for line in lines(new_app, "voiceassist.client_ip")]
    assert messages == [
        "The last element of the X-Forwarded-For header is not an IP address",
        "The X-Forwarded-For header is missing",
    ]
    assert CANARY not in new_app.log()


def test_logs_a_refused_host_and_origin_without_their_values(new_app: VoiceAssistServer) -> None:
    for _ in range(2):
        assert new_app.get("/", headers={"Host": f"{CANARY}.example.org"})[0] == 400
        assert new_app.get("/admin/login/", method="POST", headers={"Origin": f"https://{CANARY}"})[0] == 403
    assert succeeds_within(5, lambda: len(lines(new_app, "voiceassist.security")) >= 2)
    assert [line["kind"] for line in lines(new_app, "voiceassist.security")] == ["DisallowedHost", "csrf_origin"]
    assert CANARY not in new_app.log()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_response_without_content_has_no_length(app: VoiceAssistServer, method: str) -> None:
    path = "/static/admin/css/base.css"
    status, headers, body = app.get(path, method=method)
    assert (status, len(body)) == (200, int(headers["Content-Length"]) if method == "GET" else 0)
    unchanged = {"If-Modified-Since": headers["Last-Modified"]}
    status, headers, body = app.get(path, method=method, headers=unchanged)
    assert (status, body, headers.keys() & {"Content-Length", "Transfer-Encoding"}) == (304, b"", set())


def send(app: VoiceAssistServer, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send the bytes of one request and return the response."""
    with socket.create_connection(("127.0.0.1", app.port), 30) as client:
        client.sendall(request)
        with HTTPResponse(client) as response:
            response.begin()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def test_odd_requests_never_fail(app: VoiceAssistServer) -> None:
    with closing(app.log_in(EMAIL, PASSWORD)) as client:
        cookies = {name: value.encode() for name, value in client.cookies.items()}
    for request in odd_requests(cookies["sessionid"], cookies["csrftoken"]):
        status, headers, body = send(app, request)
        assert status < 500, (status, request[:500])
        if headers.get("content-type") == "application/json":
            assert json.loads(body)["success"] is (status < 400)
    levels = {line["level"] for line in app.log_lines()}
    assert levels <= {"info", "warning"}
