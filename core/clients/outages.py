"""Distinguish an outage of PostgreSQL, Redis or Qdrant, which is temporary, from a bug in this project.

An outage results in a 503 response with `Retry-After`, and is logged only in the line of its request. A bug results in
a 500 response, and is logged with its stack frames.
"""

import re
import sys

import psycopg
import redis.exceptions
from django.db import Error, InterfaceError, OperationalError

from core.clients.postgresql.errors import NoResponse, ReadOnly

RETRY_AFTER = "5"  # seconds; a failover takes longer, but retrying early is cheap and only returns the same response

_REDIS = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
_POSTGRESQL = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
# Outages that psycopg does not raise as OperationalError: the primary was demoted, or PostgreSQL ended a transaction
# because it was idle or took too long.
_OUTAGE_SQLSTATES = {"25006", "25P03", "25P04"}
# The statement is too large or too complex, so retrying never succeeds, although this is an OperationalError.
PROGRAM_LIMIT_EXCEEDED = "54"

# psycopg's messages for wrong use of a connection that works.
_MISUSE = r"number of parameters must be|the cursor is closed|another command is already in progress"


def is_outage(error: BaseException | None) -> bool:
    """Return whether an exception means that a dependency is temporarily unavailable, so that a retry may succeed."""
    if isinstance(error, _REDIS):
        return True
    if isinstance(error, Error | psycopg.Error):
        return _is_postgresql_outage(error)
    # Not imported here, because that takes a second and 85 MiB. Until it is imported, nothing raises its exceptions.
    qdrant = sys.modules.get("qdrant_client.http.exceptions")
    if qdrant is None:
        return False
    unexpected = isinstance(error, qdrant.UnexpectedResponse) and (error.status_code or 0) >= 500
    return unexpected or isinstance(error, qdrant.ResponseHandlingException)


def _is_postgresql_outage(error: BaseException) -> bool:
    cause = _psycopg_error(error)
    if isinstance(cause, NoResponse | ReadOnly):
        return True
    if cause is not None and cause.sqlstate:
        is_operational = isinstance(cause, psycopg.OperationalError) and not cause.sqlstate.startswith(
            PROGRAM_LIMIT_EXCEEDED
        )
        return is_operational or cause.sqlstate in _OUTAGE_SQLSTATES
    # Without an SQLSTATE the client raised the error because it could not connect, lost the connection, or received an
    # incomplete response. The state of Django's connection proves nothing, because Django may have reconnected since.
    if isinstance(cause, psycopg.InternalError):
        return True
    return isinstance(error, _POSTGRESQL) and not re.search(_MISUSE, str(error))


def _psycopg_error(error: BaseException | None) -> psycopg.Error | None:
    while error is not None and not isinstance(error, psycopg.Error):
        error = error.__cause__
    return error


def sqlstate(error: BaseException | None) -> str | None:
    """Return the SQLSTATE behind one of Django's or psycopg's exceptions, or None."""
    cause = _psycopg_error(error)
    return cause.sqlstate if cause else None
