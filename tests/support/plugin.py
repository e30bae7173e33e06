"""Start the servers that all tests share before Django's settings are read, and stop them at the end.

pytest loads this plugin by `-p tests.support.plugin`. It also removes the project's variables from the environment, so
that a developer's configuration does not affect the tests.
"""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.dependency_servers import Postgres, Valkey
from tests.support.polling import SLOWNESS
from tests.support.processes import no_process_is_left as no_process_is_left
from tests.support.qdrant_server import QdrantServer
from voiceassist.embedded.programs import EmbeddedServerError, require_user_name

API_KEY = "tests-key"
ENV_EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"


class Servers:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="voiceassist-tests-"))
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.postgres = Postgres(self.folder / "postgres")
        self.redis = Valkey(self.folder / "redis")
        self.qdrant = QdrantServer(api_key=API_KEY)

    def start(self) -> None:
        self._stack.enter_context(self.postgres)
        self._stack.enter_context(self.redis)
        self._stack.enter_context(self.qdrant)
        self.redis.add_worker()
        os.environ |= self.variables

    @property
    def variables(self) -> dict[str, str]:
        """The settings with which the application uses these servers."""
        return {
            "DATABASE_URL": self.postgres.application_url,
            "REDIS_URL": self.redis.url,
            "QDRANT_URL": self.qdrant.url,
            "QDRANT_API_KEY": API_KEY,
            "HEALTH_MAX_AGE": "0",
        }

    def stop(self) -> None:
        self._stack.close()


def write_bytecode() -> None:
    """Write bytecode also where PYTHONDONTWRITEBYTECODE is set, as in many containers.

    Otherwise the hundreds of processes that the tests start would compile every module again, for half of their time.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def remove_project_variables() -> None:
    for line in ENV_EXAMPLE.read_text().splitlines():
        os.environ.pop(line.lstrip("# ").split("=")[0], None)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    # A shell starts background jobs with SIGINT ignored, and the servers of the tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    write_bytecode()
    remove_project_variables()
    os.environ.setdefault("PYTEST_TIMEOUT", str(float(early_config.getini("timeout")) * SLOWNESS))
    try:
        require_user_name()
    except EmbeddedServerError as error:
        raise pytest.UsageError(str(error)) from None
    if getattr(early_config.known_args_namespace, "numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        return  # each worker process of pytest-xdist runs tests and starts its own servers, this process does neither
    servers = Servers()
    early_config.add_cleanup(servers.stop)
    servers.start()
    early_config.stash[SERVERS] = servers


SERVERS = pytest.StashKey[Servers]()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Servers:
    """Return the servers that the tested application uses."""
    return request.config.stash[SERVERS]


def _stacks_of(threads: list[threading.Thread]) -> str:
    frames = sys._current_frames()
    stacks = [traceback.format_stack(frames[thread.ident]) for thread in threads if thread.ident in frames]
    return "\n".join("".join(stack) for stack in stacks)


def drop_readiness_connections() -> None:
    """Close the open connections of the readiness checks, after waiting until no check is running."""
    deadline = time.monotonic() + 30 * SLOWNESS
    while running := [thread for thread in threading.enumerate() if thread.name.startswith("check-")]:
        assert time.monotonic() < deadline, _stacks_of(running)
        time.sleep(0.01)
    for name in ("postgres", "redis", "qdrant", "queue"):
        import_module(f"health.checks.{name}")._connection.drop()
    import_module("health.checks.migrations").connection.drop()
