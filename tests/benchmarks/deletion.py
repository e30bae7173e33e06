"""Time pages of the admin, and appends, while a worker deletes a user with a million messages: `--messages N`.

PostgreSQL, the server and the worker run as in production, on this machine. Prints the times of the same requests
before and during the deletion, how fast it deletes, and what it leaves behind.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.data import DurablePostgres, manage, row_counts, seed
from tests.benchmarks.smoke import IS_SMOKE
from tests.benchmarks.table import Table
from tests.support.dependency_servers import Valkey
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

EMAIL, PASSWORD = "root@example.org", "correct horse battery"
SESSIONS = 10
IDLE_ROUNDS = 2 if IS_SMOKE else 40
TARGET = 3  # times as long as without the deletion, which takes a core of two
PROGRAM = f"""
import django; django.setup()
from core.models import User
User.objects.create_superuser({EMAIL!r}, {PASSWORD!r})
print(User.objects.create_user("large@example.org").pk, User.objects.create_user("small@example.org").pk)
"""
ENQUEUE = """
import django; django.setup()
from core import tasks
print(tasks.delete_user.enqueue("{}").id)
"""
FILL = f"""
INSERT INTO sessions (id, created_at, updated_at, user_id, title, mode, is_archived, context, message_count)
    SELECT gen_random_uuid(), now() - i * interval '1 day', now(), %(user)s, '', 'text', false, '{{}}',
        %(messages)s / {SESSIONS}
    FROM generate_series(1, {SESSIONS}) i;
INSERT INTO messages (id, created_at, updated_at, session_id, role, content, audio_url, model, metadata, contains_phi)
    SELECT gen_random_uuid(), sessions.created_at + i * interval '1 ms', now(), sessions.id, 'user',
        repeat('a word ', 30), '', '', '{{}}', true
    FROM sessions, generate_series(1, %(messages)s / {SESSIONS}) i WHERE user_id = %(user)s;
ANALYZE
"""
SIZES = """
SELECT relname, pg_total_relation_size(relid) / 1048576, n_live_tup, n_dead_tup, autovacuum_count
FROM pg_stat_user_tables WHERE relname IN ('messages', 'audit_events', 'jobs') ORDER BY relname
"""


def python(program: str, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.split()


class Probe:
    """Requests pages as a logged-in superuser."""

    def __init__(self, server: VoiceAssistServer, session: str) -> None:
        self.client = server.log_in(EMAIL, PASSWORD)
        root = "/admin/core"
        self.pages = {
            "messages": f"{root}/message/",
            "sessions": f"{root}/session/",
            "users": f"{root}/user/",
            "audit trail": f"{root}/auditevent/",
            "a session": f"{root}/session/{session}/change/",
        }
        self.times: dict[str, dict[str, list[float]]] = {}

    def request_all(self, phase: str) -> None:
        for title, path in self.pages.items():
            started_at = time.perf_counter()
            response = self.client.get(path)
            assert response.status_code == 200, (path, response.status_code)
            milliseconds = (time.perf_counter() - started_at) * 1000
            self.times.setdefault(title, {}).setdefault(phase, []).append(milliseconds)


def wait_for(database: "psycopg.Connection[Any]", job: str, probe: Probe) -> float:
    """Request pages until the job has ended. Return the seconds since it started."""
    while True:
        probe.request_all("during")
        query = "SELECT status, done, extract(epoch FROM finished_at - started_at) FROM jobs WHERE id = %s"
        status, done, seconds = database.execute(query, [job]).fetchone() or ("", 0, 0)
        print(f"\r{status}: {done:,}", end="", file=sys.stderr, flush=True)
        assert status in ("queued", "running", "succeeded"), status
        if status == "succeeded":
            print(file=sys.stderr)
            return float(seconds)


def measure(messages: int, postgres: DurablePostgres, redis: Valkey) -> bool:
    manage("migrate", "--verbosity", "0", url=postgres.url)
    url = postgres.application_url
    seed(postgres.url, row_counts(messages), quiet=True)
    environment = {**os.environ, "DATABASE_URL": url, "REDIS_URL": redis.url, "LOG_LEVEL": "WARNING"}
    environment["DJANGO_SETTINGS_MODULE"] = "voiceassist.settings"
    large, _ = python(PROGRAM, environment)
    with psycopg.connect(postgres.url, autocommit=True) as database:
        for statement in FILL.split(";\n"):
            database.execute(statement, {"user": large, "messages": messages})
        row = database.execute("SELECT id FROM sessions WHERE user_id <> %s LIMIT 1", [large]).fetchone()
        assert row
        with VoiceAssistServer(DATABASE_URL=url, REDIS_URL=redis.url, ADMIN_MFA="optional") as server:
            probe = Probe(server, str(row[0]))
            for phase in ["warm-up"] * 3 + ["before"] * IDLE_ROUNDS:
                probe.request_all(phase)
            worker = subprocess.Popen([sys.executable, "manage.py", "worker"], cwd=ROOT, env=environment)
            try:
                (job,) = python(ENQUEUE.format(large), environment)
                seconds = wait_for(database, job, probe)
            finally:
                worker.kill()
                worker.wait()
        table = Table()
        for title, times in probe.times.items():
            before, during = times["before"], times["during"]
            table.row(f"{title}, median ms", statistics.median(during), statistics.median(before), TARGET, at_most=True)
            print(f"    slowest: {max(during):.0f} ms, before {max(before):.0f} ms; {len(during)} requests")
        print(f"deleted {messages:,} messages in {seconds:.1f} s: {messages / seconds:,.0f}/s")
        for name, size, live, dead, vacuums in database.execute(SIZES):
            print(f"{name}: {size:,} MiB, {live:,} rows, {dead:,} dead, {vacuums} autovacuums")
    return table.missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="voiceassist-benchmark-"))
    postgres, redis = DurablePostgres(folder / "postgres"), Valkey(folder / "redis")
    try:
        postgres.start()
        redis.start()
        return int(measure(options.messages, postgres, redis))
    finally:
        redis.kill()
        postgres.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
