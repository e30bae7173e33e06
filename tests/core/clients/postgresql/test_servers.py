"""URLs with several hosts, and names with several addresses."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import connection

from core.clients.postgresql.circuit_breaker import State, circuit_breaker
from core.clients.postgresql.errors import NoResponse
from core.clients.postgresql.servers import preference
from tests.core.clients.postgresql.connections import connect, requires_real_transactions, select
from tests.support.plugin import Servers
from tests.support.polling import ends_within
from tests.support.voiceassist_server import ROOT


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """Yield a server that accepts connections but never sends a byte, like a host without power."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def count_accepted(listener: socket.socket) -> int:
    """Return the number of connections since the last call."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def test_tries_next_host_and_remembers_it(
    servers: Servers, silent_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preference, "last_success", None)
    hosts = {"host": "127.0.0.1,127.0.0.1", "port": f"{silent_server.getsockname()[1]},{servers.postgres.port}"}
    for expected in (1, 0, 0):
        with connect(2, **hosts) as connected:
            assert connected.info.port == servers.postgres.port
        assert count_accepted(silent_server) == expected


@pytest.mark.parametrize(("target_session_attrs", "error"), [(None, "read-only"), ("any", None)])
def test_skips_standby_among_several_hosts(
    servers: Servers, target_session_attrs: str | None, error: str | None
) -> None:
    """Both hosts are read-only, as before a promotion."""
    read_only: dict[str, Any] = {"options": "-c default_transaction_read_only=on"}
    hosts: dict[str, Any] = {"host": "127.0.0.1,127.0.0.1", "port": f"{servers.postgres.port},{servers.postgres.port}"}
    extra: dict[str, Any] = {"target_session_attrs": target_session_attrs} if target_session_attrs else {}
    with pytest.raises(psycopg.OperationalError, match=error) if error else contextlib.nullcontext():
        connect(**hosts, **read_only, **extra).close()
    connect(**read_only).close()  # a single host is never skipped


def test_hung_dns_blocks_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    proceed, lookups = threading.Event(), []

    def hanging(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        lookups.append(host)
        proceed.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    with ends_within(0.6):
        for _ in range(3):
            with pytest.raises(NoResponse, match="name server"):
                connect(0.2, host="database.example.org")
    assert lookups == ["database.example.org"]
    assert circuit_breaker.is_in(State.SUSPECTED)
    proceed.set()
    for thread in threading.enumerate():
        if thread.name == "resolve-database":
            thread.join(10)
    with pytest.raises(psycopg.OperationalError, match="resolve"):
        connect(host="database.example.org")


def test_tries_all_addresses_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def addresses(host: str, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        assert host == "database.example.org"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.9", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    with connect(host="database.example.org") as connected:  # nothing listens on 127.0.0.9
        assert connected.info.hostaddr == "127.0.0.1"


def test_error_names_every_host(silent_server: socket.socket) -> None:
    port = silent_server.getsockname()[1]
    with pytest.raises(NoResponse) as raised:
        connect(0.4, host="127.0.0.1,127.0.0.1", port=f"{port},1")
    assert f"port {port} timed out" in str(raised.value)
    assert "refused" in str(raised.value)


@requires_real_transactions
def test_reconnects_after_demotion() -> None:
    select()
    old = connection.connection
    assert connection.is_usable()
    old.execute("SET default_transaction_read_only = on")
    assert not connection.is_usable()
    connection.close_if_unusable_or_obsolete()
    select()
    assert connection.connection is not old


def test_name_is_resolved_once_threads_can_be_started_again() -> None:
    """Root has no limit of threads, so the process becomes another user."""
    program = """if True:
        import os, resource, psycopg, voiceassist.settings
        from core.clients.postgresql.servers import resolve
        server = {"host": "localhost", "port": "5432"}
        assert resolve(server, 5)  # imports what the other user may not be able to read
        if os.geteuid() == 0:
            os.setuid(54321)
        unlimited = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, unlimited[1]))
        for _ in range(2):
            try:
                resolve(server, 5)
            except psycopg.OperationalError as error:
                assert "can't be started" in str(error)
            else:
                raise AssertionError
        resource.setrlimit(resource.RLIMIT_NPROC, unlimited)
        assert resolve(server, 5)
    """
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, timeout=30)
