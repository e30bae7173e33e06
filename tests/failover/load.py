"""Eight clients that append and retry until they are acknowledged, and probers of /health and /ready.

Everything is bounded: a request by the client's time-out, the load by its number of messages and by `stop`.
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
CLIENT_TIMEOUT = 2 * DATABASE_TIMEOUT + 3  # seconds after which a client gives up a request as hung
PROBE_TIMEOUT = 8.0  # seconds
MAX_MESSAGES = 20_000  # of one client
_PAUSE = 0.02  # seconds between two messages of a client
_RETRY = 0.1  # seconds before a message is sent again
_PROBE_INTERVAL = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request, and when it was made by time.monotonic(). A status of 0 means that no answer came."""

    path: str
    began: float
    ended: float
    status: int
    body: bytes = b""
    retry_after: str | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Acknowledged:
    client: int
    session: UUID
    client_message_id: str
    message_id: str
    at: float


def request(port: int, path: str, sent: dict[str, Any] | None = None, *, timeout: float) -> Attempt:
    """Ask on a connection of its own. A GET, or a POST of `sent` as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    began = time.monotonic()
    status, body, retry_after = 0, b"", None
    try:
        if sent is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(sent), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
        status, retry_after = response.status, response.getheader("Retry-After")
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    return Attempt(path, began, time.monotonic(), status, body, retry_after)


class Load(Clients):
    """What was measured is complete once the block has ended."""

    JOIN_TIMEOUT = 2 * CLIENT_TIMEOUT

    def __init__(self, port: int, sessions: list[UUID]) -> None:
        self._port = port
        self._shared, *self._own = sessions
        self.acknowledged: list[Acknowledged] = []
        self.requests: list[Attempt] = []
        self.probes: list[Attempt] = []
        appenders = (partial(self._append, client) for client in range(CLIENTS))
        super().__init__(*appenders, *(partial(self._probe, path) for path in ("/health", "/ready")))

    def _append(self, client: int) -> None:
        """Append to the shared session and to the client's own in turns, so that clients wait for each other's locks.

        Every fourth message is appended within a transaction of its caller's, and a page is read before every fifth.
        """
        for number in range(MAX_MESSAGES):
            if self._stop.is_set():
                return
            session = self._own[client] if number % 2 else self._shared
            if number % 5 == 0:
                self._send(f"/read/{session}")
            path = "/append-in-transaction" if number % 4 == 3 else "/append"
            sent = {"session_id": str(session), "client_message_id": str(uuid4()), "content": f"{client} {number}"}
            while (attempt := self._send(path, sent)).status != 200:
                if self._stop.wait(_RETRY):
                    return
            message_id = json.loads(attempt.body)["data"]["id"]
            self.acknowledged.append(
                Acknowledged(client, session, sent["client_message_id"], message_id, attempt.ended)
            )
            self._stop.wait(_PAUSE)

    def _send(self, path: str, sent: dict[str, Any] | None = None) -> Attempt:
        attempt = request(self._port, path, sent, timeout=CLIENT_TIMEOUT)
        self.requests.append(attempt)
        return attempt

    def _probe(self, path: str) -> None:
        while not self._stop.wait(_PROBE_INTERVAL):
            self.probes.append(request(self._port, path, timeout=PROBE_TIMEOUT))

    def acknowledged_since(self, moment: float) -> dict[int, float]:
        """Return for each client when its first message after `moment` was acknowledged."""
        first: dict[int, float] = {}
        for one in reversed(list(self.acknowledged)):
            if one.at < moment - CLIENT_TIMEOUT:
                break
            if one.at > moment:
                first[one.client] = one.at
        return first

    def wait_for_every_client(self, since: float, *, seconds: float) -> bool:
        """Wait until each client has written after `since`. Return whether that was so within `seconds` of `since`."""
        while len(self.acknowledged_since(since)) < CLIENTS:
            if time.monotonic() > since + seconds:
                return False
            time.sleep(0.05)
        return True
