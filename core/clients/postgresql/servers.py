"""The servers of a database URL, and the order in which to try them."""

import threading
from ipaddress import ip_address
from typing import Any

import psycopg
from psycopg.abc import ConnDict
from psycopg.conninfo import conninfo_attempts

from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.errors import NoResponse

Address = tuple[Any, Any, Any]  # host, hostaddr, port


def address_of(attempt: ConnDict) -> Address:
    return attempt.get("host"), attempt.get("hostaddr"), attempt.get("port")


class _Preference:
    """Which server to try first. All connections of the process share it."""

    # Tried first, so that a dead first host delays only one connection.
    last_success: Address | None = None
    # A primary that lost its synchronous standby. If the standby was promoted, both servers accept connections, but
    # only the new primary can commit.
    cannot_commit: Address | None = None

    def order(self, attempts: list[ConnDict]) -> list[ConnDict]:
        def rank(attempt: ConnDict) -> tuple[bool, bool]:
            address = address_of(attempt)
            return address == self.cannot_commit, address != self.last_success

        return sorted(attempts, key=rank)


preference = _Preference()


def _is_name(host: str) -> bool:
    if not host or host.startswith("/"):  # a socket directory
        return False
    try:
        ip_address(host)
    except ValueError:
        return True
    return False


class _Lookup(threading.Thread):
    """Resolves the host names of a URL. If DNS hangs, it blocks this thread instead of the one that connects."""

    def __init__(self, key: str, params: ConnDict) -> None:
        super().__init__(name="resolve-database", daemon=True)
        self._key, self._params = key, params
        self.attempts: list[ConnDict] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            # Undocumented: resolves the names and orders the addresses as `psycopg.connect` does.
            self.attempts = conninfo_attempts(self._params)
        except Exception as error:
            self.error = error
        finally:
            _lookups.pop(self._key, None)


_lookups: dict[str, _Lookup] = {}
_lock = threading.Lock()


def resolve(params: ConnDict, seconds: float) -> list[ConnDict]:
    """Return the connection parameters of each host and each of its addresses, within `seconds`.

    At most one thread resolves the same names at a time, however many connections wait for it. Raises NoResponse if DNS
    does not respond in time, and psycopg.OperationalError for an unknown name.
    """
    if not any(_is_name(host) for host in str(params.get("host") or "").split(",")):
        return conninfo_attempts(params)
    key = repr(sorted(params.items()))
    with _lock:
        lookup = _lookups.get(key)
        if lookup is None:
            lookup = _lookups[key] = _Lookup(key, params)
            try:
                lookup.start()
            except RuntimeError:  # the operating system's limit of threads is reached
                del _lookups[key]
                raise psycopg.OperationalError("The thread that resolves the host name can't be started.") from None
    lookup.join(seconds)
    if lookup.is_alive():
        circuit_breaker.suspect()
        raise NoResponse("The name server did not respond in time.")
    if lookup.error is not None:
        raise lookup.error
    return lookup.attempts
