"""Our gunicorn worker's receiving of requests, so that no thread waits for a client that sends slowly.

Gunicorn gives a connection to a thread before the request has arrived, so a few clients that send one byte now and then
would hold all threads. Here the main thread reads each request, with its body, into a buffer of its own, and gives it
to a thread when it is complete. A thread only reads a body itself if it is longer than MAX_BODY_LENGTH and a view
accepts it, which none does: `core.http.request_limits` refuses it before it is read.
"""

import io
import socket
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from operator import attrgetter
from selectors import EVENT_READ
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.unreader import SocketUnreader

from voiceassist.gunicorn_connections import LimitedWorker
from voiceassist.request_buffer import MAX_BODY_LENGTH, RequestBuffer

_RECEIVE_LENGTH = 16_384  # bytes read at once
# Seconds in which a request must arrive, however often some of it does. Browsers open connections that they never use.
_REQUEST_TIMEOUT = 15.0
# Seconds that one write may take until the client has taken it. A response is two writes, a file several.
_RESPONSE_TIMEOUT = 15.0


class RequestReader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn's parser reads: the buffer, and the rest of a body that is longer, within one deadline."""

    def start(self, request: RequestBuffer) -> None:
        self.unread(request.data)
        self._may_wait = request.is_too_large
        self._deadline = time.monotonic() + _REQUEST_TIMEOUT

    @property
    def has_data(self) -> bool:
        """Whether a part of the next request has arrived."""
        return bool(self.buf.getbuffer().nbytes)

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """Return no more than a socket would, because gunicorn copies the rest for every chunk of a chunked body."""
        buffered = self.buf.getbuffer().nbytes
        if size is None and buffered:
            size = min(buffered, self.mxchunk)  # more would wait for the client
        read: bytes = super().read(size, read_ahead)
        return read

    def chunk(self, size_hint: int | None = None) -> bytes:
        if not self._may_wait:
            return b""  # the end of the data
        self.sock.settimeout(max(0.001, self._deadline - time.monotonic()))
        received: bytes = super().chunk(size_hint)
        return received


class Handled:
    """The result of a request that the main thread has handled. Gunicorn expects a future, whose locks take longer."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def result(self) -> Any:
        return self._result

    def cancelled(self) -> bool:
        return False

    def exception(self) -> None:
        return None


class BufferingWorker(LimitedWorker):
    pending_conns: deque[Any]  # those whose request has not arrived, sorted by their deadlines

    def pool_for(self, conn: Any) -> ThreadPoolExecutor | None:
        """Return the pool whose threads handle the request, or None if the main thread does."""
        raise NotImplementedError

    def response_timeout(self, req: Any) -> float:
        return _RESPONSE_TIMEOUT

    def enqueue_req(self, conn: Any) -> None:
        """Read the request of a new connection, or one that arrived together with the last."""
        if self.cfg.is_ssl:  # not our configuration: the data can only be decrypted by a thread
            conn.request = None
            super().enqueue_req(conn)
            return
        conn.request = RequestBuffer()
        if conn.initialized and (next_request := conn.parser.unreader.take_buffered()):
            conn.sock.setblocking(False)
            conn.request.add(next_request)
        if not conn.request.is_ready:
            self._receive(conn)
        self._dispatch(conn)

    def on_client_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Read the next request of a kept-alive connection, which stays in the poller if the main thread responds."""
        if self.cfg.is_ssl:
            super().on_client_socket_readable(conn, client)
            return
        conn.request = RequestBuffer()
        handled = None
        if self._receive(conn) and conn.request and self.pool_for(conn) is None:
            handled = Handled(self.handle(conn))
            if handled.result() and self.alive and not conn.parser.unreader.has_data:
                conn.sock.setblocking(False)
                conn.set_timeout()
                self.keepalived_conns.remove(conn)
                self.keepalived_conns.append(conn)  # they are sorted by their timeouts
                return
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        if handled:
            self._finish(conn, handled)
        else:
            self._dispatch(conn)

    def _dispatch(self, conn: Any) -> None:
        """Give the request to a thread if it has arrived, otherwise wait for the rest."""
        if conn.request is None or conn.request.is_ready:
            self._submit(conn)
            return
        conn.timeout = time.monotonic() + _REQUEST_TIMEOUT
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self._on_readable, conn))

    def _on_readable(self, conn: Any, client: socket.socket) -> None:
        if self._receive(conn):
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            self._submit(conn)

    def _receive(self, conn: Any) -> bool:
        """Read what has arrived. Return False if more has to arrive, for which some clients wait to be asked."""
        request = conn.request
        data = _arrived(conn.sock)
        if data:
            request.add(data)
        elif data is not None:
            conn.request = None
            return True
        if request.expects_continue and not request.is_ready:
            request.expects_continue = False
            with suppress(OSError):
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return bool(request.is_ready)

    def _submit(self, conn: Any) -> None:
        if conn.request is None:  # the client has closed the connection
            self._close(conn)
        elif pool := self.pool_for(conn):
            self.submit(conn, pool)
        else:
            self.respond(conn)

    def submit(self, conn: Any, pool: ThreadPoolExecutor) -> None:
        """Let a thread of the pool handle the request."""
        future = pool.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def respond(self, conn: Any) -> None:
        """Handle the request in the main thread."""
        self._finish(conn, Handled(self.handle(conn)))

    def _finish(self, conn: Any, handled: Handled) -> None:
        if handled.result() and conn.parser.unreader.has_data:
            self.method_queue.defer(self.finish_request, conn, handled)  # after the events of other connections
        else:
            self.finish_request(conn, handled)

    def handle(self, conn: Any) -> Any:
        """Handle a request that has arrived."""
        if conn.request is None:
            return super().handle(conn)
        if not conn.request.head:
            self.handle_error(None, conn.sock, conn.client, LimitRequestHeaders("max head length"))
            return False
        if not conn.initialized:
            conn.init()
            conn.parser.unreader = RequestReader(conn.sock)
        conn.parser.unreader.start(conn.request)
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Also close the connection if the client does not read the response."""
        if conn.request is not None:
            _complete(req, conn.request)
        conn.sock.settimeout(self.response_timeout(req))
        try:
            return super().handle_request(req, conn)
        except (TimeoutError, BlockingIOError):
            self._warn("a client does not take its response; closing the connection")
            return False

    def _cap_keepalive(self, deadline: float) -> None:
        """Also cap connections whose head has not arrived, which would delay the shutdown. Gunicorn calls this then."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            if conn.request is None or not conn.request.head:
                conn.timeout = min(conn.timeout, deadline)
        self.pending_conns = deque(sorted(self.pending_conns, key=attrgetter("timeout")))


def _arrived(sock: socket.socket) -> bytes | None:
    """Return data that has arrived, b"" if the connection has ended, None otherwise."""
    try:
        return sock.recv(_RECEIVE_LENGTH)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _complete(req: Any, request: RequestBuffer) -> None:
    """Give a chunked body a length, without which Django would ignore it. Close the connection if some is missing.

    A body that is too large gets a length that `core.http.request_limits` refuses.
    """
    req._expected_100_continue = False  # private: the response has been sent, or the body is too large
    if not request.is_complete:
        req.force_close()
    if request.is_chunked:
        body = bytes(MAX_BODY_LENGTH + 1) if request.is_too_large else req.body.read()
        req.headers.append(("CONTENT-LENGTH", str(len(body))))
        req.body = io.BytesIO(body)
