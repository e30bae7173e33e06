"""The client of the vector database: over the network, or in development the client's local mode.

Importing `qdrant_client` takes about a second and 85 MiB, so it is imported when a client is first requested.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from django.conf import settings

from core.metrics import QDRANT_CALLS
from core.trace_id import outgoing_traceparent

if TYPE_CHECKING:
    from httpx import Request, Response
    from qdrant_client import QdrantClient

TIMEOUT = 5  # seconds per call; the client accepts only whole seconds


@contextmanager
def client() -> Iterator["QdrantClient"]:
    """Yield a client for the Qdrant server of the settings.

    A network client is shared by the whole process. Local mode allows one process at a time, so other processes wait
    until the block ends. Keep the block short.
    """
    if settings.QDRANT_URL:
        yield _network_client()
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


@cache
def _network_client() -> "QdrantClient":
    from qdrant_client import QdrantClient

    client = QdrantClient(
        url=settings.QDRANT_URL,
        api_key=settings.QDRANT_API_KEY,
        timeout=TIMEOUT,
        check_compatibility=False,  # it costs one more request at every start
    )
    # Private: qdrant-client has no public hook for the requests of its HTTP client.
    client.http.client.add_middleware(_traced_and_measured)
    return client


def _traced_and_measured(request: "Request", send: "Callable[[Request], Response]") -> "Response":
    """Send one request to Qdrant with the current trace id, and record its duration and outcome."""
    request.headers["traceparent"] = outgoing_traceparent()
    outcome = "error"
    started_at = time.perf_counter()
    try:
        response = send(request)
        if response.status_code < 400:
            outcome = "ok"
        return response
    finally:
        QDRANT_CALLS.labels(request.method, outcome).observe(time.perf_counter() - started_at)
