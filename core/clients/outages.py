"""Tells an outage of PostgreSQL, Redis or Qdrant, which passes, from a defect of ours.

An outage is answered with 503 and `Retry-After` and shows in the log as the line of its request. A defect is answered
with 500 and logged with its frames.
"""

import re
import sys

import psycopg
import redis.exceptions
from django.db import Error, InterfaceError, OperationalError

from core.clients.postgresql.errors import NoAnswer, ReadOnly

RETRY_AFTER = "5"  # seconds; a failover takes longer, and a client that is too early only gets the same answer again

_REDIS = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
_POSTGRESQL = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
# Outages that PostgreSQL puts into other classes: a primary that was demoted, and a transaction that was ended because
# it was idle or took too long.
_OUTAGES = {"25006", "25P03", "25P04"}
_LIMITS = "54"  # a statement that is too large or too complex: it never works

# What psycopg says of a connection that works and is used in a wrong way.
_MISUSE = r"number of parameters must be|the cursor is closed|another command is already in progress"


def is_outage(error: BaseException | None) -> bool:
    """Return whether an exception means that a dependency can't work now and that trying again makes sense."""
    if isinstance(error, _REDIS):
        return True
    if isinstance(error, Error | psycopg.Error):
        return _is_outage_of_postgresql(error)
    # Imported only by whoever uses Qdrant: it takes a second and 85 MiB.
    qdrant = sys.modules.get("qdrant_client.http.exceptions")
    if qdrant is None:
        return False
    unexpected = isinstance(error, qdrant.UnexpectedResponse) and (error.status_code or 0) >= 500
    return unexpected or isinstance(error, qdrant.ResponseHandlingException)


def _is_outage_of_postgresql(error: BaseException) -> bool:
    cause = _psycopg_error(error)
    if isinstance(cause, NoAnswer | ReadOnly):
        return True
    if cause is not None and cause.sqlstate:
        is_operational = isinstance(cause, psycopg.OperationalError) and not cause.sqlstate.startswith(_LIMITS)
        return is_operational or cause.sqlstate in _OUTAGES
    # Without an SQLSTATE it is the client's own error: the connection could not be made or was lost, or the server
    # stopped in the middle of an answer. Whether there is a connection now says nothing, because Django may have made
    # another one.
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
