"""The reason of a refused connection to PostgreSQL, whatever its language. The servers of the reasons are real."""

import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from django.db import OperationalError, connection

from core.clients import outages
from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.connection import Connection
from core.clients.postgresql.errors import NoResponse
from health.checks import failure_reasons
from tests.support.dependency_servers import PgBouncer, Postgres, needs_pgbouncer
from tests.support.polling import succeeds_within
from tests.support.proxy import TlsProxy
from tests.support.refusing_postgres import Refusal, RefusingPostgres

MAX_CONNECTIONS = 8


def conninfo(url: str) -> dict[str, Any]:
    return psycopg.conninfo.conninfo_to_dict(url)


def refusal(**params: Any) -> tuple[str, str | None, str]:
    """Return reason, SQLSTATE and detail of a connection attempt that fails."""
    defaults = {"host": "127.0.0.1", "user": "tester", "dbname": "tests"}
    with pytest.raises(psycopg.Error) as raised:
        Connection.connect(**(defaults | params)).close()
    reason, detail = failure_reasons.explain(raised.value)
    return reason, raised.value.sqlstate, detail


# A server that answers in another language


TRANSLATED = {
    "28P01": ("auth_failed", "Passwort-Authentifizierung für Benutzer »ann« fehlgeschlagen"),
    "28000": ("auth_failed", "kein pg_hba.conf-Eintrag für Host »10.0.0.1«, Benutzer »ann«, Datenbank »va«"),
    "3D000": ("misconfigured", "Datenbank »va« existiert nicht"),
    "42501": ("auth_failed", "keine Berechtigung für Datenbank »va«"),
    "42704": ("misconfigured", "unbekannter Konfigurationsparameter »foo«"),
    "22023": ("misconfigured", "ungültiger Wert für Parameter »DateStyle«: »quark«"),
    "53300": ("not_ready", "tut mir leid, schon zu viele Verbindungen"),
    "55000": ("not_ready", "Datenbank »va« akzeptiert gegenwärtig keine Verbindungen"),
    "57P03": ("not_ready", "das Datenbanksystem startet"),  # codespell:ignore startet
    "57P01": ("connection_lost", "Verbindung wird abgebrochen aufgrund von Anweisung des Administrators"),
    "0A000": ("misconfigured", "nicht unterstütztes Frontend-Protokoll 1234.5680"),
    "XX000": ("error", "unerwarteter Fehler"),
}


@pytest.mark.parametrize("is_logged_in", [False, True])
@pytest.mark.parametrize("sqlstate", TRANSLATED)
def test_translated_refusal(sqlstate: str, is_logged_in: bool) -> None:
    expected, message = TRANSLATED[sqlstate]
    with RefusingPostgres(Refusal(sqlstate, message, is_logged_in=is_logged_in)) as server:
        reason, actual, detail = refusal(port=server.port)
    assert (reason, actual) == (expected, sqlstate)
    assert detail.endswith(f": {message}")  # without the location in the server's source code


@pytest.mark.parametrize("severity", ["СБОЙ", "ÖLÜMCÜL (FATAL)", "致命错误"])
def test_translated_severity(severity: str) -> None:
    with RefusingPostgres(Refusal("28P01", "…", severity)) as server:
        assert refusal(port=server.port)[:2] == ("auth_failed", "28P01")


def test_message_in_another_encoding() -> None:
    message = TRANSLATED["28P01"][1]
    with RefusingPostgres(Refusal("28P01", message, encoding="latin-1")) as server:
        assert refusal(port=server.port)[:2] == ("auth_failed", "28P01")


def test_message_cannot_pretend_another_code() -> None:
    with RefusingPostgres(Refusal("53300", "failed: FATAL:  28P01: no")) as server:
        assert refusal(port=server.port)[:2] == ("not_ready", "53300")


def test_first_of_two_attempts_counts() -> None:
    """By default libpq tries again without TLS, which pg_hba.conf may forbid, or with `allow` first without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    only_tls = Refusal("28000", "no pg_hba.conf entry for host, no encryption")
    with RefusingPostgres(Refusal("53300", "too many connections"), only_tls, context) as server:
        for mode in ("prefer", "allow"):
            reason, sqlstate, detail = refusal(port=server.port, sslmode=mode)
            assert (reason, sqlstate) == ("not_ready", "53300"), mode
            assert "no encryption" in detail


def both_orders(*ports: int) -> list[dict[str, Any]]:
    orders = (ports, ports[::-1])
    return [{"host": "127.0.0.1,127.0.0.1", "port": ",".join(map(str, order))} for order in orders]


def test_reason_is_that_of_the_host_that_responded_if_the_other_is_down() -> None:
    with RefusingPostgres(Refusal("28P01", TRANSLATED["28P01"][1])) as server:
        for hosts in both_orders(server.port, 1):
            reason, sqlstate, detail = refusal(**hosts)
            assert (reason, sqlstate) == ("auth_failed", "28P01")
            assert "Connection refused" in detail


def test_reason_is_that_of_the_host_that_responded_if_the_other_is_silent() -> None:
    """The error is still a NoResponse, so that the circuit breaker opens."""
    with socket.create_server(("127.0.0.1", 0)) as silent, RefusingPostgres(Refusal("57P03", "…")) as server:
        for hosts in both_orders(server.port, silent.getsockname()[1]):
            with pytest.raises(NoResponse) as raised:
                Connection.connect(**hosts, user="tester", dbname="tests", connect_timeout=0.4)
            assert failure_reasons.explain(raised.value)[0] == "not_ready"
    circuit_breaker.close()


@pytest.mark.django_db(transaction=True)
def test_requests_know_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    connection.close()
    with RefusingPostgres(Refusal("53300", TRANSLATED["53300"][1])) as server:
        monkeypatch.setitem(connection.settings_dict, "PORT", str(server.port))
        with pytest.raises(OperationalError) as raised:
            connection.ensure_connection()
    connection.close()
    assert outages.is_outage(raised.value)
    assert outages.sqlstate(raised.value) == "53300"


# Real servers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    folder = tmp_path_factory.mktemp("pg")
    sockets = f"unix_socket_directories={folder / 'data'}"
    server = Postgres(folder, options=(sockets,))
    (server.data / "pg_hba.conf").write_text(
        "local all all scram-sha-256\n"
        "host all by_md5 127.0.0.1/32 md5\n"
        "host all by_cleartext 127.0.0.1/32 password\n"
        "host all tester,no_login,limited 127.0.0.1/32 scram-sha-256\n"
    )
    server.start()
    for statement in (
        "CREATE ROLE by_cleartext LOGIN PASSWORD 'right'",
        "SET password_encryption = md5; CREATE ROLE by_md5 LOGIN PASSWORD 'right'",
        "CREATE ROLE no_login PASSWORD 'right'",
        "CREATE ROLE limited LOGIN PASSWORD 'right' CONNECTION LIMIT 0",
        "CREATE ROLE no_entry LOGIN PASSWORD 'right'",
        "CREATE DATABASE closed ALLOW_CONNECTIONS false",
        "CREATE DATABASE full_up CONNECTION LIMIT 0",
        "CREATE DATABASE private",
        "REVOKE CONNECT ON DATABASE private FROM PUBLIC",
    ):
        server.execute(statement)
    yield server
    server.kill()


def test_real_refusals(server: Postgres) -> None:
    tester = conninfo(server.url)
    right = {"password": "right", "port": server.port}
    folder = {"host": str(server.data)}
    for params, expected in [
        ({**tester, "password": "wrong"}, ("auth_failed", "28P01")),
        ({**tester, **folder, "password": "wrong"}, ("auth_failed", "28P01")),
        ({**tester, "password": ""}, ("auth_failed", None)),
        ({**tester, "user": "unknown", "host": folder["host"]}, ("auth_failed", "28P01")),
        ({**right, "user": "by_md5", "password": "wrong"}, ("auth_failed", "28P01")),
        ({**right, "user": "by_cleartext", "password": "wrong"}, ("auth_failed", "28P01")),
        ({**right, "user": "no_login"}, ("auth_failed", "28000")),
        ({**right, "user": "no_entry"}, ("auth_failed", "28000")),
        ({**right, "user": "by_md5", "dbname": "private"}, ("auth_failed", "42501")),
        ({**tester, "dbname": "missing"}, ("misconfigured", "3D000")),
        ({**tester, **folder, "dbname": "missing"}, ("misconfigured", "3D000")),
        ({**tester, "options": "-c no_such_setting=1"}, ("misconfigured", "42704")),
        ({**tester, "options": "-c datestyle=quark"}, ("misconfigured", "22023")),
        ({**tester, "options": "quark"}, ("misconfigured", "42601")),
        ({**tester, "client_encoding": "quark"}, ("misconfigured", "22023")),
        ({**tester, "dbname": "closed"}, ("not_ready", "55000")),
        ({**right, "user": "limited"}, ("not_ready", "53300")),
        ({**right, "user": "by_md5", "dbname": "full_up"}, ("not_ready", "53300")),
        ({**tester, "target_session_attrs": "standby"}, ("not_ready", None)),
        # libpq refuses the server
        ({**tester, "require_auth": "md5"}, ("auth_failed", None)),
        ({**tester, "channel_binding": "require"}, ("auth_failed", None)),
        ({**tester, **folder, "requirepeer": "quark"}, ("auth_failed", None)),
        ({**tester, "sslmode": "require"}, ("tls_failure", None)),
        # libpq or psycopg refuses an option
        ({**tester, "sslmode": "quark"}, ("misconfigured", None)),
        ({**tester, "keepalives": "quark"}, ("misconfigured", None)),
        ({**tester, "service": "quark"}, ("misconfigured", None)),
        ({**tester, "quark": "quark"}, ("misconfigured", None)),
        # no server
        ({**tester, "host": "/no/such/folder"}, ("connection_refused", None)),
        ({**tester, "port": "1"}, ("connection_refused", None)),
        ({**tester, "host": "database.invalid"}, ("dns_failure", None)),
    ]:
        reason, sqlstate, detail = refusal(**params)
        assert (reason, sqlstate) == expected, detail


def test_tls_refusals(server: Postgres, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = authority.issue_cert("127.0.0.1")
    certificate.configure_cert(context)
    files = {name: tmp_path / name for name in ("ca", "other", "key", "certificate", "secret")}
    authority.cert_pem.write_to_path(str(files["ca"]))
    trustme.CA().cert_pem.write_to_path(str(files["other"]))
    certificate.private_key_pem.write_to_path(str(files["key"]))
    certificate.cert_chain_pems[0].write_to_path(str(files["certificate"]))
    shutil.copy(files["key"], files["secret"])
    files["key"].chmod(0o644)
    files["secret"].chmod(0o600)
    tester = conninfo(server.url) | {"sslmode": "verify-full", "sslrootcert": files["ca"]}
    with TlsProxy(server.port, context, postgres=True) as front:
        rows: list[tuple[dict[str, Any], tuple[str, str | None]]] = [
            ({"password": "wrong"}, ("auth_failed", "28P01")),
            ({"dbname": "missing"}, ("misconfigured", "3D000")),
            ({"sslrootcert": "/no/such/file"}, ("tls_failure", None)),
            ({"sslrootcert": files["other"]}, ("tls_failure", None)),
            ({"sslrootcert": files["key"]}, ("tls_failure", None)),
            ({"host": "localhost"}, ("tls_failure", None)),
            ({"sslcert": files["certificate"], "sslkey": "/no/such/file"}, ("tls_failure", None)),
            ({"sslcert": files["certificate"], "sslkey": files["key"]}, ("tls_failure", None)),
            ({"sslcert": files["key"], "sslkey": files["secret"]}, ("tls_failure", None)),
            ({"sslmode": "verify-ca", "sslrootcert": "system"}, ("misconfigured", None)),
        ]
        for params, expected in rows:
            reason, sqlstate, detail = refusal(**(tester | {"port": front.port} | params))
            assert (reason, sqlstate) == expected, detail


def test_reason_is_that_of_the_standby_if_the_primary_is_down(server: Postgres) -> None:
    for hosts in both_orders(server.port, 1):
        params = conninfo(server.url) | hosts | {"options": "-c default_transaction_read_only=on"}
        assert refusal(**params)[:2] == ("not_ready", None)


def test_names_do_not_determine_the_reason() -> None:
    assert refusal(host="/ssl certificate file timed out")[0] == "connection_refused"


@needs_pgbouncer
def test_refusals_of_pgbouncer(server: Postgres, tmp_path: Path) -> None:
    """PgBouncer sends its own errors, and before 1.20 also those of PostgreSQL, with the SQLSTATE 08P01."""
    pooler = PgBouncer(tmp_path, server)
    pooler.start()
    tester = conninfo(pooler.url)
    try:
        for params, expected in [
            ({"password": "wrong"}, "auth_failed"),
            ({"user": "unknown"}, "auth_failed"),
            ({"dbname": "missing"}, "misconfigured"),
            ({"dbname": "closed"}, "not_ready"),
            ({"sslmode": "require"}, "tls_failure"),
        ]:
            reason, _, detail = refusal(**(tester | params))
            assert reason == expected, detail
    finally:
        pooler.kill()


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[Postgres]:
    """Yield a server with few connections, which its test may stop."""
    with Postgres(tmp_path / "pg", options=(f"max_connections={MAX_CONNECTIONS}",)) as server:
        yield server


def test_server_that_is_full_stopping_or_a_closed_standby(small_server: Postgres) -> None:
    tester, user = conninfo(small_server.url), conninfo(small_server.application_url)
    others = []
    try:
        with pytest.raises(psycopg.OperationalError):
            for _ in range(MAX_CONNECTIONS + 1):
                others.append(Connection.connect(**user))
        assert refusal(**user)[:2] == ("not_ready", "53300")
        assert small_server._process is not None
        small_server._process.send_signal(signal.SIGTERM)  # waits for the open connections
        assert succeeds_within(5, lambda: is_refused_with("57P03", tester))
        assert refusal(**tester)[0] == "not_ready"
    finally:
        for other in others:
            other.close()
    small_server.stop()
    (small_server.data / "standby.signal").touch()
    small_server._options += ["-c", "hot_standby=off"]
    small_server.launch()
    assert succeeds_within(10, lambda: is_refused_with("57P03", tester))
    assert refusal(**tester)[0] == "not_ready"


def is_refused_with(sqlstate: str, params: dict[str, Any]) -> bool:
    try:
        Connection.connect(**params).close()
    except psycopg.OperationalError as error:
        return error.sqlstate == sqlstate
    return False
