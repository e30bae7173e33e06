"""Liveness. No database mark here: a query fails these tests."""

import socket

import pytest
from django.core.cache import caches
from django.test import Client


@pytest.mark.parametrize("path", ["/health", "/health/", "/metrics"])
def test_no_query_no_cache_no_connection(client: Client, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("touches a dependency")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(type(caches["default"]), "get", refuse)
    response = client.get(path)
    assert response.status_code == 200
