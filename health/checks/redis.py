"""Is Redis (or Valkey) there, does it let us in, and does it take a write?"""

from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from health.kept import Kept
from health.runner import Finding


class Client(Redis):
    version: str | None = None


def _connect(seconds: float) -> Client:
    client: Client = Client.from_url(  # type: ignore[assignment]  # it makes what it is called on
        settings.REDIS_URL,
        socket_timeout=seconds / 2,  # a kept connection that went silent leaves time for a fresh one
        socket_connect_timeout=seconds / 2,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
        client_name=f"{settings.SERVICE}-readiness",
    )
    return client


def _ask(client: Client, seconds: float) -> str | None:
    # A write is refused by a replica, while loading, without memory and with a full disk; a PING by none of them.
    client.set(f"{settings.SERVICE}:readiness", "", ex=60)
    client.version = client.version or _version(client)
    return client.version


def _version(client: Client) -> str | None:
    try:
        server: Any = client.info("server")
    except ResponseError:
        return None  # this user may not ask
    return str(server.get("valkey_version") or server.get("redis_version"))


_kept = Kept(_connect)


def where() -> str:
    """Returns where the settings say that it is."""
    url = urlsplit(settings.REDIS_URL)
    return unquote(url.path) if url.scheme == "unix" else f"{url.hostname}:{url.port or 6379}"


def redis(seconds: float) -> Finding:
    version = _kept.ask(_ask, seconds)
    return Finding(where(), version)
