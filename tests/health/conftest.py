"""A Redis of its own for each test that stops or freezes it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dependency_servers import Valkey


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    server.add_worker()
    yield server
    server.kill()
