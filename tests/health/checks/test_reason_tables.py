"""Each row of the tables of `failure_reasons` is needed: without it, one of these exceptions has another reason.

The messages are those of libpq, PgBouncer, Redis and Python. `test_failure_reasons.py` gets some of them from servers.
"""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from http.client import BadStatusLine, IncompleteRead
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from psycopg import OperationalError
from redis import exceptions as redis

from core.clients.postgresql.errors import CommitNotReplicated, NoResponse, ReadOnly
from core.clients.redis_sentinel import PrimaryDownError, UnknownServiceError
from health.checks import failure_reasons
from health.checks.failure_reasons import CheckFailed, explain


def with_cause(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


PROTOCOL_VIOLATION = psycopg.errors.lookup("08P01")  # the code of all errors of PgBouncer
EXCEPTIONS: list[tuple[Exception, str]] = [
    (CommitNotReplicated("A commit waits for a synchronous standby that does not confirm it."), "not_ready"),
    (ReadOnly("the server at 10.0.0.1, port 5432 is read-only"), "not_ready"),
    (UnknownServiceError("No Sentinel monitors a service named primary"), "misconfigured"),
    (psycopg.ProgrammingError('invalid connection option "quark"'), "misconfigured"),
    (psycopg.ProgrammingError("the connection timed out"), "misconfigured"),
    (ImproperlyConfigured("The file of the API key is empty"), "misconfigured"),
    (PrimaryDownError("No primary of cache is up, according to the Sentinels"), "not_ready"),
    (socket.gaierror(-5, "No address associated with hostname"), "dns_failure"),
    (with_cause(redis.ConnectionError("Error -5 connecting to cache:6379."), socket.gaierror(-5, "…")), "dns_failure"),
    (TimeoutError("The response did not end in time"), "timeout"),
    (redis.TimeoutError("Timeout reading from socket"), "timeout"),
    (NoResponse("PostgreSQL did not respond in time."), "timeout"),
    (redis.AuthenticationError("invalid username-password pair or user is disabled."), "auth_failed"),
    (redis.NoPermissionError("this user has no permissions to run the 'set' command"), "auth_failed"),
    (redis.BusyLoadingError("Redis is loading the dataset in memory"), "not_ready"),
    (redis.ReadOnlyError("You can't write against a read only replica."), "not_ready"),
    (redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "not_ready"),
    (redis.MasterDownError("Link with MASTER is down and replica-serve-stale-data is set to 'no'."), "not_ready"),
    (with_cause(ssl.SSLError("cannot load a file"), FileNotFoundError(2, "No such file or directory")), "tls_failure"),
    (with_cause(ssl.SSLEOFError(8, "EOF occurred"), ConnectionResetError(104, "reset")), "tls_failure"),
    (ConnectionRefusedError(111, "the target machine actively refused it"), "connection_refused"),
    (FileNotFoundError(2, "Datei nicht gefunden"), "connection_refused"),
    (ConnectionAbortedError(103, "Software caused connection abort"), "connection_lost"),
    (IncompleteRead(b"abc", 7), "connection_lost"),
    (redis.InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'"), "bad_response"),
    (redis.InvalidResponse("b'EOF'"), "bad_response"),
    (json.JSONDecodeError("Expecting value", "<html>", 0), "bad_response"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "bad_response"),
    (BadStatusLine("SSH-2.0-OpenSSH_9.2"), "bad_response"),
    (CheckFailed("schema_too_new", "the database requires version 2 or newer"), "schema_too_new"),
    (with_cause(CheckFailed("tls_failure", "…"), ConnectionRefusedError(111, "…")), "tls_failure"),
    (PROTOCOL_VIOLATION("FATAL: no such user: voiceassist"), "auth_failed"),
    (OSError(24, "Too many open files"), "error"),
]  # fmt: skip

SQLSTATES = {
    "08000": "connection_lost",
    "08006": "connection_lost",
    "0A000": "misconfigured",
    "22023": "misconfigured",
    "25006": "not_ready",
    "28000": "auth_failed",
    "28P01": "auth_failed",
    "3D000": "misconfigured",
    "42501": "auth_failed",
    "42704": "misconfigured",
    "42883": "misconfigured",
    "53100": "not_ready",
    "53200": "not_ready",
    "53300": "not_ready",
    "55000": "not_ready",
    "57014": "timeout",
    "57P01": "connection_lost",
    "57P02": "connection_lost",
    "57P03": "not_ready",
    "57P04": "misconfigured",
    "XX000": "error",
}

MESSAGES = {
    'could not translate host name "db" to address: No address associated with hostname': "dns_failure",
    "failed to resolve host 'db': [Errno -5] No address associated with hostname": "dns_failure",
    "Error -2 connecting to cache:6379. Name or service not known.": "dns_failure",
    "Error -3 connecting to cache:6379. Temporary failure in name resolution.": "dns_failure",
    'invalid sslmode value: "quark"': "misconfigured",
    'invalid integer value "quark" for connection option "keepalives"': "misconfigured",
    'bad value for connection option "port"': "misconfigured",
    'definition of service "quark" not found': "misconfigured",
    'syntax error in service file "/etc/pg_service.conf", line 1': "misconfigured",
    'weak sslmode "verify-ca" may not be used with sslrootcert=system (use "verify-full")': "misconfigured",
    'could not open certificate file "/tls/client.crt": No such file or directory': "tls_failure",
    'could not stat private key file "/tls/client.key": Permission denied': "tls_failure",
    "connection failed: connection timeout expired": "timeout",
    "Error 110 connecting to cache:6379. Connection timed out.": "timeout",
    'connection to server at "127.0.0.1", port 1 failed: Connection refused': "connection_refused",
    'connection to server on socket "/run/x" failed: No such file or directory': "connection_refused",
    'connection to server at "10.0.0.1", port 5432 failed: Network is unreachable': "connection_refused",
    "Error 113 connecting to cache:6379. No route to host.": "connection_refused",
    'authentication method requirement "md5" failed: server requested SCRAM-SHA-256 authentication': "auth_failed",
    "channel binding required, but SSL not in use": "auth_failed",
    'requirepeer specifies "postgres", but actual peer user name is "root"': "auth_failed",
    "could not initiate GSSAPI security context": "auth_failed",
    "fe_sendauth: no password supplied": "auth_failed",
    'connection to server on socket "/run/x" failed: Permission denied': "auth_failed",
    "NOAUTH Authentication required.": "auth_failed",
    "WRONGPASS invalid username-password pair or user is disabled.": "auth_failed",
    "NOPERM this user has no permissions to run the 'set' command": "auth_failed",
    "DENIED Redis is running in protected mode because protected mode is enabled": "auth_failed",
    "DB index is out of range": "misconfigured",
    "invalid DB index": "misconfigured",
    "unknown command 'SET', with args beginning with: 'x'": "misconfigured",
    "SELECT is not allowed in cluster mode": "misconfigured",
    "session is read-only": "not_ready",
    "session is not read-only": "not_ready",
    "server is in hot standby mode": "not_ready",
    "server is not in hot standby mode": "not_ready",
    "MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.": "not_ready",
    "NOREPLICAS Not enough good replicas to write.": "not_ready",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "not_ready",
    "max number of clients reached": "not_ready",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL.": "not_ready",
    "no upstream host": "not_ready",
    "upstream failure": "not_ready",
    'FATAL:  password authentication failed for user "voiceassist"': "auth_failed",
    "FATAL: SASL authentication failed": "auth_failed",
    "FATAL: no such user: voiceassist": "auth_failed",
    "FATAL: unix socket login rejected": "auth_failed",
    "FATAL: wrong password type": "auth_failed",
    'FATAL:  role "voiceassist" does not exist': "auth_failed",
    'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a", database "b", no encryption': "auth_failed",
    'FATAL:  role "voiceassist" is not permitted to log in': "auth_failed",
    "FATAL: no such database: voiceassist": "misconfigured",
    'FATAL:  database "voiceassist" does not exist': "misconfigured",
    'FATAL: database "voiceassist" is disabled': "misconfigured",
    "FATAL: unsupported startup parameter: options": "misconfigured",
    "FATAL: unsupported startup parameter in options: search_path": "misconfigured",
    "FATAL: no more connections allowed (max_client_conn)": "not_ready",
    'FATAL: database "a" connections exceeded': "not_ready",
    "FATAL:  sorry, too many clients already": "not_ready",
    'FATAL:  too many connections for role "a"': "not_ready",
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute": "not_ready",
    "FATAL: server login has been failing, try again later (server_login_retry)": "not_ready",
    "FATAL: client_login_timeout (server down)": "not_ready",
    "FATAL: pause failed": "not_ready",
    "FATAL:  the database system is starting up": "not_ready",
    "FATAL:  the database system is shutting down": "not_ready",
    'FATAL:  database "a" is not currently accepting connections': "not_ready",
    "FATAL:  the database system is not yet accepting connections": "not_ready",
    "received invalid response to SSL negotiation: H": "bad_response",
    "expected authentication request from server, but received H": "bad_response",
    'lost synchronization with server: got message type "H", length 1414811695': "bad_response",
    "protocol error: id=0x48": "bad_response",
    "Illegal packet": "bad_response",
    "malformed SCRAM message (empty message)": "bad_response",
    "server does not support SSL, but SSL was required": "tls_failure",
    "FATAL: TLS required": "tls_failure",
    "certificate verify failed": "tls_failure",
    "server closed the connection unexpectedly": "connection_lost",
    "Connection closed by server.": "connection_lost",
    "the connection was closed": "connection_lost",
    "connection lost": "connection_lost",
    "consuming input failed: connection reset by peer": "connection_lost",
    "could not send data to server: Broken pipe": "connection_lost",
    "Error while reading from cache:6379 : (104, 'disconnected')": "connection_lost",
    "SYSCALL error: EOF detected": "connection_lost",
    "kein Speicher mehr": "error",
}  # fmt: skip


def refused(sqlstate: str) -> OperationalError:
    """Return the error of a refused connection, as in core.clients.postgresql.connection_attempt."""
    error = OperationalError("a translated message")
    error.sqlstate = sqlstate
    return error


def all_reasons() -> dict[str, str]:
    errors = {repr(error): error for error, _ in EXCEPTIONS}
    errors |= {sqlstate: refused(sqlstate) for sqlstate in SQLSTATES}
    errors |= {message: OperationalError(message) for message in MESSAGES}
    return {name: explain(error)[0] for name, error in errors.items()}


EXPECTED = {repr(error): reason for error, reason in EXCEPTIONS} | SQLSTATES | MESSAGES


def test_reason_of_each_exception() -> None:
    assert all_reasons() == EXPECTED


def test_reason_of_a_failed_statement() -> None:
    """psycopg has a class for each code, most of which derive from those in the table of exceptions."""
    errors = {sqlstate: psycopg.errors.lookup(sqlstate)("a translated message") for sqlstate in SQLSTATES}
    assert {sqlstate: explain(error)[0] for sqlstate, error in errors.items()} == SQLSTATES


@pytest.mark.parametrize("error_class", [OperationalError, PROTOCOL_VIOLATION, redis.ResponseError])
def test_message_decides_whatever_the_class(error_class: type[Exception]) -> None:
    assert {message: explain(error_class(message))[0] for message in MESSAGES} == MESSAGES


def without_each_row() -> Iterator[tuple[str, str, Any]]:
    """Return each row of each table, the name of the table, and the table without the row."""
    types = failure_reasons._EXCEPTIONS
    for index, (row, reason) in enumerate(types):
        for removed in row:
            others = tuple(other for other in row if other is not removed)
            yield removed.__name__, "_EXCEPTIONS", (*types[:index], (others, reason), *types[index + 1 :])
    codes = failure_reasons._SQLSTATES
    for code in codes:
        yield code, "_SQLSTATES", {other: reason for other, reason in codes.items() if other != code}
    patterns = failure_reasons._MESSAGE_PATTERNS
    for index, (reason, pattern) in enumerate(patterns):
        alternatives = re.split(r"\|(?![^(]*\))", pattern)
        for alternative in alternatives:
            rest = "|".join(other for other in alternatives if other != alternative) or "^(?!)"
            yield alternative, "_MESSAGE_PATTERNS", (*patterns[:index], (reason, rest), *patterns[index + 1 :])


def test_each_row_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    unneeded = []
    for row, table, rest in without_each_row():
        with monkeypatch.context() as patch:
            patch.setattr(failure_reasons, table, rest)
            if all_reasons() == EXPECTED:
                unneeded.append(row)
    assert unneeded == []


# The chain of causes


def test_looks_at_causes_and_contexts() -> None:
    in_handler, hidden = ValueError("while handling"), ValueError("hidden")
    in_handler.__context__ = ConnectionRefusedError(111, "refused")
    hidden.__context__, hidden.__suppress_context__ = TimeoutError("…"), True
    assert explain(in_handler) == ("connection_refused", "while handling")
    assert explain(with_cause(ValueError("outer"), hidden)) == ("timeout", "outer")
    # The cause is the reason that the code gives, so it precedes the context.
    in_handler.__cause__ = socket.gaierror(-2, "…")
    assert explain(in_handler)[0] == "dns_failure"


def test_code_in_a_cause_precedes_types_and_messages() -> None:
    full = psycopg.errors.lookup("53300")("sorry")
    assert explain(with_cause(TimeoutError("timed out"), full))[0] == "not_ready"
    assert explain(with_cause(full, CheckFailed("misconfigured", "…")))[0] == "not_ready"  # the outermost one


def test_circular_chain_ends() -> None:
    first, second = ValueError("first"), ValueError("connection refused")
    first.__cause__, second.__cause__ = second, first
    assert explain(first) == ("connection_refused", "first")
    first.__cause__ = first
    assert explain(first) == ("error", "first")


# The detail


def test_detail_is_one_line_of_limited_length() -> None:
    assert explain(ValueError(" a\n\tb  c\r\n"))[1] == "a b c"
    assert explain(ValueError("x" * 500))[1] == "x" * 500
    assert explain(ValueError("x" * 501))[1] == "x" * 500


@pytest.mark.parametrize("error", [ValueError(), ValueError(" \n"), TimeoutError()], ids=repr)
def test_detail_of_exception_without_text_is_its_type(error: Exception) -> None:
    assert explain(error)[1] == type(error).__name__


# A word of each hint, by reason. The reasons are part of the API.
HINTS = {
    "timeout": "HEALTH_TIMEOUT",
    "connection_refused": "nothing is listening",
    "connection_lost": "closed the connection",
    "dns_failure": "cannot be resolved",
    "tls_failure": "certificates",
    "auth_failed": "password",
    "misconfigured": "of another kind",
    "bad_response": "not the expected kind of server",
    "not_ready": "starting",
    "migrations_pending": "python manage.py migrate",
    "schema_too_new": "newer",
    "error": "log",
}


def test_each_reason_has_a_hint() -> None:
    assert failure_reasons.HINTS.keys() == HINTS.keys() >= set(EXPECTED.values())
    assert [reason for reason, hint in failure_reasons.HINTS.items() if HINTS[reason] not in hint] == []


def test_quoted_names_do_not_determine_the_reason() -> None:
    names = 'connection to "timed out" and "certificate" failed'
    assert explain(OperationalError(names)) == ("error", names)
