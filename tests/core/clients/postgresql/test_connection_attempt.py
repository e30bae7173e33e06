"""One attempt to connect. `tests/health/checks/test_failure_reasons.py` tests the errors of refused connections."""

import socket

import pytest

from core.clients.postgresql import connection_attempt
from core.clients.postgresql.connection import Connection
from core.clients.postgresql.errors import NoResponse
from tests.core.clients.postgresql.connections import connection_parameters


def test_messages_of_queries_are_not_verbose() -> None:
    with Connection.connect(**connection_parameters()) as connected:
        message = connected.pgconn.exec_(b"SELECT 1/0").error_message
    assert b"division by zero" in message
    assert b"LOCATION" not in message


def test_silent_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        conninfo = f"host=127.0.0.1 port={listener.getsockname()[1]}"
        with pytest.raises(NoResponse):
            connection_attempt.connect(conninfo, 0.1)
        client, _ = listener.accept()
        with client:
            client.settimeout(5)
            while client.recv(100):  # the connection is closed, not leaked
                pass
