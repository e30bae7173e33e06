"""Our gunicorn worker's handling of connections: what happens when no more fit, and when the worker stops."""

import time
from errno import errorcode
from typing import Any

import structlog
from gunicorn.workers.gthread import ThreadWorker

log = structlog.stdlib.get_logger("voiceassist.worker")

_ACCEPT_RETRY_INTERVAL = 0.1  # seconds
_WARNING_INTERVAL = 60.0  # seconds


class LimitedWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._next_warnings: dict[str, float] = {}  # time.monotonic()

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
        if self.nr_conns < self.worker_connections:
            return
        for idle, close_expired in (
            (self.pending_conns, super().murder_pending),
            (self.keepalived_conns, self.murder_keepalived),
        ):
            if idle:
                self._warn("all connections are in use; closing the longest idle", limit=self.worker_connections)
                idle[0].timeout = 0
                close_expired()
                return

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
