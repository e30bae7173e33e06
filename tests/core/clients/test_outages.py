"""Which exceptions are outages, which a retry may survive, and which are bugs of this project."""

import sys
from http.client import HTTPException

import httpx
import psycopg
import pytest
from django.db import DataError, IntegrityError, InterfaceError, OperationalError, ProgrammingError
from psycopg import errors
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse
from redis import exceptions as redis

from core.clients.outages import PROGRAM_LIMIT_EXCEEDED, RETRY_AFTER, is_outage, sqlstate
from core.clients.postgresql.errors import CommitNotReplicated, NoResponse, ReadOnly


def django_error(cause: BaseException, error_class: type[Exception] = OperationalError) -> Exception:
    """Return the exception that Django raises from one of psycopg."""
    error = error_class(str(cause))
    error.__cause__ = cause
    return error


def status(code: int | None) -> UnexpectedResponse:
    return UnexpectedResponse(status_code=code, reason_phrase="", content=b"", headers=httpx.Headers())


OUTAGES: list[BaseException] = [
    redis.ConnectionError("Error 111 connecting to cache:6379. Connection refused."),
    redis.AuthenticationError("invalid username-password pair or user is disabled."),
    redis.TimeoutError("Timeout reading from socket"),
    NoResponse("PostgreSQL did not respond in time."),
    ReadOnly("The session is read-only."),
    CommitNotReplicated("A commit waits for a synchronous standby."),
    django_error(NoResponse("…")),
    django_error(django_error(ReadOnly("…"), ProgrammingError), DataError),  # whatever wraps it
    psycopg.OperationalError("server closed the connection unexpectedly"),
    psycopg.InterfaceError("the connection is closed"),
    OperationalError("the connection is lost"),
    InterfaceError("connection already closed"),
    psycopg.InternalError("an incomplete response"),
    django_error(psycopg.InternalError("an incomplete response"), DataError),
    # With an SQLSTATE: an OperationalError of psycopg
    errors.TooManyConnections(),  # 53300
    errors.AdminShutdown(),  # 57P01
    errors.CannotConnectNow(),  # 57P03
    errors.QueryCanceled(),  # 57014
    errors.DeadlockDetected(),  # 40P01
    errors.SerializationFailure(),  # 40001
    errors.DiskFull(),  # 53100
    errors.lookup("25006")(),  # read-only
    errors.lookup("25P03")(),  # idle in a transaction
    errors.lookup("25P04")(),  # the transaction took too long
    django_error(errors.TooManyConnections()),
    django_error(errors.lookup("25P03")(), DataError),
    status(500),
    status(503),
    status(599),
    ResponseHandlingException(ConnectionRefusedError()),
]

BUGS: list[BaseException | None] = [
    None,
    ValueError("connection refused"),
    ConnectionRefusedError(),
    TimeoutError(),
    HTTPException(),
    redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    redis.DataError("Invalid input of type: 'dict'."),
    psycopg.ProgrammingError("the query has 0 placeholders but 1 parameters were passed"),
    psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"),
    DataError("value too long for type character varying(10)"),
    IntegrityError("duplicate key value"),
    errors.UniqueViolation(),  # 23505
    errors.UndefinedTable(),  # 42P01
    errors.InsufficientPrivilege(),  # 42501
    errors.InFailedSqlTransaction(),  # 25P02
    errors.StatementTooComplex(),  # 54001, an OperationalError
    errors.lookup("54000")(),
    errors.lookup("XX000")("an internal error of the server"),  # an InternalError
    django_error(errors.UniqueViolation(), IntegrityError),
    django_error(errors.StatementTooComplex()),
    django_error(errors.UndefinedTable(), OperationalError),
    # psycopg's messages for wrong use
    psycopg.OperationalError("sending query failed: number of parameters must be between 0 and 65535"),
    psycopg.InterfaceError("the cursor is closed"),
    psycopg.OperationalError("sending query failed: another command is already in progress"),
    django_error(psycopg.InterfaceError("the cursor is closed"), InterfaceError),
    status(499),
    status(404),
    status(None),
    ApiException(),
]


def test_outages() -> None:
    assert [error for error in OUTAGES if is_outage(error) is not True] == []


def test_bugs() -> None:
    assert [error for error in BUGS if is_outage(error) is not False] == []


def test_sqlstate_is_that_of_the_first_error_of_psycopg() -> None:
    full = errors.TooManyConnections()
    assert sqlstate(full) == sqlstate(django_error(full)) == sqlstate(django_error(django_error(full))) == "53300"
    assert sqlstate(django_error(django_error(errors.DiskFull(), DataError))) == "53100"
    assert sqlstate(ValueError()) is sqlstate(OperationalError()) is sqlstate(psycopg.OperationalError()) is None


def test_qdrant_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client takes a second and 85 MiB."""
    monkeypatch.delitem(sys.modules, "qdrant_client.http.exceptions")
    assert not is_outage(ValueError())
    assert "qdrant_client.http.exceptions" not in sys.modules


def test_constants() -> None:
    assert (RETRY_AFTER, PROGRAM_LIMIT_EXCEEDED) == ("5", "54")
