"""Liveness uses no connection and no file. The tests have no database mark, so a query makes them fail too."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from django.conf import settings
from django.db import connection, connections
from django.test import Client

from tests.support.readiness import RedisUrl, use_url
from tests.support.tcp_server import TcpServer

__all__ = ["use_url"]

PATHS = ["/health", "/health/"]
# https://docs.python.org/3/library/audit_events.html
EVENTS = ("open", "os.", "socket.", "subprocess.", "shutil.", "tempfile.", "sqlite3.", "glob.")


class Recorder:
    """Records what this thread does to files and sockets of Python. An audit hook can't be removed, only silenced."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.thread: int | None = None
        sys.addaudithook(self._record)

    def _record(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.thread == threading.get_ident() and event.startswith(EVENTS):
            self.events.append(f"{event} {arguments}")

    def __enter__(self) -> "Recorder":
        self.events, self.thread = [], threading.get_ident()
        return self

    def __exit__(self, *args: object) -> None:
        self.thread = None


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


class Dependency(TcpServer):
    """Counts connections. psycopg's are made by C code, which raises no audit event."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted = 0

    def serve(self, client: object) -> None:
        self.accepted += 1


@pytest.fixture
def dependencies(monkeypatch: pytest.MonkeyPatch, use_url: RedisUrl) -> Iterator[list[Dependency]]:
    """Return the servers of all URLs of the settings."""
    with ExitStack() as stack:
        postgres, redis, qdrant = servers = [stack.enter_context(Dependency()) for _ in range(3)]
        for database in (connection.settings_dict, connections.settings["default"]):
            monkeypatch.setitem(database, "HOST", "127.0.0.1")
            monkeypatch.setitem(database, "PORT", str(postgres.port))
        use_url(f"redis://127.0.0.1:{redis.port}/0")
        monkeypatch.setattr(settings, "QDRANT_URL", f"http://127.0.0.1:{qdrant.port}")
        yield servers


@pytest.fixture
def client() -> Client:
    """Return a client with cookies, whose web session must not be read."""
    client = Client()
    client.cookies.load({"sessionid": "s" * 32, "csrftoken": "c" * 32, "messages": "m"})
    return client


@pytest.mark.parametrize("path", PATHS)
def test_uses_no_file_and_no_socket(path: str, client: Client, recorder: Recorder) -> None:
    assert client.get(path).status_code == 200  # the first request imports modules
    with recorder:
        for _ in range(3):
            assert client.get(path).status_code == 200
            assert client.head(path).status_code == 200
    assert recorder.events == []


@pytest.mark.parametrize("path", [*PATHS, "/metrics"])
def test_connects_to_no_dependency(path: str, client: Client, dependencies: list[Dependency]) -> None:
    for _ in range(3):
        assert client.get(path).status_code == 200
    assert [server.accepted for server in dependencies] == [0, 0, 0]


def test_faults_would_be_noticed(recorder: Recorder, dependencies: list[Dependency], client: Client) -> None:
    with recorder:
        open(__file__).close()
    assert [event.split()[0] for event in recorder.events] == ["open"]
    assert client.get("/ready").status_code == 503
    assert all(server.accepted for server in dependencies)
