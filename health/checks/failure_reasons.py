"""Map the exception of a failed check to a reason, and a reason to a hint.

The whole chain of causes is examined, because redis-py wraps the operating system's errors. libpq reports no SQLSTATE
for a failed connection attempt, so its message is matched. It is in English, because the wheel has no translations.
"""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead

import redis.exceptions

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
ERROR = "error"

HINTS = {
    TIMEOUT: "check whether the server is overloaded or hung, and whether both sides use TLS, or raise HEALTH_TIMEOUT",
    CONNECTION_REFUSED: "nothing is listening at this address; start the server or correct its URL",
    CONNECTION_LOST: "the server closed the connection; check its log, and that it is the kind of server of the URL",
    DNS_FAILURE: "the host name cannot be resolved; correct the URL or check DNS",
    TLS_FAILURE: "check the certificate and the files that verify it, and that both sides use TLS",
    AUTH_FAILED: "correct the user, password or API key, or grant the user the permission",
    MISCONFIGURED: "do what the detail says, or correct the URL; the server lacks the database or is of another kind",
    BAD_RESPONSE: "not the expected kind of server; correct the URL or check the proxies in between",
    NOT_READY: "the server is running but cannot serve requests yet; wait, or check its log",
    MIGRATIONS_PENDING: "run: python manage.py migrate",
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
    ((PrimaryDownError,), NOT_READY),
    ((socket.gaierror,), DNS_FAILURE),
    ((TimeoutError, redis.exceptions.TimeoutError), TIMEOUT),
    ((NoResponse,), TIMEOUT),
    (
        (
            redis.exceptions.AuthenticationError,
            redis.exceptions.AuthorizationError,
            redis.exceptions.NoPermissionError,
        ),
        AUTH_FAILED,
    ),
    (
        (
            redis.exceptions.BusyLoadingError,
            redis.exceptions.ReadOnlyError,
            redis.exceptions.OutOfMemoryError,
            redis.exceptions.MasterDownError,
        ),
        NOT_READY,
    ),
    ((ConnectionRefusedError, FileNotFoundError), CONNECTION_REFUSED),
    ((ConnectionError, IncompleteRead), CONNECTION_LOST),
    ((ssl.SSLError,), TLS_FAILURE),
    ((redis.exceptions.InvalidResponse, json.JSONDecodeError, UnicodeError, HTTPException), BAD_RESPONSE),
)

_SQLSTATES = {
    "28": AUTH_FAILED,  # invalid authorization
    "3D": MISCONFIGURED,  # no such database
    "42501": AUTH_FAILED,  # insufficient privilege
    "57P01": CONNECTION_LOST,  # shut down by the administrator
    "57P02": CONNECTION_LOST,  # another backend crashed
    "57P03": NOT_READY,  # starting up
    "53": NOT_READY,  # out of connections, memory or disk
    "08": CONNECTION_LOST,
}

# Messages of servers and libraries. The first match wins.
_MESSAGE_PATTERNS = (
    (DNS_FAILURE, "could not translate host name|name or service not known|name resolution"),
    (TIMEOUT, "timeout expired|timed out"),
    (CONNECTION_REFUSED, "connection refused|no such file or directory|network is unreachable|no route to host"),
    (AUTH_FAILED, "authentication failed|no password supplied|no pg_hba.conf entry|role .* does not exist"),
    (AUTH_FAILED, "not permitted to log in|permission denied|NOAUTH|WRONGPASS|NOPERM|protected mode"),
    (MISCONFIGURED, "database .* does not exist|DB index is out of range|invalid DB index|unknown command"),
    (MISCONFIGURED, "not allowed in cluster mode"),
    (NOT_READY, "starting up|shutting down|not yet accepting|recovery|too many (clients|connections)|connection slots"),
    (NOT_READY, "session is (not )?read-only|server is (not )?in hot standby mode"),
    (NOT_READY, "MISCONF|NOREPLICAS|MASTERDOWN|max number of clients|busy running a script"),
    (NOT_READY, "no upstream host|upstream failure"),  # Envoy
    (BAD_RESPONSE, "invalid response to SSL negotiation|expected authentication request|lost synchronization"),
    (BAD_RESPONSE, "unsupported frontend protocol|protocol error|illegal|malformed"),
    (TLS_FAILURE, r"\bSSL\b|\bTLS\b|certificate"),
    (CONNECTION_LOST, r"closed (the )?connection|connection (was )?(closed|reset|lost)"),
    (CONNECTION_LOST, r"disconnected|broken pipe|\bEOF\b"),
)


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
        sqlstate = getattr(error, "sqlstate", None)
        for prefix, reason in _SQLSTATES.items():
            if isinstance(sqlstate, str) and sqlstate.startswith(prefix):
                return reason
    for types, reason in _EXCEPTIONS:
        if any(isinstance(error, types) for error in chain):
            return reason
    messages = " ".join(str(error) for error in chain)
    for reason, pattern in _MESSAGE_PATTERNS:
        if re.search(pattern, messages, re.IGNORECASE):
            return reason
    return ERROR
