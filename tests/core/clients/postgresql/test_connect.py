"""What a new connection is like, what the errors of several servers become, and which time limit a call has."""

from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from core.clients.postgresql import connection_attempt
from core.clients.postgresql.connection import Connection, _joined
from core.clients.postgresql.errors import NoResponse, ReadOnly
from core.clients.postgresql.time_limit import request_time_left, request_time_limit
from tests.core.clients.postgresql.connections import connect, connection_parameters
from tests.support.plugin import Servers
from tests.support.polling import ends_within
from tests.support.proxy import Proxy

PASSWORD, FULL = psycopg.errors.InvalidPassword, psycopg.errors.TooManyConnections


@pytest.mark.parametrize("number", [1, 2], ids=["one server", "two servers"])
def test_new_connection_has_no_limit_and_no_transaction(servers: Servers, number: int) -> None:
    """With two servers, the connection has been asked whether it is read-only."""
    hosts: dict[str, Any] = {
        "host": ",".join(["127.0.0.1"] * number),
        "port": ",".join([str(servers.postgres.port)] * number),
    }
    for options in ({}, {"autocommit": True}):
        with connect(**hosts, **options) as connection:
            assert connection.autocommit is bool(options)
            assert connection.info.transaction_status is TransactionStatus.IDLE
            assert connection.timeout is None
            assert connection.prepare_threshold is None


def test_zero_seconds_mean_the_default(servers: Servers) -> None:
    with connect(0) as connection:
        connection.execute("SELECT 1")


def test_failed_attempt_uses_the_time_of_the_request(servers: Servers) -> None:
    with Proxy(servers.postgres.port) as proxy, request_time_limit(60):
        proxy.mode = "silent"
        with pytest.raises(NoResponse, match=f'^connection to server at "127.0.0.1", port {proxy.port} timed out$'):
            connect(0.5, host="127.0.0.1", port=str(proxy.port))
        assert request_time_left() <= 59.5
        proxy.mode = "pass"
        connect(host="127.0.0.1", port=str(proxy.port)).close()
        assert request_time_left() == 60


def test_url_may_leave_out_host_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(*args: Any) -> None:
        raise NoResponse

    monkeypatch.setattr(connection_attempt, "connect", time_out)
    with pytest.raises(NoResponse, match='"localhost", port 5432 timed out'):
        Connection.connect()


@pytest.mark.parametrize(
    ("errors", "expected", "sqlstate"),
    [
        ([PASSWORD("a"), FULL("b")], FULL, "53300"),
        ([FULL("a"), PASSWORD("b")], PASSWORD, "28P01"),
        ([ReadOnly("a"), FULL("b")], ReadOnly, "53300"),
        ([FULL("a"), ReadOnly("b")], ReadOnly, "53300"),
        ([NoResponse("a"), ReadOnly("b")], NoResponse, None),
        ([ReadOnly("a"), NoResponse("b")], NoResponse, None),
        ([NoResponse("a"), psycopg.OperationalError("b\n")], NoResponse, None),
    ],
)
def test_error_of_several_servers_is_the_one_that_matters_most(
    errors: list[psycopg.Error], expected: type[psycopg.Error], sqlstate: str | None
) -> None:
    joined = _joined(errors)
    assert (type(joined), str(joined), joined.sqlstate) == (expected, "a; b", sqlstate)


@pytest.mark.parametrize("limit", [None, 60], ids=["no request", "request"])
def test_call_ends_at_the_limit_of_its_connection(servers: Servers, limit: int | None) -> None:
    connection = connect(autocommit=True)
    connection.timeout = 0.3
    with request_time_limit(limit) if limit else ends_within(10):
        with ends_within(0.3), pytest.raises(NoResponse, match="did not respond to a statement within 0.3 s"):
            connection.execute("SELECT pg_sleep(20)")
        assert request_time_left() <= (59.7 if limit else float("inf"))
    assert connection.closed


def test_waiting_for_notifications_is_no_timeout(servers: Servers) -> None:
    with connect(autocommit=True) as connection:
        connection.execute("LISTEN channel")
        assert list(connection.notifies(timeout=0.1)) == []
        connection.execute("NOTIFY channel, 'text'")
        assert [notification.payload for notification in connection.notifies(timeout=10, stop_after=1)] == ["text"]


def test_parameters_of_a_context_are_copied(servers: Servers) -> None:
    with connect() as template, Connection.connect(**connection_parameters(), context=template) as connection:
        assert connection.adapters is not template.adapters
        assert connection.execute("SELECT 1").fetchone() == (1,)
