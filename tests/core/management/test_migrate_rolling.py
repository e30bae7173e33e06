"""Rolling deploy: servers with the old code use a database while newer code migrates it and afterwards."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from core.management.commands.migrate import MAX_TRIES
from tests.core.management.test_migrate import empty_database
from tests.core.management.test_migrate_blocked import Migrate, blocker, fetch_all, migrated_database
from tests.support.dependency_servers import as_application
from tests.support.load_clients import Clients
from tests.support.newer_code import ADD_COLUMN, ADD_INDEX, newer_code
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import VoiceAssistServer

__all__ = ["empty_database", "migrated_database"]

CLIENTS = 4
OLD_SETTINGS = "tests.support.rolling_settings"  # the current code, with views that append and read messages


class Load(Clients):
    """Clients that repeatedly append a message, read the session and probe readiness. Some share a session."""

    def __init__(self, ports: list[int], sessions: list[UUID]) -> None:
        self.acknowledged: list[str] = []
        self.failed: list[str] = []
        self.slowest_append = 0.0
        self._ports = ports  # tests add ports while the load runs
        super().__init__(*(partial(self._client, session) for session in sessions))

    def _client(self, session: UUID) -> None:
        path, number = f"/sessions/{session}/messages", 0
        while not self._stop.is_set():
            for port in list(self._ports):
                number += 1
                content = f"{session}-{threading.get_ident()}-{number}"
                message = {"role": "user", "content": content, "client_message_id": content}
                started_at = time.monotonic()
                if self._request(port, "POST", path, json.dumps(message)):
                    self.acknowledged.append(content)
                self.slowest_append = max(self.slowest_append, time.monotonic() - started_at)
                self._request(port, "GET", path)
                self._request(port, "GET", "/ready")

    def _request(self, port: int, method: str, path: str, body: str | None = None) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                self.failed.append(f"{method} {path}: {response.status} {content[:500]!r}")
            return response.status == 200
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(f"{method} {path}: {error!r}")
            return False
        finally:
            connection.close()

    def wait_for_progress(self) -> None:
        """Wait until the clients have appended five more messages each, on average."""
        target = len(self.acknowledged) + 5 * len(self._threads)
        assert succeeds_within(30, lambda: len(self.acknowledged) >= target), self.failed[:3]


@pytest.fixture
def sessions(migrated_database: str) -> Iterator[list[UUID]]:
    """Create sessions, and return one for each client. Some clients share a session."""
    user, created = uuid4(), [uuid4() for _ in range(CLIENTS // 2 + 1)]
    with psycopg.connect(migrated_database) as connection:
        connection.execute(
            "INSERT INTO users (id, email, password, full_name, specialty, created_at, updated_at, is_active, is_staff,"
            " is_superuser) VALUES (%s, 'ann@example.org', '', '', '', now(), now(), true, false, false)",
            [user],
        )
        for session in created:
            connection.execute(
                "INSERT INTO sessions (id, user_id, title, mode, is_archived, context, message_count, created_at,"
                " updated_at) VALUES (%s, %s, '', 'text', false, '{}', 0, now(), now())",
                [session, user],
            )
    yield [*created, *[created[0]] * (CLIENTS - len(created))]


def waits_for_migration(app: VoiceAssistServer) -> bool:
    """Return whether a server is unready, which only a pending migration may cause."""
    status, _, body = app.get("/ready")
    envelope = json.loads(body)
    dependencies = (envelope["data"] or envelope["error"]["details"])["dependencies"]
    reasons = {dependency["reason"] for dependency in dependencies.values()} - {None}
    assert (status, reasons) in [(200, set()), (503, {"migrations_pending"})], body
    return status == 503


def assert_every_message_is_stored_once(url: str, load: Load) -> None:
    assert load.failed == []
    assert sorted(load.acknowledged) == sorted(content for (content,) in fetch_all(url, "SELECT content FROM messages"))
    counts = "SELECT id, message_count FROM sessions EXCEPT SELECT session_id, count(*) FROM messages GROUP BY 1"
    assert fetch_all(url, counts) == []


def test_old_code_serves_while_newer_code_migrates(
    servers: Servers, migrated_database: str, sessions: list[UUID], tmp_path: Path
) -> None:
    new_environment = {
        "DATABASE_URL": as_application(migrated_database),
        **newer_code(tmp_path, ADD_COLUMN, ADD_INDEX, settings=OLD_SETTINGS),
    }
    environment: dict[str, Any] = {
        "DATABASE_URL": as_application(migrated_database),
        "DJANGO_SETTINGS_MODULE": OLD_SETTINGS,
        "WEB_CONCURRENCY": "1",
    }
    with VoiceAssistServer(**environment) as old, VoiceAssistServer(**{**environment, **new_environment}) as new:
        ports = [old.port]
        with Load(ports, sessions) as load:
            load.wait_for_progress()
            assert waits_for_migration(new) and not waits_for_migration(old)
            (tmp_path / "migrate").mkdir()
            with Migrate(tmp_path / "migrate", ADD_COLUMN, ADD_INDEX, url=migrated_database) as migrate:
                assert migrate.wait() == 0, migrate.stderr.read_text()
            load.wait_for_progress()
            assert not waits_for_migration(new) and not waits_for_migration(old)
            ports.append(new.port)
            load.wait_for_progress()
    assert_every_message_is_stored_once(migrated_database, load)
    assert fetch_all(migrated_database, "SELECT DISTINCT language FROM messages") == [("en",)]
    assert fetch_all(
        migrated_database, "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('messages_model')"
    ) == [(True,)]


def test_blocked_migration_does_not_block_the_application(
    servers: Servers, migrated_database: str, sessions: list[UUID], tmp_path: Path
) -> None:
    environment: dict[str, Any] = {
        "DATABASE_URL": as_application(migrated_database),
        "DJANGO_SETTINGS_MODULE": OLD_SETTINGS,
        "WEB_CONCURRENCY": "1",
    }
    with VoiceAssistServer(**environment) as old, Load([old.port], sessions) as load:
        load.wait_for_progress()
        with Migrate(tmp_path, ADD_COLUMN, url=migrated_database) as migrate:
            with blocker(migrated_database):
                migrate.wait_for("blocked by")
                started_at = time.monotonic()
                for number in range(1, 4):
                    migrate.wait_for(f"try {number} of {MAX_TRIES}")
                    load.wait_for_progress()
                blocked_for = time.monotonic() - started_at
            assert migrate.wait() == 0, migrate.stderr.read_text()
        load.wait_for_progress()
    assert_every_message_is_stored_once(migrated_database, load)
    assert load.slowest_append < blocked_for
    print(f"{len(load.acknowledged)} appended, the slowest in {load.slowest_append:.2f} s")
    print(f"The migration was blocked for {blocked_for:.1f} s.")
