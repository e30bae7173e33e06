"""A rolling deploy: servers of the old code serve from a database that newer code has migrated, or is migrating."""

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
from tests.core.management.test_migrate import fresh
from tests.core.management.test_migrate_blocked import Migrate, blocker, migrated, one
from tests.support.load_clients import Clients
from tests.support.newer_code import ADD_COLUMN, ADD_INDEX, newer_code
from tests.support.plugin import Servers
from tests.support.voiceassist_server import VoiceAssistServer

__all__ = ["fresh", "migrated"]

CLIENTS = 4
OLD = "tests.support.rolling_settings"  # our code, with paths to append messages and to read them


class Load(Clients):
    """Clients that append a message, read the session and probe readiness, again and again. Some share a session."""

    def __init__(self, ports: list[int], sessions: list[UUID]) -> None:
        self.acknowledged: list[str] = []
        self.failed: list[str] = []
        self.slowest_append = 0.0
        self._ports = ports  # may grow meanwhile
        super().__init__(*(partial(self._client, session) for session in sessions))

    def _client(self, session: UUID) -> None:
        path, number = f"/sessions/{session}/messages", 0
        while not self._stop.is_set():
            for port in list(self._ports):
                number += 1
                content = f"{session} {threading.get_ident()} {number}"
                message = {"role": "user", "content": content, "client_message_id": content}
                began = time.monotonic()
                if self._ask(port, "POST", path, json.dumps(message)):
                    self.acknowledged.append(content)
                self.slowest_append = max(self.slowest_append, time.monotonic() - began)
                self._ask(port, "GET", path)
                self._ask(port, "GET", "/ready")

    def _ask(self, port: int, method: str, path: str, body: str | None = None) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                self.failed.append(f"{method} {path}: {response.status} {answer[:500]!r}")
            return response.status == 200
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(f"{method} {path}: {error!r}")
            return False
        finally:
            connection.close()

    def goes_on(self) -> None:
        """Wait until every client has appended some more."""
        end, enough = time.monotonic() + 30, len(self.acknowledged) + 5 * len(self._threads)
        while len(self.acknowledged) < enough:
            assert time.monotonic() < end, self.failed[:3]
            time.sleep(0.02)


@pytest.fixture
def sessions(migrated: str) -> Iterator[list[UUID]]:
    """The sessions that the clients append to."""
    user, several = uuid4(), [uuid4() for _ in range(CLIENTS // 2 + 1)]
    with psycopg.connect(migrated) as connection:
        connection.execute(
            "INSERT INTO users (id, email, password, full_name, specialty, created_at, updated_at, is_active, is_staff,"
            " is_superuser) VALUES (%s, 'ann@example.org', '', '', '', now(), now(), true, false, false)",
            [user],
        )
        for session in several:
            connection.execute(
                "INSERT INTO sessions (id, user_id, title, mode, is_archived, context, message_count, created_at,"
                " updated_at) VALUES (%s, %s, '', 'text', false, '{}', 0, now(), now())",
                [session, user],
            )
    yield [*several, *[several[0]] * (CLIENTS - len(several))]


def pending(app: VoiceAssistServer) -> bool:
    """Return whether a server waits for a migration, and for nothing else."""
    status, _, body = app.get("/ready")
    answer = json.loads(body)
    dependencies = (answer["data"] or answer["error"]["details"])["dependencies"]
    reasons = {dependency["reason"] for dependency in dependencies.values()} - {None}
    assert (status, reasons) in [(200, set()), (503, {"migrations_pending"})], body
    return status == 503


def every_message_is_stored_once(url: str, load: Load) -> None:
    assert load.failed == []
    assert sorted(load.acknowledged) == sorted(content for (content,) in one(url, "SELECT content FROM messages"))
    counts = "SELECT id, message_count FROM sessions EXCEPT SELECT session_id, count(*) FROM messages GROUP BY 1"
    assert one(url, counts) == []


def test_old_code_serves_while_newer_code_migrates(
    servers: Servers, migrated: str, sessions: list[UUID], tmp_path: Path
) -> None:
    newer = {"DATABASE_URL": migrated, **newer_code(tmp_path, ADD_COLUMN, ADD_INDEX, settings=OLD)}
    environment: dict[str, Any] = {"DATABASE_URL": migrated, "DJANGO_SETTINGS_MODULE": OLD, "WEB_CONCURRENCY": "1"}
    with VoiceAssistServer(**environment) as old, VoiceAssistServer(**{**environment, **newer}) as new:
        ports = [old.port]
        with Load(ports, sessions) as load:
            load.goes_on()
            assert pending(new) and not pending(old)
            (tmp_path / "migrate").mkdir()
            with Migrate(tmp_path / "migrate", ADD_COLUMN, ADD_INDEX, url=migrated) as migrate:
                assert migrate.ended() == 0, migrate.stderr.read_text()
            load.goes_on()
            assert not pending(new) and not pending(old)
            ports.append(new.port)
            load.goes_on()
    every_message_is_stored_once(migrated, load)
    assert one(migrated, "SELECT DISTINCT language FROM messages") == [("en",)]
    assert one(migrated, "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('messages_model')") == [
        (True,)
    ]


def test_a_blocked_migration_does_not_block_the_application(
    servers: Servers, migrated: str, sessions: list[UUID], tmp_path: Path
) -> None:
    environment: dict[str, Any] = {"DATABASE_URL": migrated, "DJANGO_SETTINGS_MODULE": OLD, "WEB_CONCURRENCY": "1"}
    with VoiceAssistServer(**environment) as old, Load([old.port], sessions) as load:
        load.goes_on()
        with Migrate(tmp_path, ADD_COLUMN, url=migrated) as migrate:
            with blocker(migrated):
                migrate.wait_for("blocked by")
                began = time.monotonic()
                for number in range(1, 4):
                    migrate.wait_for(f"try {number} of {MAX_TRIES}")
                    load.goes_on()
                blocked_for = time.monotonic() - began
            assert migrate.ended() == 0, migrate.stderr.read_text()
        load.goes_on()
    every_message_is_stored_once(migrated, load)
    assert load.slowest_append < blocked_for
    print(f"{len(load.acknowledged)} appended, the slowest in {load.slowest_append:.2f} s")
    print(f"The migration was blocked for {blocked_for:.1f} s.")
