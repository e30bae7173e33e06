"""Check that Qdrant responds, that its shards are ready and that it accepts our API key.

It uses http.client, because importing Qdrant's client takes a second and 85 MiB in every worker, and the client's own
`readyz` fails on the plain-text response. Like the client, it ignores proxy variables, follows no redirects, and trusts
the certificates of `core.clients.qdrant.tls_context`.
"""

import json
import os
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from importlib.metadata import version
from typing import Any

from django.conf import settings

from core.clients import certificates, transport
from core.clients.qdrant import REJECTED_KEY, api_key_changed, api_key_header, base_url, tls_context
from health.check_runner import CheckOutput
from health.checks import failure_reasons
from health.checks.failure_reasons import CheckFailed
from health.checks.persistent_connection import PersistentConnection
from health.checks.read_limit import ReadLimit


@dataclass(slots=True)
class Client:
    connection: HTTPConnection
    prefix: str
    version: str | None = None
    limit: ReadLimit = field(default_factory=ReadLimit)

    def close(self) -> None:
        self.connection.close()

    def get(self, path: str, deadline: float) -> bytes:
        """Return the body of a 200 response. If the API key is rejected and has a new value, try that once."""
        headers = api_key_header()
        response = self._send(path, headers, deadline)
        if response.status in REJECTED_KEY and api_key_changed(headers.get("api-key")):
            response.read()
            response = self._send(path, api_key_header(), deadline)
        if response.status in REJECTED_KEY:
            raise CheckFailed(failure_reasons.AUTH_FAILED, f"{path}: HTTP {response.status}")
        if response.status == 503:
            raise CheckFailed(failure_reasons.NOT_READY, f"{path}: HTTP 503")
        if response.status != 200:
            raise CheckFailed(failure_reasons.BAD_RESPONSE, f"{path}: HTTP {response.status}")
        return response.read()

    def _send(self, path: str, headers: dict[str, str], deadline: float) -> HTTPResponse:
        connection = self.connection
        connection.timeout = max(0.01, deadline - time.monotonic())
        if not connection.sock:
            connection.connect()
            connection.sock = self.limit.wrap(connection.sock)
        connection.sock.settimeout(connection.timeout)
        connection.request("GET", self.prefix + path, headers=headers)
        return connection.getresponse()

    def get_json(self, path: str, deadline: float) -> dict[str, Any]:
        body = json.loads(self.get(path, deadline))
        if not isinstance(body, dict):
            raise CheckFailed(failure_reasons.BAD_RESPONSE, f"{path}: not a response of Qdrant")
        return body


def _connect(seconds: float) -> Client:
    url = base_url()
    connection: HTTPConnection
    if url.scheme == "https":
        connection = HTTPSConnection(url.hostname or "", url.port, context=tls_context())
    else:
        connection = HTTPConnection(url.hostname or "", url.port)
    return Client(connection, url.path)


def _query(client: Client, seconds: float) -> CheckOutput:
    deadline = time.monotonic() + seconds
    client.limit.start(seconds)
    client.get("/readyz", deadline)  # Qdrant serves this path without the key
    result = client.get_json("/collections", deadline).get("result")
    if not isinstance(result, dict) or "collections" not in result:
        raise CheckFailed(failure_reasons.BAD_RESPONSE, "/collections: not a response of Qdrant")
    client.version = client.version or client.get_json("/", deadline).get("version")
    return CheckOutput(
        qdrant_endpoint(),
        client.version,
        transport.qdrant(settings.QDRANT_URL),
        certificate_expires_at=certificates.of_socket(client.connection.sock),
    )


_connection = PersistentConnection(_connect)


def qdrant_endpoint() -> str:
    """Return the configured endpoint, without credentials."""
    if settings.QDRANT_URL is None:
        return f"{settings.QDRANT_PATH} (local mode)"
    return base_url().geturl()


def qdrant(seconds: float) -> CheckOutput:
    if settings.QDRANT_URL is None:
        return _local_mode()
    return _connection.run(_query, seconds)


def _local_mode() -> CheckOutput:
    """Check the files. A client would load every vector and wait for the lock of another process."""
    folder = settings.QDRANT_PATH
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.R_OK | os.W_OK):
        raise CheckFailed(failure_reasons.ERROR, f"{folder} is not readable and writable")
    collections = folder / "meta.json"
    if collections.exists():
        json.loads(collections.read_text())
    return CheckOutput(qdrant_endpoint(), version("qdrant-client"), transport.qdrant(None))
