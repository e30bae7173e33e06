"""The vector database, for whoever needs it: over the network, or in development the client's own local mode.

`qdrant_client` costs about a second and 85 MiB to import, so it is imported by who first asks, not by the server.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from django.conf import settings

from core.metrics import QDRANT_CALLS
from core.trace_id import new_traceparent

if TYPE_CHECKING:
    from httpx import Request, Response
    from qdrant_client import QdrantClient

TIMEOUT = 5  # seconds that one call may take; the client knows whole seconds only


@contextmanager
def client() -> Iterator["QdrantClient"]:
    """Gives a client of the Qdrant that the settings name.

    Over the network it is one for the whole process. Local mode allows one process at a time, so there it is opened for
    the block and others wait for its end: keep the block short.
    """
    if settings.QDRANT_URL:
        yield _network_client()
        return
    from qdrant_client import QdrantClient

    settings.QDRANT_PATH.mkdir(parents=True, exist_ok=True)
    with (settings.QDRANT_PATH / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        local = QdrantClient(path=str(settings.QDRANT_PATH))
        try:
            yield local
        finally:
            local.close()


@cache
def _network_client() -> "QdrantClient":
    from qdrant_client import QdrantClient

    # Its check of versions would be a call of its own at every start.
    client = QdrantClient(
        url=settings.QDRANT_URL,
        api_key=settings.QDRANT_API_KEY,
        timeout=TIMEOUT,
        check_compatibility=False,
    )
    client.http.client.add_middleware(_call)
    return client


def _call(request: "Request", send: "Callable[[Request], Response]") -> "Response":
    """One call, with the trace id of the request that needs it, and measured."""
    request.headers["traceparent"] = new_traceparent()
    outcome = "error"
    began = time.perf_counter()
    try:
        response = send(request)
        if response.status_code < 400:
            outcome = "ok"
        return response
    finally:
        QDRANT_CALLS.labels(request.method, outcome).observe(time.perf_counter() - began)
