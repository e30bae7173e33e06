"""The client of Django's cache while Redis does not respond."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.clients import redis as redis_client
from core.clients.redis import Client
from tests.support.dependency_servers import Valkey
from tests.support.polling import succeeds_within


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def client(server: Valkey) -> Iterator[Client]:
    with Client.from_url(server.url, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client:
        client.set("name", "value")
        yield client


def test_server_that_hangs_is_not_asked_again_at_once(
    server: Valkey, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "RETRY_INTERVAL", 1000.0)
    server.freeze()
    with pytest.raises(redis.TimeoutError):
        client.get("name")
    with pytest.raises(redis.ConnectionError, match="a moment ago"):
        client.get("name")
    with pytest.raises(redis.ConnectionError, match="a moment ago"):
        client.set("name", "other")
    with pytest.raises(redis.TimeoutError):
        client.delete("name")
    server.thaw()
    assert succeeds_within(10, lambda: client.delete("name") in (0, 1))
    assert client.get("name") is None


def test_one_caller_tries_again_after_the_interval(
    server: Valkey, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.freeze()
    with pytest.raises(redis.TimeoutError):
        client.get("name")
    redis_client._retry_at[client.connection_pool] = 0.0
    others = []

    def measured(command: str, call: Callable[[], Any]) -> Any:
        """Stand for the call of the first caller. Meanwhile another one calls."""
        with pytest.raises(redis.ConnectionError, match="a moment ago") as error:
            client.get("name")
        others.append(error)
        return call()

    with monkeypatch.context() as context, pytest.raises(redis.TimeoutError):
        context.setattr(redis_client, "_measured", measured)
        client.get("name")
    assert len(others) == 1
    server.thaw()
    redis_client._retry_at[client.connection_pool] = 0.0
    assert client.get("name") == b"value"
    assert client.get("name") == b"value"


def test_refused_connections_are_tried_each_time(server: Valkey, client: Client) -> None:
    """They take no time."""
    server.stop()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError) as error:
            client.get("name")
        assert "a moment ago" not in str(error.value)
