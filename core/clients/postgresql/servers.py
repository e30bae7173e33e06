"""Which servers a URL leads to, and in which order to try them."""

import threading
from ipaddress import ip_address
from typing import Any

from psycopg.abc import ConnDict
from psycopg.conninfo import conninfo_attempts

from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.errors import NoAnswer

Address = tuple[Any, Any, Any]  # host, hostaddr, port


def address_of(attempt: ConnDict) -> Address:
    return attempt.get("host"), attempt.get("hostaddr"), attempt.get("port")


class _Preference:
    """Which of several servers to try first, for all connections of this process."""

    # A dead first host then costs one connection its share of the time, not all of them.
    last_success: Address | None = None
    # A primary that can't commit, because it lost its synchronous standby. If that standby has been promoted, both of
    # them accept connections, and only the new primary can commit.
    cannot_commit: Address | None = None

    def order(self, attempts: list[ConnDict]) -> list[ConnDict]:
        def rank(attempt: ConnDict) -> tuple[bool, bool]:
            address = address_of(attempt)
            return address == self.cannot_commit, address != self.last_success

        return sorted(attempts, key=rank)


preference = _Preference()


def _is_name(host: str) -> bool:
    if not host or host.startswith("/"):  # a folder of sockets
        return False
    try:
        ip_address(host)
    except ValueError:
        return True
    return False


class _Lookup(threading.Thread):
    """Resolves the names of a URL. A name server that hangs holds this thread, not the one that wants to connect."""

    def __init__(self, key: str, params: ConnDict) -> None:
        super().__init__(name="resolve-database", daemon=True)
        self._key, self._params = key, params
        self.attempts: list[ConnDict] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.attempts = conninfo_attempts(self._params)
        except Exception as error:
            self.error = error
        finally:
            _lookups.pop(self._key, None)


_lookups: dict[str, _Lookup] = {}
_lock = threading.Lock()


def resolve(params: ConnDict, seconds: float) -> list[ConnDict]:
    """Return one set of parameters for each host and each address of its name, within `seconds`.

    At most one thread resolves the same names at a time, however many connections want them. Raises NoAnswer, or what
    psycopg raises for a name that is unknown.
    """
    if not any(_is_name(host) for host in str(params.get("host") or "").split(",")):
        return conninfo_attempts(params)
    key = repr(sorted(params.items()))
    with _lock:
        lookup = _lookups.get(key)
        if lookup is None:
            lookup = _lookups[key] = _Lookup(key, params)
            lookup.start()
    lookup.join(seconds)
    if lookup.is_alive():
        circuit_breaker.suspect()
        raise NoAnswer("the name server did not answer in time")
    if lookup.error is not None:
        raise lookup.error
    return lookup.attempts
