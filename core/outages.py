"""Tells an outage of PostgreSQL, Redis or Qdrant, which passes, from a defect of ours.

An outage is answered with 503 and `Retry-After` and shows in the log as the line of its request. A defect is answered
with 500 and logged with its frames.
"""

import sys

import psycopg
import redis.exceptions
from django.db import Error, InterfaceError, OperationalError

RETRY_AFTER = "5"  # seconds; a failover takes longer, and a client that is too early only gets the same answer again

_TYPES = (
    OperationalError,
    InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
)
# Outages that PostgreSQL puts into other classes: a primary that was demoted, a transaction that was ended for idling.
_SQLSTATES = {"25006", "25P03"}


def is_outage(error: BaseException | None) -> bool:
    """Return whether an exception means that a dependency can't work now and that trying again makes sense."""
    if isinstance(error, _TYPES):
        return True
    if isinstance(error, Error | psycopg.Error):
        return sqlstate(error) in _SQLSTATES
    # Imported only by whoever uses Qdrant: it takes a second and 85 MiB.
    qdrant = sys.modules.get("qdrant_client.http.exceptions")
    if qdrant is None:
        return False
    unexpected = isinstance(error, qdrant.UnexpectedResponse) and (error.status_code or 0) >= 500
    return unexpected or isinstance(error, qdrant.ResponseHandlingException)


def sqlstate(error: BaseException | None) -> str | None:
    """Return the SQLSTATE behind one of Django's or psycopg's exceptions, or None."""
    while error is not None:
        if isinstance(error, psycopg.Error):
            return error.sqlstate
        error = error.__cause__
    return None
