"""Check that PostgreSQL accepts our connection and can be read and written."""

import time
from dataclasses import dataclass, replace

import psycopg
from django.db import connections

from core.clients import certificates
from core.clients import transport as transports
from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.connection import MIN_TIMEOUT
from core.clients.postgresql.database_settings import find_problem
from core.clients.postgresql.errors import CommitNotReplicated, NoResponse
from core.clients.postgresql.probe import ProbeConnection
from health import database_warnings
from health.check_runner import CheckOutput
from health.checks import failure_reasons
from health.checks.failure_reasons import CheckFailed
from health.checks.persistent_connection import PersistentConnection


def connect(seconds: float) -> ProbeConnection:
    """Return a connection made with the ORM's parameters, within `seconds`.

    Raises CheckFailed if the application can't work with the settings of the database. New settings only apply to new
    connections, so checking them once is enough.
    """
    deadline = time.monotonic() + seconds
    connection: ProbeConnection = connections["default"].open_probe(seconds)  # type: ignore[attr-defined]  # our backend
    try:
        with connection.time_limit(max(MIN_TIMEOUT, deadline - time.monotonic())):
            problem = find_problem(connection)
        if problem:
            raise CheckFailed(failure_reasons.MISCONFIGURED, problem)
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(slots=True)
class Client:
    connection: ProbeConnection
    output: CheckOutput  # built once, because Django would create its whole backend in the thread of each check

    def close(self) -> None:
        self.connection.close()


def _connect(seconds: float) -> Client:
    connection = connect(seconds)
    return Client(connection, _output(connection.info))


def _query(client: Client, seconds: float) -> CheckOutput:
    deadline = time.monotonic() + seconds
    client.connection.check_writable(seconds)
    # Half of the time that is left, because a statement that times out has to be cancelled too.
    database_warnings.refresh(client.connection, (deadline - time.monotonic()) / 2)
    return replace(client.output, usage=str(database_warnings.connection_usage or "") or None)


def _output(info: psycopg.ConnectionInfo) -> CheckOutput:
    # 180001 means 18.1: https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQSERVERVERSION
    version = f"{info.server_version // 10000}.{info.server_version % 10000}"
    return CheckOutput(
        f"{_server(info.host, info.port)}/{info.dbname}",
        version,
        transports.postgres(connections["default"].get_connection_params(), uses_tls=info.pgconn.ssl_in_use),
        certificate_expires_at=certificates.of_postgresql(info.pgconn),
    )


_connection = PersistentConnection(_connect)
_has_responded = False  # in time, since this process started


def postgres_endpoint() -> str:
    """Return the configured endpoint: `host:port,host:port/database`, or a socket directory."""
    parameters = connections["default"].get_connection_params()
    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "localhost").split(",")
    ports = str(parameters.get("port") or 5432).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    servers = ",".join(_server(host, port) for host, port in zip(hosts, ports, strict=True))
    return f"{servers}/{parameters['dbname']}"


def _server(host: str, port: object) -> str:
    return host if host.startswith("/") else f"{host}:{port or 5432}"


def postgres(seconds: float) -> CheckOutput:
    """Commit one small WAL record, which a standby and a primary without its synchronous standby cannot do.

    The result opens or closes the circuit breaker of requests. Until PostgreSQL has responded in time once, the network
    may only be slower than HEALTH_TIMEOUT, so the next request probes with a longer timeout.
    """
    global _has_responded
    try:
        output = _connection.run(_query, seconds)
    except CommitNotReplicated:
        circuit_breaker.open()
        raise
    except NoResponse:
        circuit_breaker.open() if _has_responded else circuit_breaker.suspect()
        raise
    circuit_breaker.close()
    _has_responded = True
    return output
