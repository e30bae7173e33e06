"""Our gunicorn worker's handling of connections: when no more fit, when one is closed, and when the worker stops."""

import socket
import time
from collections import deque
from errno import errorcode
from functools import partial
from selectors import EVENT_READ
from typing import Any

import structlog

from voiceassist.gunicorn_balance import BalancingWorker

log = structlog.stdlib.get_logger("voiceassist.worker")

_ACCEPT_RETRY_INTERVAL = 0.1  # seconds
_WARNING_INTERVAL = 60.0  # seconds
_LINGER_TIMEOUT = 2.0  # seconds until the client has received the last response, like gunicorn's
_DISCARDED = 65_536  # bytes read at once


class LimitedWorker(BalancingWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._next_warnings: dict[str, float] = {}  # time.monotonic()
        self._closing_conns: deque[Any] = deque()

    def accept(self, listener: Any) -> None:
        """Accept a connection, or log why that fails instead of ending the worker."""
        try:
            super().accept(listener)
        except OSError as error:  # no descriptors or memory are left in this process or system
            self._warn("no connection can be accepted", error=errorcode.get(error.errno or 0))
            time.sleep(_ACCEPT_RETRY_INTERVAL)  # the connection still waits, and would wake this thread at once

    def murder_pending(self) -> None:
        """Close expired connections, and if no more can be accepted, the one that has waited longest for a request.

        Otherwise idle clients could keep others, probes included, from connecting. Gunicorn calls this after each round
        of events.
        """
        super().murder_pending()
        self._close_lingering()
        if self.nr_conns < self.worker_connections:
            return
        for idle, close_expired in (
            (self._closing_conns, self._close_lingering),
            (self.pending_conns, super().murder_pending),
            (self.keepalived_conns, self.murder_keepalived),
        ):
            if idle:
                self._warn("all connections are in use; closing the longest idle", limit=self.worker_connections)
                idle[0].timeout = 0
                close_expired()
                return

    def finish_request(self, conn: Any, future: Any) -> None:
        """Keep the connection for the next request, or close it without waiting for the client.

        Data that the client still sends is discarded, because otherwise the system would reset the connection, and the
        client could lose the response. Gunicorn does the same in the main thread, which would stop for two seconds.
        """
        if not future.cancelled() and future.exception() is None and future.result():
            super().finish_request(conn, future)
            return
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, partial(self._discard, conn))
        except (OSError, ValueError):  # it is closed already
            self._close(conn)
            return
        conn.timeout = time.monotonic() + _LINGER_TIMEOUT
        self._closing_conns.append(conn)

    def _discard(self, conn: Any, client: Any) -> None:
        try:
            has_ended = not client.recv(_DISCARDED)
        except BlockingIOError:
            return
        except OSError:
            has_ended = True
        if has_ended:
            self._closing_conns.remove(conn)
            self.poller.unregister(client)
            self._close(conn)

    def _close_lingering(self) -> None:
        while self._closing_conns and self._closing_conns[0].timeout <= time.monotonic():
            conn = self._closing_conns.popleft()
            self.poller.unregister(conn.sock)
            self._close(conn)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def set_accept_enabled(self, enabled: bool) -> None:
        """When stopping, accept the connections that already wait, then close the listening sockets.

        Gunicorn closes them after the last request, and connections that arrive until then would hang.
        """
        if not self.alive:
            for listener in self.sockets:
                self._accept_waiting(listener)
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                listener.close()

    def is_parent_alive(self) -> bool:
        """If the master was killed, stop as on SIGTERM.

        Otherwise clients with kept-alive connections would keep the listening socket open for `graceful_timeout`, and a
        new server could not start on its port.
        """
        if not super().is_parent_alive():
            self.alive = False
        return self.alive

    def _accept_waiting(self, listener: Any) -> None:
        before = -1
        while before < self.nr_conns < self.worker_connections:
            before = self.nr_conns
            self.accept(listener)

    def _warn(self, message: str, **fields: Any) -> None:
        """Log a warning, each message at most once a minute."""
        now = time.monotonic()
        if now >= self._next_warnings.get(message, 0):
            self._next_warnings[message] = now + _WARNING_INTERVAL
            log.warning(message, **fields)
