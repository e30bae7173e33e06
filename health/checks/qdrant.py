"""Is Qdrant there, are its shards ready, and does it take our key?

Over the network this speaks HTTP itself: importing Qdrant's client costs a second and 85 MiB in every worker, and its
own `readyz` breaks on the plain text that the server answers. Trust in certificates is the client's, httpx's.
"""

import json
import os
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from health.check_runner import CheckOutput
from health.checks import failure_reasons
from health.checks.failure_reasons import CheckFailed
from health.checks.persistent_connection import PersistentConnection

_MOST_BYTES = 1_000_000  # what is longer is not Qdrant's


@dataclass(slots=True)
class Client:
    connection: HTTPConnection
    headers: dict[str, str]
    prefix: str
    version: str | None = None

    def close(self) -> None:
        self.connection.close()

    def get(self, path: str, end: float) -> bytes:
        """Returns the body of a 200. Neither its size nor the time is left to the other side."""
        connection = self.connection
        connection.timeout = max(0.01, end - time.monotonic())
        if connection.sock:
            connection.sock.settimeout(connection.timeout)
        connection.request("GET", self.prefix + path, headers=self.headers)
        response = connection.getresponse()
        if response.status in (401, 403):
            raise CheckFailed(failure_reasons.AUTH_FAILED, f"{path}: HTTP {response.status}")
        if response.status == 503:
            raise CheckFailed(failure_reasons.NOT_READY, f"{path}: HTTP 503")
        if response.status != 200:
            raise CheckFailed(failure_reasons.BAD_RESPONSE, f"{path}: HTTP {response.status}")
        body = b""
        while chunk := response.read1(65536):
            body += chunk
            if len(body) > _MOST_BYTES:
                raise CheckFailed(failure_reasons.BAD_RESPONSE, f"{path}: the answer has no end")
            if time.monotonic() > end:
                raise TimeoutError(f"{path}: the answer has not ended in time")
        if response.length:
            raise ConnectionError(f"{path}: the answer ended early")
        response.close()  # read1 leaves that to us; the connection stays open
        return body

    def get_json(self, path: str, end: float) -> dict[str, Any]:
        answer = json.loads(self.get(path, end))
        if not isinstance(answer, dict):
            raise CheckFailed(failure_reasons.BAD_RESPONSE, f"{path}: not Qdrant's answer")
        return answer


def _connect(seconds: float) -> Client:
    url = urlsplit(settings.QDRANT_URL or "")
    headers = {"api-key": settings.QDRANT_API_KEY} if settings.QDRANT_API_KEY else {}
    connection: HTTPConnection
    if url.scheme == "https":
        import httpx  # only here: 22 MiB

        connection = HTTPSConnection(url.hostname or "", url.port, context=httpx.create_ssl_context())
    else:
        connection = HTTPConnection(url.hostname or "", url.port)
    return Client(connection, headers, url.path.rstrip("/"))


def _ask(client: Client, seconds: float) -> str | None:
    end = time.monotonic() + seconds
    client.get("/readyz", end)  # plain text; says nothing about the key
    result = client.get_json("/collections", end).get("result")
    if not isinstance(result, dict) or "collections" not in result:
        raise CheckFailed(failure_reasons.BAD_RESPONSE, "/collections: not Qdrant's answer")
    client.version = client.version or client.get_json("/", end).get("version")
    return client.version


_kept = PersistentConnection(_connect)


def where() -> str:
    """Returns where the settings say that it is."""
    if settings.QDRANT_URL is None:
        return f"local mode in {settings.QDRANT_PATH}"
    url = urlsplit(settings.QDRANT_URL)
    return f"{url.scheme}://{url.hostname}:{url.port}"


def qdrant(seconds: float) -> CheckOutput:
    if settings.QDRANT_URL is None:
        return _local_mode()
    found = _kept.ask(_ask, seconds)
    return CheckOutput(where(), found)


def _local_mode() -> CheckOutput:
    """Opens no client: that would read every vector, and wait for its turn."""
    folder = settings.QDRANT_PATH
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.R_OK | os.W_OK):
        raise CheckFailed(failure_reasons.ERROR, f"{folder} can't be written")
    collections = folder / "meta.json"
    if collections.exists():
        json.loads(collections.read_text())
    return CheckOutput(where(), version("qdrant-client"))
