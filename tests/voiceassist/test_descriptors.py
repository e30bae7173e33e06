"""The limit of open files, and the number of connections that a worker accepts because of it."""

import resource

import pytest

from voiceassist import descriptors

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "limit", "connections"),
    [
        (1024, 1024, 1024, 928),
        (1024, 4096, 4096, 1000),
        (1024, 1_073_741_816, 65_536, 1000),  # older Docker
        (1_048_576, 1_048_576, 1_048_576, 1000),  # never lowered
        (1024, UNLIMITED, 65_536, 1000),
        (UNLIMITED, UNLIMITED, 65_536, 1000),
        (256, 256, 256, 160),
        (112, 112, 112, 16),
        (64, 64, 64, 16),  # the server refuses to start
    ],
)
def test_limit_and_connections(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, limit: int, connections: int
) -> None:
    calls: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: calls.append((kind, limits)))
    assert descriptors.limit() == limit
    assert descriptors.worker_connections(threads=4) == connections
    assert (limit < descriptors.required(threads=4)) is (limit == 64)
    descriptors.raise_limit()
    raised = [] if soft in (limit, UNLIMITED) else [(resource.RLIMIT_NOFILE, (limit, hard))]
    assert calls == raised
