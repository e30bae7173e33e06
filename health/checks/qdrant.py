"""Is Qdrant there, are its shards ready, and does it take our key?

Over the network this speaks HTTP itself, with the library that Qdrant's client uses: importing the client costs a
second and 85 MiB in every worker, and its own `readyz` breaks on the plain text that the server answers.
"""

import json
import os
import time
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import httpx
from django.conf import settings

from health import reasons
from health.kept import Kept
from health.reasons import CheckFailed
from health.runner import Finding

_MOST_BYTES = 1_000_000  # what is longer is not Qdrant's


class Client(httpx.Client):
    version: str | None = None


def _connect(seconds: float) -> Client:
    headers = {"api-key": settings.QDRANT_API_KEY} if settings.QDRANT_API_KEY else {}
    return Client(base_url=settings.QDRANT_URL or "", headers=headers)


def _get(client: Client, path: str, end: float) -> bytes:
    """Returns the body of a 200. Neither its size nor the time is left to the other side."""
    body = b""
    with client.stream("GET", path, timeout=max(0.01, end - time.monotonic())) as response:
        if response.status_code in (401, 403):
            raise CheckFailed(reasons.AUTH_FAILED, f"{path}: HTTP {response.status_code}")
        if response.status_code == 503:
            raise CheckFailed(reasons.NOT_READY, f"{path}: HTTP 503")
        if response.status_code != 200:
            raise CheckFailed(reasons.BAD_RESPONSE, f"{path}: HTTP {response.status_code}")
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise CheckFailed(reasons.BAD_RESPONSE, f"{path}: the answer has no end")
            if time.monotonic() > end:
                raise TimeoutError(f"{path}: the answer has not ended in time")
    return body


def _get_json(client: Client, path: str, end: float) -> dict[str, Any]:
    answer = json.loads(_get(client, path, end))
    if not isinstance(answer, dict):
        raise CheckFailed(reasons.BAD_RESPONSE, f"{path}: not Qdrant's answer")
    return answer


def _ask(client: Client, seconds: float) -> str | None:
    end = time.monotonic() + seconds
    _get(client, "/readyz", end)  # plain text; says nothing about the key
    result = _get_json(client, "/collections", end).get("result")
    if not isinstance(result, dict) or "collections" not in result:
        raise CheckFailed(reasons.BAD_RESPONSE, "/collections: not Qdrant's answer")
    client.version = client.version or _get_json(client, "/", end).get("version")
    return client.version


_kept = Kept(_connect)


def qdrant(seconds: float) -> Finding:
    if settings.QDRANT_URL is None:
        return _local_mode()
    found = _kept.ask(_ask, seconds)
    url = urlsplit(settings.QDRANT_URL)
    return Finding(f"{url.scheme}://{url.hostname}:{url.port}", found)


def _local_mode() -> Finding:
    """Opens no client: that would read every vector, and wait for its turn."""
    folder = settings.QDRANT_PATH
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.R_OK | os.W_OK):
        raise CheckFailed(reasons.ERROR, f"{folder} can't be written")
    collections = folder / "meta.json"
    if collections.exists():
        json.loads(collections.read_text())
    return Finding(f"local mode in {folder}", version("qdrant-client"))
