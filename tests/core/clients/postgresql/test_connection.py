"""Every call to PostgreSQL has a time limit."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection

from core.clients.postgresql.time_limit import request_time_left, request_time_limit
from core.conversations import append_message
from core.models import Session
from tests.core.clients.postgresql.connections import (
    connection_parameters,
    requires_real_transactions,
    select,
    separate_connection,
)
from tests.support.plugin import Servers
from tests.support.polling import NOISE, succeeds_within
from tests.support.proxy import Proxy


@pytest.fixture
def proxied(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Yield a proxy between the ORM and PostgreSQL."""
    with Proxy(servers.postgres.port) as proxy:
        connection.close()
        monkeypatch.setitem(connection.settings_dict, "PORT", str(proxy.port))
        yield proxy
        proxy.mode = "pass"
        connection.close()


def seconds_until_error(call: Callable[[], Any]) -> float:
    started_at = time.monotonic()
    with pytest.raises((OperationalError, psycopg.OperationalError)):
        call()
    return time.monotonic() - started_at


@requires_real_transactions
def test_statement_on_silent_server_times_out(proxied: Proxy) -> None:
    select()
    proxied.mode = "silent"
    with request_time_limit(0.5):
        assert seconds_until_error(select) < 0.5 + NOISE
        assert connection.connection.closed
        assert seconds_until_error(select) < NOISE  # the time is up, so later calls of the request fail at once
    proxied.mode = "pass"
    connection.close_if_unusable_or_obsolete()
    select()


@requires_real_transactions
def test_connecting_to_silent_server_times_out(proxied: Proxy) -> None:
    proxied.mode = "silent"
    with request_time_limit(0.5):
        assert seconds_until_error(select) < 0.5 + NOISE
    assert connection.connection is None


@requires_real_transactions
def test_health_check_leaves_time_to_reconnect(proxied: Proxy) -> None:
    select()
    proxied.mode = "silent"
    proxied_port = connection.settings_dict["PORT"]
    assert proxied_port == str(proxied.port)
    connection.close_if_unusable_or_obsolete()
    threading.Timer(0.2, lambda: setattr(proxied, "mode", "pass")).start()  # the open connection stays silent
    with request_time_limit(4):
        select()


@requires_real_transactions
def test_response_resets_time_limit() -> None:
    with request_time_limit(1.0):
        for _ in range(4):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.4)")
        assert request_time_left() == 1.0


@requires_real_transactions
def test_time_outside_of_database_calls_does_not_count() -> None:
    with request_time_limit(0.5):
        select()
        time.sleep(0.7)
        select()


@requires_real_transactions
def test_no_limit_outside_of_requests() -> None:
    assert request_time_left() == float("inf")
    select()
    assert connection.connection.timeout is None


@requires_real_transactions
def test_lock_timeout_raises_lock_not_available(session: Session) -> None:
    with psycopg.connect(**connection_parameters()) as holder:
        holder.execute("SELECT 1 FROM sessions FOR UPDATE")
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("10s",)
            cursor.execute("SET lock_timeout = '100ms'")
        with pytest.raises(OperationalError) as raised:
            append_message(session.pk, role="user")
        assert isinstance(raised.value.__cause__, psycopg.errors.LockNotAvailable)
    connection.close()


@requires_real_transactions
def test_postgresql_ends_statement_of_closed_connection(session: Session) -> None:
    def count_sleeping() -> int:
        with separate_connection() as other:
            rows = other.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(77)%' AND pid <> pg_backend_pid()"
            )
            return int(rows.fetchall()[0][0])

    with request_time_limit(0.3), pytest.raises(OperationalError), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(77)")
    connection.close()
    assert count_sleeping() == 1
    assert succeeds_within(15, lambda: not count_sleeping(), interval=0.2)
