"""Is PostgreSQL there, does it let us in, and can it be read and written?"""

import psycopg
from django.db import connections

from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.errors import CommitNotReplicated, NoAnswer
from core.clients.postgresql.probe import ProbeConnection
from health.check_runner import CheckOutput
from health.checks.persistent_connection import PersistentConnection


def connect(seconds: float) -> ProbeConnection:
    """Return a connection that is made as the ORM's are, within `seconds`."""
    connection: ProbeConnection = connections["default"].open_probe(seconds)  # type: ignore[attr-defined]  # our backend
    return connection


def _ask(connection: ProbeConnection, seconds: float) -> psycopg.ConnectionInfo:
    connection.check_writable(seconds)
    return connection.info


_kept = PersistentConnection(connect)
_has_answered = False  # in this process


def where() -> str:
    """Return where the settings say that it is: `host:port,host:port/database`, or a folder of sockets."""
    parameters = connections["default"].get_connection_params()
    hosts = str(parameters.get("host") or "localhost").split(",")
    ports = str(parameters.get("port") or 5432).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    servers = ",".join(_server(host, port) for host, port in zip(hosts, ports, strict=True))
    return f"{servers}/{parameters['dbname']}"


def _server(host: str, port: object) -> str:
    return host if host.startswith("/") else f"{host}:{port or 5432}"


def postgres(seconds: float) -> CheckOutput:
    """Commit one small WAL record: neither a standby nor a primary that lost its synchronous standby can do that.

    Requests learn from the result whether to ask PostgreSQL at all. Where it has never answered in time, the network
    may only be slower than HEALTH_TIMEOUT allows, so that a request finds out with more time.
    """
    global _has_answered
    try:
        info = _kept.ask(_ask, seconds)
    except CommitNotReplicated:
        circuit_breaker.open()
        raise
    except NoAnswer:
        circuit_breaker.open() if _has_answered else circuit_breaker.suspect()
        raise
    circuit_breaker.close()
    _has_answered = True
    # 180001 is 18.1: https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQSERVERVERSION
    version = f"{info.server_version // 10000}.{info.server_version % 10000}"
    return CheckOutput(f"{_server(info.host, info.port)}/{info.dbname}", version)
