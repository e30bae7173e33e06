"""Secrets are replaced while servers run, in the order of docs/PROCEDURES.md: first the file, then the dependency."""

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pytest_django import Settings

from core import secret_files
from core.clients import qdrant, redis_url
from core.database_roles import APPLICATION_ROLE
from tests.security.production import ADMIN, PASSWORD, create_database, environment
from tests.support import sentinel
from tests.support.dependency_servers import PASSWORD as SERVER_PASSWORD
from tests.support.dependency_servers import QUOTED, Postgres, Valkey
from tests.support.load_clients import Clients
from tests.support.polling import succeeds_within
from tests.support.qdrant_server import QdrantServer
from tests.support.sentinel import Group
from tests.support.voiceassist_server import VoiceAssistServer
from tests.support.worker_process import WorkerProcess

KEY = "only-for-tests: the first key 7QpZ2x9vLr4mKs8dTb1nWc6yHf3"
NEW_KEY = "only-for-tests: the second key gJe5aUi0oPq7QpZ2x9vLr4mKs8d"
TOKEN, NEW_TOKEN = "token-of-the-first-kind", "token-of-the-second-kind"
API_KEY, NEW_API_KEY = "api-key-one", "api-key-two"
NEW_PASSWORD = "a new password"
NEW_QUOTED = "a%20new%20password"
_CLIENTS = 4
MESSAGE = "Secrets were read again."


class Deployment:
    """Dependencies of its own, whose passwords the tests change, and the environment of servers that use them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.postgres, self.valkey = Postgres(folder / "postgres"), Valkey(folder / "valkey")
        for server in (self.postgres, self.valkey):
            stack.enter_context(server)
        self.qdrant = stack.enter_context(QdrantServer(api_key=API_KEY))
        database = create_database(self.postgres, "rotation")
        self._values = {
            "SECRET_KEY": KEY,
            "SECRET_KEY_FALLBACKS": "",
            "METRICS_TOKEN": TOKEN,
            "QDRANT_API_KEY": API_KEY,
            "DATABASE_URL": database.url,
            "REDIS_URL": self.valkey.url,
        }
        self.folder = folder
        self.environment: dict[str, Any] = {
            **environment(database, self.valkey.url),
            **dict.fromkeys(self._values, ""),
            **{f"{name}_FILE": str(folder / name) for name in self._values},
            "QDRANT_URL": self.qdrant.url,
            "DRAIN_SECONDS": "1",
            "HEALTH_MAX_AGE": "0.2",
        }

    def reset(self) -> None:
        """Restore the secrets that the last test has changed."""
        for name, value in self._values.items():
            self.write(name, value)
        self.set_database_password(SERVER_PASSWORD)
        self.set_redis_password(SERVER_PASSWORD)
        self.qdrant.api_key = API_KEY

    def write(self, name: str, value: str) -> None:
        """Replace a file in one step, as `mv` and Kubernetes do."""
        new = self.folder / f".{name}"
        new.write_text(value)
        new.rename(self.folder / name)

    def write_new_password(self, name: str) -> None:
        self.write(name, self._values[name].replace(QUOTED, NEW_QUOTED))

    def set_database_password(self, password: str) -> None:
        self.postgres.execute(f"ALTER ROLE {APPLICATION_ROLE} PASSWORD '{password}'")

    def set_redis_password(self, password: str) -> None:
        assert b"OK" in self.valkey.send_command(f'CONFIG SET requirepass "{password}"')
        self.valkey.password = f'"{password}"'  # for the next commands

    def disconnect_database(self) -> None:
        self.postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{APPLICATION_ROLE}'"
        )

    def disconnect_redis(self) -> None:
        assert self.valkey.send_command("CLIENT KILL TYPE normal SKIPME yes")


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with ExitStack() as stack:
        yield Deployment(tmp_path_factory.mktemp("rotation"), stack)


@pytest.fixture
def deployment(dependencies: Deployment) -> Deployment:
    dependencies.reset()
    return dependencies


class Load(Clients):
    """Logged-in users who open a page that needs PostgreSQL and Redis, on new connections to the server."""

    def __init__(self, client: httpx.Client, threads: int) -> None:
        self.statuses: Counter[int] = Counter()
        self._client, self._turns, self._gate = client, threading.Semaphore(_CLIENTS), threading.Event()
        self._gate.set()
        super().__init__(*[self._browse] * threads)

    def _browse(self) -> None:
        while not self._stop.is_set():
            self._gate.wait()  # otherwise a client could take every turn before the one who waits for it
            with self._turns:
                try:
                    self.statuses[self._client.get("/admin/core/session/").status_code] += 1
                except httpx.HTTPError:
                    self.statuses[0] += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Send no request inside the block, in which the test cuts connections that requests could be using."""
        self._gate.clear()
        for _ in range(_CLIENTS):
            self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release(_CLIENTS)
            self._gate.set()

    def wait_for_more(self, count: int = 40) -> None:
        enough = self.statuses.total() + count
        assert succeeds_within(60, lambda: self.statuses.total() >= enough)


@contextmanager
def browsing(server: VoiceAssistServer, *, threads: int = _CLIENTS) -> Iterator[Load]:
    with closing(server.log_in(ADMIN, PASSWORD)) as client, Load(client, threads) as load:
        load.wait_for_more()
        yield load
        load.wait_for_more()


def reasons(server: VoiceAssistServer) -> dict[str, Any]:
    """Return the reasons of unhealthy dependencies. A worker for jobs, which is optional, does not always run."""
    _, _, body = server.get("/ready")
    answer = json.loads(body)
    dependencies = (answer["data"] or answer["error"]["details"])["dependencies"]
    return {name: state["reason"] for name, state in dependencies.items() if state["reason"] and name != "queue"}


def reload(server: VoiceAssistServer) -> None:
    """Send SIGHUP and wait until all workers are new ones."""
    before = {worker.pid for worker in server.workers()}
    server.process.send_signal(signal.SIGHUP)
    assert succeeds_within(60, lambda: not before & {worker.pid for worker in server.workers()}), server.log()
    assert succeeds_within(60, lambda: server.get("/health")[0] == 200)


def test_new_database_password_fails_no_request(deployment: Deployment) -> None:
    """Old connections stay open, and each new one that is rejected reads the file once."""
    with VoiceAssistServer(**deployment.environment) as server, browsing(server) as load:
        deployment.write_new_password("DATABASE_URL")
        load.wait_for_more()
        deployment.set_database_password(NEW_PASSWORD)
        for _ in range(3):
            load.wait_for_more()
            with load.paused():
                deployment.disconnect_database()
        load.wait_for_more()
        assert succeeds_within(30, lambda: not reasons(server))
        log = server.log()
    assert set(load.statuses) == {200}, load.statuses
    assert MESSAGE in log
    assert SERVER_PASSWORD not in log and QUOTED not in log and NEW_QUOTED not in log


def test_new_redis_password_fails_no_request(deployment: Deployment) -> None:
    with VoiceAssistServer(**deployment.environment) as server, browsing(server) as load:
        deployment.write_new_password("REDIS_URL")
        deployment.set_redis_password(NEW_PASSWORD)
        for _ in range(3):
            load.wait_for_more()
            with load.paused():
                deployment.disconnect_redis()
        load.wait_for_more()
        assert succeeds_within(30, lambda: not reasons(server))
        assert MESSAGE in server.log()
    assert set(load.statuses) == {200}, load.statuses


def test_new_api_key_of_qdrant(deployment: Deployment) -> None:
    with VoiceAssistServer(**deployment.environment) as server:
        assert succeeds_within(30, lambda: not reasons(server))
        deployment.write("QDRANT_API_KEY", NEW_API_KEY)
        deployment.qdrant.api_key = NEW_API_KEY
        # The first check that is rejected already succeeds with the new key.
        assert succeeds_within(30, lambda: "qdrant" in reasons(server) or MESSAGE in server.log())
        assert reasons(server) == {}
        assert NEW_API_KEY not in server.log()


def test_client_of_qdrant_uses_a_new_api_key(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with QdrantServer(api_key=API_KEY) as server:
        settings.QDRANT_URL, settings.QDRANT_API_KEY = server.url, API_KEY
        client = qdrant._network_client.__wrapped__(0)  # not the one of this process
        with closing(client):
            assert client.get_collections().collections == []
            server.api_key = NEW_API_KEY
            monkeypatch.setattr(
                secret_files, "reload_after_rejection", lambda: setattr(settings, "QDRANT_API_KEY", NEW_API_KEY)
            )
            assert client.get_collections().collections == []
            assert client.get_collections().collections == []


def test_rejected_login_recovers_when_the_file_follows(deployment: Deployment) -> None:
    """In the wrong order new connections fail until the file has the new password, and then recover."""
    with VoiceAssistServer(**deployment.environment) as server:
        assert succeeds_within(30, lambda: not reasons(server))
        deployment.set_database_password(NEW_PASSWORD)
        deployment.disconnect_database()
        assert succeeds_within(30, lambda: reasons(server).get("postgres") == "auth_failed"), reasons(server)
        deployment.write("DATABASE_URL", "not a URL")  # stays invalid for some readings
        problem = "The secrets were not read again. The current ones stay in use."
        assert succeeds_within(30, lambda: reasons(server) and problem in server.log())
        # Several readings, of which each process reports the first.
        assert not succeeds_within(2.5, lambda: not reasons(server))
        assert server.log().count(problem) <= len(server.workers())
        deployment.write_new_password("DATABASE_URL")
        assert succeeds_within(30, lambda: not reasons(server)), reasons(server)


def test_worker_for_jobs_uses_new_passwords(deployment: Deployment) -> None:
    with WorkerProcess(**deployment.environment) as worker:
        for name in ("DATABASE_URL", "REDIS_URL"):
            deployment.write_new_password(name)
        deployment.set_database_password(NEW_PASSWORD)
        deployment.set_redis_password(NEW_PASSWORD)
        deployment.disconnect_database()
        deployment.disconnect_redis()
        deployment.valkey.send_command("DEL voiceassist:queue:workers")
        reported = "ZCARD voiceassist:queue:workers"
        assert succeeds_within(60, lambda: deployment.valkey.send_command(reported).endswith(b":1\r\n")), worker.log()
        assert worker.process.poll() is None
        assert MESSAGE in worker.log()


def test_sighup_reads_the_token_and_the_keys_again(deployment: Deployment) -> None:
    """A login survives a new SECRET_KEY, because the old one is a fallback, also in parallel requests."""
    with VoiceAssistServer(**deployment.environment) as server, browsing(server) as load:
        deployment.write("SECRET_KEY_FALLBACKS", NEW_KEY)
        reload(server)
        deployment.write("SECRET_KEY", NEW_KEY)
        deployment.write("SECRET_KEY_FALLBACKS", KEY)
        deployment.write("METRICS_TOKEN", NEW_TOKEN)
        load.wait_for_more()
        reload(server)
        for token, status in ((TOKEN, 401), (NEW_TOKEN, 200)):
            assert server.get("/metrics", headers={"Authorization": f"Bearer {token}"})[0] == status
        load.wait_for_more()
        assert '"changed": ["METRICS_TOKEN", "SECRET_KEY", "SECRET_KEY_FALLBACKS"]' in server.log()
    assert set(load.statuses) == {200}, load.statuses


def test_without_the_fallback_a_new_key_ends_logins(deployment: Deployment) -> None:
    with VoiceAssistServer(**deployment.environment) as server, closing(server.log_in(ADMIN, PASSWORD)) as client:
        deployment.write("SECRET_KEY", NEW_KEY)
        assert client.get("/admin/core/session/").status_code == 200
        reload(server)
        assert client.get("/admin/core/session/").status_code == 302


def test_sighup_with_an_invalid_secret_keeps_the_current_ones(deployment: Deployment) -> None:
    with VoiceAssistServer(**deployment.environment) as server, browsing(server) as load:
        deployment.write("METRICS_TOKEN", NEW_TOKEN)
        deployment.write("SECRET_KEY", "weak")
        reload(server)
        log = server.log()
        assert log.count("The secrets were not read again.") == 1
        assert "voiceassist: SECRET_KEY: The value is too weak." in log
        assert server.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
    assert set(load.statuses) == {200}, load.statuses


def test_new_passwords_of_redis_and_sentinel(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Group(tmp_path) as group:
        url = redis_url.parse(group.url())
        pool = url.pool({**url.options, "socket_timeout": 2, "socket_connect_timeout": 2})
        client = redis.Redis(connection_pool=pool)
        assert succeeds_within(30, lambda: client.set("key", "value"))
        new_url = group.url().replace(f":{sentinel.QUOTED}@", f":{NEW_QUOTED}@")
        new_url = new_url.replace(f"={sentinel.SENTINEL_QUOTED}", f"={NEW_QUOTED}")
        for server in (*group.nodes, *group.sentinels):
            assert b"OK" in server.send_command(f'CONFIG SET requirepass "{NEW_PASSWORD}"')
        pool.disconnect()
        settings.READS_FILES = True
        monkeypatch.setattr(secret_files, "reload_after_rejection", lambda: setattr(settings, "REDIS_URL", new_url))
        assert client.get("key") == b"value"
