"""Reports to Sentry: what leaves the server contains no values, and an unreachable Sentry delays nothing."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import brotli
import pytest
from sentry_sdk.consts import DEFAULT_QUEUE_SIZE

from tests.support.dependency_servers import free_port
from tests.support.plugin import Servers
from tests.support.polling import ends_within, succeeds_within
from tests.support.proxy import Proxy
from tests.support.traced_urls import CANARY
from tests.support.voiceassist_server import ROOT, VoiceAssistServer
from tests.voiceassist.test_tracing import HEADERS, SETTINGS

FAILING = f"/fail/{CANARY}/?q={CANARY}"
PUBLIC_KEY = "0a1b2c"


class Handler(BaseHTTPRequestHandler):
    server: "Sentry"

    def log_message(self, *args: object) -> None: ...

    def do_POST(self) -> None:  # noqa: N802  # http.server calls it by this name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.is_silent:
            self.server.closing.wait()
            return
        assert self.headers["Content-Encoding"] == "br"
        body = brotli.decompress(body)
        self.server.received.append((self.path, str(self.headers), body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


class Sentry(ThreadingHTTPServer):
    """A context manager that stores what it receives. A silent one accepts requests and never responds."""

    daemon_threads = True

    def __init__(self, *, is_silent: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.is_silent = is_silent
        self.closing = threading.Event()
        self.received: list[tuple[str, str, bytes]] = []  # path, headers, decompressed body
        self.dsn = f"http://{PUBLIC_KEY}@127.0.0.1:{self.server_port}/42"

    def __enter__(self) -> "Sentry":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def events(self) -> list[dict[str, Any]]:
        """Return the events. The lines of an envelope are its header, then a header and a payload for each item."""
        events = []
        for _, _, body in self.received:
            items = body.rstrip(b"\n").split(b"\n")[1:]
            assert [json.loads(header)["type"] for header in items[::2]] == ["event"]
            events += [json.loads(payload) for payload in items[1::2]]
        return events


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    with Sentry() as sentry:
        yield sentry


def test_report_contains_the_location_and_no_values(sentry: Sentry) -> None:
    with VoiceAssistServer(SENTRY_DSN=sentry.dsn, **SETTINGS) as app:
        assert app.get(FAILING, method="POST", headers=HEADERS)[0] == 403  # without a CSRF token
        assert app.get(FAILING, headers=HEADERS)[0] == 500
        assert succeeds_within(10, lambda: len(sentry.received) == 1)
    (event,) = sentry.events()
    path, headers, body = sentry.received[0]
    assert path == "/api/42/envelope/"
    assert PUBLIC_KEY in headers
    assert CANARY not in headers
    assert CANARY.encode() not in body
    assert b"tests/support" not in body.replace(
        b"tests/support/traced_urls.py", b""
    )  # no source, arguments or settings
    assert set(event) == {
        *("event_id", "timestamp", "platform", "level", "release", "environment", "server_name", "sdk", "exception")
    }
    assert event["release"].startswith("0.1.0")
    assert event["environment"] == "development"
    types = [exception["type"] for exception in event["exception"]["values"]]
    assert types == ["InvalidTextRepresentation", "DataError"]
    frames = [frame for exception in event["exception"]["values"] for frame in exception["stacktrace"]["frames"]]
    assert ("fail", "tests/support/traced_urls.py") in [(frame["function"], frame["filename"]) for frame in frames]
    assert all("vars" not in frame and "context_line" not in frame for frame in frames)


def test_outages_are_not_reported(sentry: Sentry, servers: Servers) -> None:
    with Proxy(servers.postgres.port) as database:
        url = servers.postgres.application_url.replace(f":{servers.postgres.port}", f":{database.port}")
        with VoiceAssistServer(SENTRY_DSN=sentry.dsn, DATABASE_URL=url, WEB_CONCURRENCY="1", **SETTINGS) as app:
            database.mode = "refuse"
            assert app.get(FAILING)[0] == 503
            database.mode = "pass"
            assert succeeds_within(10, lambda: app.get(FAILING)[0] == 500)
            assert succeeds_within(10, lambda: bool(sentry.received))
    assert [event["exception"]["values"][-1]["type"] for event in sentry.events()] == ["DataError"]


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "refused"])
def test_unreachable_sentry_delays_neither_requests_nor_the_stop(is_silent: bool) -> None:
    with Sentry(is_silent=True) as sentry:
        dsn = sentry.dsn if is_silent else f"http://{PUBLIC_KEY}@127.0.0.1:{free_port()}/42"
        options = {**SETTINGS, "WEB_CONCURRENCY": "1", "DRAIN_SECONDS": "0"}
        with VoiceAssistServer(SENTRY_DSN=dsn, **options) as app:
            with ends_within(30):  # with the timeout of the SDK it would be an hour
                for _ in range(DEFAULT_QUEUE_SIZE + 20):
                    assert app.get(FAILING)[0] == 500
            app.terminate()
            assert app.process.wait(15) == 0
            assert CANARY not in app.log()


def test_without_a_dsn_the_sdk_is_not_imported() -> None:
    program = "import voiceassist.wsgi, sys; sys.exit('sentry_sdk' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
