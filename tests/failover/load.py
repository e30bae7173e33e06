"""Eight clients that append messages and retry until they are acknowledged, and probes of /health and /ready.

Each request is bounded by the client's timeout, and the load by MAX_MESSAGES.
"""

import http.client
import json
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from tests.support.load_clients import Clients

CLIENTS = 8
DATABASE_TIMEOUT = 5.0  # seconds, as the server under test is configured
CLIENT_TIMEOUT = 2 * DATABASE_TIMEOUT + 3  # seconds after which a client treats a request as hung
PROBE_TIMEOUT = 8.0  # seconds
MAX_MESSAGES = 20_000  # per client
_PAUSE = 0.02  # seconds between two messages of a client
_RETRY_DELAY = 0.1  # seconds
_PROBE_INTERVAL = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request and its times by time.monotonic(). The status is 0 if there was no response."""

    path: str
    started_at: float
    finished_at: float
    status: int
    body: bytes = b""
    retry_after: str | None = None

    @property
    def seconds(self) -> float:
        return self.finished_at - self.started_at


@dataclass(frozen=True, slots=True)
class Acknowledged:
    client: int
    session: UUID
    client_message_id: str
    message_id: str
    acknowledged_at: float


def request(port: int, path: str, message: dict[str, Any] | None = None, *, timeout: float) -> Attempt:
    """Send a GET, or a POST of `message` as JSON, on a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    started_at = time.monotonic()
    status, body, retry_after = 0, b"", None
    try:
        if message is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(message), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
        status, retry_after = response.status, response.getheader("Retry-After")
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    return Attempt(path, started_at, time.monotonic(), status, body, retry_after)


class Load(Clients):
    """Run the load as a context manager. Its measurements are complete after the block."""

    JOIN_TIMEOUT = 2 * CLIENT_TIMEOUT

    def __init__(self, port: int, sessions: list[UUID]) -> None:
        self._port = port
        self._shared, *self._private = sessions
        self.acknowledged: list[Acknowledged] = []
        self.requests: list[Attempt] = []
        self.probes: list[Attempt] = []
        appenders = (partial(self._append, client) for client in range(CLIENTS))
        super().__init__(*appenders, *(partial(self._probe, path) for path in ("/health", "/ready")))

    def _append(self, client: int) -> None:
        """Append alternately to the shared session, where clients wait for each other's locks, and to a private one.

        Every fourth message is appended inside a transaction of the view, and a page is read before every fifth.
        """
        for number in range(MAX_MESSAGES):
            if self._stop.is_set():
                return
            session = self._private[client] if number % 2 else self._shared
            if number % 5 == 0:
                self._send(f"/read/{session}")
            path = "/append-in-transaction" if number % 4 == 3 else "/append"
            message = {"session_id": str(session), "client_message_id": str(uuid4()), "content": f"{client} {number}"}
            while (attempt := self._send(path, message)).status != 200:
                if self._stop.wait(_RETRY_DELAY):
                    return
            message_id = json.loads(attempt.body)["data"]["id"]
            self.acknowledged.append(
                Acknowledged(client, session, message["client_message_id"], message_id, attempt.finished_at)
            )
            self._stop.wait(_PAUSE)

    def _send(self, path: str, message: dict[str, Any] | None = None) -> Attempt:
        attempt = request(self._port, path, message, timeout=CLIENT_TIMEOUT)
        self.requests.append(attempt)
        return attempt

    def _probe(self, path: str) -> None:
        while not self._stop.wait(_PROBE_INTERVAL):
            self.probes.append(request(self._port, path, timeout=PROBE_TIMEOUT))

    def acknowledged_since(self, since: float) -> dict[int, float]:
        """Return for each client the time of its first acknowledgement after `since`."""
        first: dict[int, float] = {}
        for item in reversed(list(self.acknowledged)):
            if item.acknowledged_at < since - CLIENT_TIMEOUT:
                break
            if item.acknowledged_at > since:
                first[item.client] = item.acknowledged_at
        return first

    def wait_for_every_client(self, since: float, *, seconds: float) -> bool:
        """Wait until each client has written after `since`. Return False if that takes longer than `seconds`."""
        while len(self.acknowledged_since(since)) < CLIENTS:
            if time.monotonic() > since + seconds:
                return False
            time.sleep(0.05)
        return True
