"""The client of the vector database: over the network, or in development the client's local mode.

Importing `qdrant_client` takes about a second and 85 MiB, so it is imported when a client is first requested.

As with PostgreSQL and Redis, connections are direct: HTTP_PROXY and similar variables are ignored. They are set for
traffic to the internet, and vectors of PHI must not pass through such a proxy.
"""

import fcntl
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

from core import secret_files
from core.metrics import QDRANT_CALLS
from core.trace_id import outgoing_traceparent

if TYPE_CHECKING:
    from httpx import Request, Response
    from qdrant_client import QdrantClient

REJECTED_KEY = (401, 403)  # Qdrant's status for a missing or wrong API key, and for one with too few permissions
TIMEOUT = 5  # seconds per call; the client accepts only whole seconds


@contextmanager
def client() -> Iterator["QdrantClient"]:
    """Yield a client for the Qdrant server of the settings.

    A network client is shared by the whole process. Local mode allows one process at a time, so other processes wait
    until the block ends. Keep the block short.
    """
    if settings.QDRANT_URL:
        yield _network_client(os.getpid())
        return
    from qdrant_client import QdrantClient

    settings.QDRANT_PATH.mkdir(parents=True, exist_ok=True)
    with (settings.QDRANT_PATH / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        local = QdrantClient(path=str(settings.QDRANT_PATH))
        try:
            yield local
        finally:
            local.close()


def base_url() -> SplitResult:
    """Return QDRANT_URL without repeated slashes in its path, because the client treats what follows `//` as the host.

    The settings refuse credentials, a query and a fragment.
    """
    url = urlsplit(settings.QDRANT_URL or "")
    return url._replace(path=re.sub("/+", "/", url.path).rstrip("/"))


def tls_context() -> ssl.SSLContext:
    """Return a context that trusts the authorities in SSL_CERT_FILE or SSL_CERT_DIR, otherwise those of certifi.

    Raises ssl.SSLError, whose message names the file, if the file cannot be loaded.
    """
    import httpx  # 22 MiB that only HTTPS needs

    try:
        return httpx.create_ssl_context()
    except OSError as error:
        path = os.environ.get("SSL_CERT_FILE")  # httpx reads it, but its error does not name it
        raise ssl.SSLError(error.errno, f"SSL_CERT_FILE cannot be loaded ({path}): {error}") from error


def api_key_header() -> dict[str, str]:
    return {"api-key": settings.QDRANT_API_KEY} if settings.QDRANT_API_KEY else {}


def api_key_changed(rejected: str | None) -> bool:
    """Read the secrets again, and return whether the API key is another one than the rejected one."""
    secret_files.reload_after_rejection()
    return bool(settings.QDRANT_API_KEY) and rejected != settings.QDRANT_API_KEY


@cache
def _network_client(pid: int) -> "QdrantClient":
    """Return the client of this process. A forked process gets a new one, because its parent uses the connections.

    The parent's client stays in the cache, because its destructor would close the connections.
    """
    from qdrant_client import QdrantClient

    url = base_url()
    client = QdrantClient(
        url=url.geturl(),
        timeout=TIMEOUT,
        check_compatibility=False,  # it costs one more request at every start
        trust_env=False,  # ignore proxy variables, and without HTTPS SSL_CERT_FILE
        verify=tls_context() if url.scheme == "https" else True,
    )
    # Private: qdrant-client has no public hook for the requests of its HTTP client.
    client.http.client.add_middleware(_traced_and_measured)
    return client


def _traced_and_measured(request: "Request", send: "Callable[[Request], Response]") -> "Response":
    """Send one request to Qdrant with the API key and the current trace id, and record its duration and outcome."""
    request.headers["traceparent"] = outgoing_traceparent()
    request.headers.update(api_key_header())
    outcome = "error"
    started_at = time.perf_counter()
    try:
        response = send(request)
        if response.status_code in REJECTED_KEY and api_key_changed(request.headers.get("api-key")):
            response.read()
            request.headers.update(api_key_header())
            response = send(request)
        if response.status_code < 400:
            outcome = "ok"
        return response
    finally:
        QDRANT_CALLS.labels(request.method, outcome).observe(time.perf_counter() - started_at)
