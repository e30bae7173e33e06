"""Starts the servers that all tests share, before Django's settings are read, and stops them at the end.

pytest loads it by `-p tests.support.plugin`. It takes the environment away from the tests: what a developer has set
there is theirs, not the tests'.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.dependency_servers import Postgres, Valkey
from tests.support.qdrant_server import QdrantServer

API_KEY = "tests-key"
CONTRACT = Path(__file__).resolve().parents[2] / ".env.example"


class Servers:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="voiceassist-tests-"))
        self.postgres = Postgres(self.folder / "postgres")
        self.redis = Valkey(self.folder / "redis")
        self.qdrant = QdrantServer(api_key=API_KEY)

    def start(self) -> None:
        self.postgres.start()
        self.redis.start()
        self.qdrant.__enter__()
        for line in CONTRACT.read_text().splitlines():
            os.environ.pop(line.lstrip("# ").split("=")[0], None)
        os.environ |= {
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.redis.url,
            "QDRANT_URL": self.qdrant.url,
            "QDRANT_API_KEY": API_KEY,
            "HEALTH_MAX_AGE": "0",
        }

    def stop(self) -> None:
        self.qdrant.__exit__()
        self.redis.kill()
        self.postgres.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    # Whoever is started in a shell's background ignores Ctrl-C, and hands that on to what the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    servers = Servers()
    early_config.add_cleanup(servers.stop)
    servers.start()
    early_config.stash[SERVERS] = servers


SERVERS = pytest.StashKey[Servers]()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Servers:
    """The servers that the application under test uses."""
    return request.config.stash[SERVERS]


def drop_readiness_connections() -> None:
    """Drops the connections that readiness keeps open, when no check is under way."""
    end = time.monotonic() + 10
    while any(thread.name.startswith("check-") for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)
    for module in ("checks.postgres", "checks.migrations", "checks.redis", "checks.qdrant"):
        import_module(f"health.{module}")._kept.drop()
