"""Deleting a user with many messages, by worker processes that are killed meanwhile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg

from tests.support.dependency_servers import Valkey
from tests.support.forked_python import ForkedPython, run
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import ROOT, database_with_staff

MESSAGES = 20_000
USER, SESSION, JOB, STAFF = (str(uuid4()) for _ in range(4))
DATA = f"""
INSERT INTO users (id, created_at, updated_at, password, email, full_name, specialty, is_active, is_staff, is_superuser,
        is_emergency, must_change_password)
    VALUES ('{USER}', now(), now(), '', 'ann@example.org', '', '', true, false, false, false, false);
INSERT INTO sessions (id, created_at, updated_at, user_id, title, mode, is_archived, context, message_count)
    VALUES ('{SESSION}', now(), now(), '{USER}', '', 'text', false, '{{}}', {MESSAGES});
INSERT INTO messages (id, created_at, updated_at, session_id, role, content, audio_url, model, metadata, contains_phi)
    SELECT gen_random_uuid(), now() + i * interval '1 ms', now(), '{SESSION}', 'user', 'x', '', '', '{{}}', true
    FROM generate_series(1, {MESSAGES}) i
"""
ENQUEUE = f"""
import django; django.setup()
from core import audit, tasks
with audit.attributed_to(audit.Origin(actor_id="{STAFF}", actor_email="staff@example.org", trace_id="of-the-request")):
    print(tasks.delete_user.enqueue("{USER}").id)
"""
# As if the lease had expired, which takes a minute.
EXPIRE_LEASE = "UPDATE jobs SET leased_until = now(), sent_at = NULL WHERE id = %s AND status = 'running'"


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[ForkedPython]:
    process = ForkedPython(["manage.py", "worker"], cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_killed_workers_delete_every_row_once(servers: Servers, tmp_path: Path) -> None:
    redis = Valkey(tmp_path / "redis")
    redis.start()
    try:
        url = database_with_staff(servers.postgres, "killed_workers", "root@example.org", "a long password")
        run_and_kill({**os.environ, "DATABASE_URL": url, "REDIS_URL": redis.url, "LOG_LEVEL": "WARNING"}, url)
    finally:
        redis.kill()
        servers.postgres.execute("DROP DATABASE IF EXISTS killed_workers WITH (FORCE)")


def run_and_kill(environment: dict[str, str], url: str) -> None:
    with psycopg.connect(url, autocommit=True) as database:
        database.execute(DATA)
        environment["DJANGO_SETTINGS_MODULE"] = "voiceassist.settings"
        job = run(["-c", ENQUEUE], environment).stdout

        def progress() -> tuple[str, int]:
            row = database.execute("SELECT status, done FROM jobs WHERE id = %s", [job.strip()]).fetchone()
            assert row
            return row

        kills, before = 0, 0
        for _ in range(2):
            with worker(environment) as process:
                assert succeeds_within(60, lambda: progress()[1] > before, interval=0.005), progress()  # noqa: B023
                process.kill()
                process.wait(10)
            status, before = progress()
            kills += status == "running"
            database.execute(EXPIRE_LEASE, [job.strip()])
        assert kills, "the job ended before a worker was killed"
        with worker(environment):
            assert succeeds_within(60, lambda: progress()[0] == "succeeded"), progress()
        assert progress()[1] == MESSAGES
        for table in ("messages", "sessions"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        events = database.execute(
            "SELECT \"table\", count(*), count(DISTINCT object_id) FROM audit_events WHERE action = 'delete' "
            "AND actor_id = %s AND actor_email = 'staff@example.org' AND trace_id = 'of-the-request' GROUP BY 1",
            [STAFF],
        ).fetchall()
        assert sorted(events) == [("messages", MESSAGES, MESSAGES), ("sessions", 1, 1), ("users", 1, 1)]
        everything = database.execute("SELECT count(*) FROM audit_events WHERE action = 'delete'").fetchone()
        assert everything == (MESSAGES + 2,)
