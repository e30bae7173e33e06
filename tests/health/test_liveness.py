"""Liveness. The tests have no database mark, so a query makes them fail."""

import socket

import pytest
from django.core.cache import caches
from django.test import Client


@pytest.mark.parametrize("path", ["/health", "/health/", "/metrics"])
def test_uses_no_dependency(client: Client, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("The view used a dependency.")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(type(caches["default"]), "get", refuse)
    response = client.get(path)
    assert response.status_code == 200
