"""Map the exception of a failed check to a reason, and a reason to a hint.

The whole chain of causes is examined, because redis-py wraps the operating system's errors. An error of PostgreSQL is
recognised by its SQLSTATE, because its message is in the server's language. Messages of libpq, PgBouncer, Redis and
Python have no code but are always in English, so they are matched.
"""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead

import psycopg
import redis.exceptions
from django.core.exceptions import ImproperlyConfigured

from core.clients.postgresql.errors import CommitNotReplicated, NoResponse, ReadOnly
from core.clients.redis_sentinel import PrimaryDownError, UnknownServiceError

TIMEOUT = "timeout"
CONNECTION_REFUSED = "connection_refused"
CONNECTION_LOST = "connection_lost"
DNS_FAILURE = "dns_failure"
TLS_FAILURE = "tls_failure"
AUTH_FAILED = "auth_failed"
MISCONFIGURED = "misconfigured"
BAD_RESPONSE = "bad_response"
NOT_READY = "not_ready"
MIGRATIONS_PENDING = "migrations_pending"
SCHEMA_TOO_NEW = "schema_too_new"
ERROR = "error"

HINTS = {
    TIMEOUT: "check whether the server is overloaded or hung, and whether both sides use TLS, or raise HEALTH_TIMEOUT",
    CONNECTION_REFUSED: "nothing is listening at this address; start the server or correct its URL",
    CONNECTION_LOST: "the server closed the connection; check its log, and that it is the kind of server of the URL",
    DNS_FAILURE: "the host name cannot be resolved; correct the URL or check DNS",
    TLS_FAILURE: "check the certificates and the paths of their files, and that both sides use TLS",
    AUTH_FAILED: "correct the user, password or API key, or grant the missing permission on the server",
    MISCONFIGURED: "follow the detail, or correct the URL; the server lacks the database or is of another kind",
    BAD_RESPONSE: "not the expected kind of server; correct the URL or check the proxies in between",
    NOT_READY: "follow the detail; if a server is starting, read-only or out of memory, wait, or check its log",
    MIGRATIONS_PENDING: "run: python manage.py migrate",
    SCHEMA_TOO_NEW: "start the release that the detail names or a newer one; unapply no migration",
    ERROR: "check the detail and the log",
}

MAX_DETAIL_LENGTH = 500


class CheckFailed(Exception):
    """A failure whose reason the check itself has determined."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


# The first match wins, so subclasses precede their base classes.
_EXCEPTIONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((CommitNotReplicated, ReadOnly), NOT_READY),
    ((UnknownServiceError,), MISCONFIGURED),
    ((psycopg.ProgrammingError, ImproperlyConfigured), MISCONFIGURED),  # options that are refused before connecting
    ((PrimaryDownError,), NOT_READY),
    ((socket.gaierror,), DNS_FAILURE),
    ((TimeoutError, redis.exceptions.TimeoutError, NoResponse), TIMEOUT),
    ((redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError), AUTH_FAILED),
    (
        (
            redis.exceptions.BusyLoadingError,
            redis.exceptions.ReadOnlyError,
            redis.exceptions.OutOfMemoryError,
            redis.exceptions.MasterDownError,
        ),
        NOT_READY,
    ),
    ((ssl.SSLError,), TLS_FAILURE),  # its cause may be that a file of certificates is missing
    ((ConnectionRefusedError, FileNotFoundError), CONNECTION_REFUSED),
    ((ConnectionError, IncompleteRead), CONNECTION_LOST),
    ((redis.exceptions.InvalidResponse, json.JSONDecodeError, UnicodeError, HTTPException), BAD_RESPONSE),
)

# Codes and prefixes of codes. The first match wins.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES = {
    "08P01": None,  # PgBouncer sends it with every error of its own, so the message decides
    "08": CONNECTION_LOST,
    "0A": MISCONFIGURED,  # not supported, so this is another kind of server
    "25006": NOT_READY,  # read-only
    "28": AUTH_FAILED,  # wrong password, unknown role, no entry in pg_hba.conf
    "3D": MISCONFIGURED,  # no such database
    "42501": AUTH_FAILED,  # insufficient privilege
    "22": MISCONFIGURED,  # invalid value of a setting
    "42": MISCONFIGURED,  # unknown setting; missing function
    "53": NOT_READY,  # out of connections, memory or disk
    "55000": NOT_READY,  # the database does not allow connections
    "57014": TIMEOUT,  # the role's or the database's statement_timeout
    "57P03": NOT_READY,  # starting up, shutting down or recovering
    "57P04": MISCONFIGURED,  # the database was dropped
    "57": CONNECTION_LOST,  # shut down by the administrator, or another backend crashed
}

# Messages of servers and libraries. The first match wins.
_MESSAGE_PATTERNS = (
    (DNS_FAILURE, "could not translate host name|failed to resolve host|name or service not known|name resolution"),
    # libpq: options that it refuses before connecting, and files of TLS that are missing or unreadable
    (MISCONFIGURED, r"invalid \S+ value|for connection option|definition of service|service file|weak sslmode"),
    (TLS_FAILURE, "certificate file|private key file"),
    (TIMEOUT, "timeout expired|timed out"),
    (CONNECTION_REFUSED, "connection refused|no such file or directory|network is unreachable|no route to host"),
    (AUTH_FAILED, "authentication method|channel binding|requirepeer|GSSAPI|no password supplied|permission denied"),
    (AUTH_FAILED, "NOAUTH|WRONGPASS|NOPERM|protected mode"),
    (MISCONFIGURED, "DB index is out of range|invalid DB index|unknown command|not allowed in cluster mode"),
    (NOT_READY, "session is (not )?read-only|server is (not )?in hot standby mode"),
    (NOT_READY, "MISCONF|NOREPLICAS|MASTERDOWN|max number of clients|busy running a script"),
    (NOT_READY, "no upstream host|upstream failure"),  # Envoy
    # PgBouncer, which before 1.20 also forwards the server's messages without their codes
    (AUTH_FAILED, "authentication failed|no such user|login rejected|wrong password type"),
    (AUTH_FAILED, "role .* does not exist|no pg_hba.conf entry|not permitted to log in"),
    (MISCONFIGURED, "no such database|database .* does not exist|is disabled|unsupported .*startup parameter"),
    (NOT_READY, "no more connections allowed|connections exceeded|too many (clients|connections)|connection slots"),
    (NOT_READY, "login has been failing|server down|pause failed|starting up|shutting down|not .{0,10}accepting"),
    (BAD_RESPONSE, "invalid response to SSL negotiation|expected authentication request|lost synchronization"),
    (BAD_RESPONSE, "protocol error|illegal|malformed"),
    (TLS_FAILURE, r"\bSSL\b|\bTLS\b|certificate"),
    (CONNECTION_LOST, r"closed (the )?connection|connection (was )?(closed|reset|lost)"),
    (CONNECTION_LOST, r"disconnected|broken pipe|\bEOF\b"),
)

_QUOTED = re.compile(r'"[^"]*"')  # names of hosts and files, which may contain any of the words above


def explain(error: Exception) -> tuple[str, str]:
    """Return the reason, and a line of detail for staff from which the caller has to remove credentials."""
    chain = tuple(_chain(error))
    detail = " ".join(str(error).split())[:MAX_DETAIL_LENGTH] or type(error).__name__
    return _reason(chain), detail


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _reason(chain: tuple[BaseException, ...]) -> str:
    for error in chain:
        if isinstance(error, CheckFailed):
            return error.reason
        if reason := _sqlstate_reason(getattr(error, "sqlstate", None)):
            return reason
    for types, reason in _EXCEPTIONS:
        if any(isinstance(error, types) for error in chain):
            return reason
    messages = _QUOTED.sub("", " ".join(str(error) for error in chain))
    for reason, pattern in _MESSAGE_PATTERNS:
        if re.search(pattern, messages, re.IGNORECASE):
            return reason
    return ERROR


def _sqlstate_reason(sqlstate: str | None) -> str | None:
    return next((reason for prefix, reason in _SQLSTATES.items() if (sqlstate or "").startswith(prefix)), None)
