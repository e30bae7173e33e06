"""One attempt to connect to one server, whose error has the SQLSTATE that the server sent.

psycopg's own exception has none, because libpq reports a failed attempt only as text, which is in the server's
language. If error messages are verbose, the text includes the SQLSTATE, which is the same in every language. psycopg
can't make them verbose, so libpq is called with `PGconn.pgconn_ptr`, which psycopg provides for such calls.
"""

import ctypes
import re
import select
import sys
import time

import psycopg
from psycopg import pq
from psycopg.pq import ConnStatus, PollingStatus

from core.clients.postgresql.errors import NoResponse

# The module of psycopg's C implementation is linked to libpq, so libpq's functions are found through it.
_libpq = ctypes.CDLL(sys.modules[pq.PGconn.__module__].__file__)
_libpq.PQsetErrorVerbosity.argtypes = [ctypes.c_void_p, ctypes.c_int]
# https://www.postgresql.org/docs/current/libpq-control.html#LIBPQ-PQSETERRORVERBOSITY
_DEFAULT, _VERBOSE = 1, 2

# "connection to server at "…", port … failed: FATAL:  28P01: …", where FATAL may be in the server's language.
_SQLSTATE = re.compile(r"failed: [^:\n]+:  ([0-9A-Z]{5}): ")
_SOURCE_LOCATION = re.compile(r"\nLOCATION:  .*")
# With `sslmode=prefer`, the default, libpq also tries without TLS, which pg_hba.conf may reject whatever the cause was.
_NO_PG_HBA_ENTRY = "28000"


def connect(conninfo: str, seconds: float) -> pq.abc.PGconn:
    """Return an open connection. `conninfo` has one host, as an address.

    Raises NoResponse after `seconds`, and psycopg.OperationalError for a failure.
    """
    deadline = time.monotonic() + seconds
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        _set_verbosity(pgconn, _VERBOSE)
        while pgconn.status != ConnStatus.BAD:
            status = pgconn.connect_poll()
            if status == PollingStatus.OK:
                _set_verbosity(pgconn, _DEFAULT)
                pgconn.nonblocking = 1
                return pgconn
            if status == PollingStatus.FAILED:
                break
            _wait(pgconn.socket, status, deadline)
        raise _error(pgconn.get_error_message())
    except BaseException:
        pgconn.finish()
        raise


def _set_verbosity(pgconn: pq.abc.PGconn, verbosity: int) -> None:
    _libpq.PQsetErrorVerbosity(pgconn.pgconn_ptr, verbosity)  # type: ignore[attr-defined]  # missing in the protocol


def _wait(socket: int, status: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(socket, select.POLLIN if status == PollingStatus.READING else select.POLLOUT)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise NoResponse("PostgreSQL did not respond in time.")


def _error(message: str) -> psycopg.OperationalError:
    error = psycopg.OperationalError(_SOURCE_LOCATION.sub("", message))
    codes = _SQLSTATE.findall(message)
    error.sqlstate = next((code for code in codes if code != _NO_PG_HBA_ENTRY), codes[0] if codes else None)
    return error
