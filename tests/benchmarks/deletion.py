"""Time pages of the admin while a worker deletes a user with a million messages: `--messages N`.

PostgreSQL, the server and the worker run as in production, on this machine. The worker is stopped for every other round
of requests (SIGSTOP), so that a slow machine affects both. Prints the times with and without the deletion, how fast it
deletes, and what it leaves behind.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.data import DurablePostgres, manage, row_counts, seed
from tests.benchmarks.table import Table
from tests.support.dependency_servers import Valkey
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

EMAIL, PASSWORD = "root@example.org", "correct horse battery"
SESSIONS = 10
TARGET = 2  # times as long as without the deletion, which uses one of two cores
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


def request_until_done(
    database: "psycopg.Connection[Any]", job: str, probe: Probe, worker: "subprocess.Popen[bytes]"
) -> float:
    """Request pages with and without the worker in turns until the job has ended. Return the seconds that it ran."""
    running = 0.0
    while True:
        started_at = time.monotonic()
        probe.request_all("during")
        status, done = database.execute("SELECT status, done FROM jobs WHERE id = %s", [job]).fetchone() or ("", 0)
        assert status in ("queued", "running", "succeeded"), status
        if done:
            running += time.monotonic() - started_at
        if status == "succeeded":
            probe.request_all("without")  # also if the job was faster than the first requests
            return running
        worker.send_signal(signal.SIGSTOP)
        time.sleep(1)  # PostgreSQL finishes the statement
        probe.request_all("without")
        worker.send_signal(signal.SIGCONT)


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
            for _ in range(5):
                probe.request_all("warm-up")
            worker = subprocess.Popen([sys.executable, "manage.py", "worker"], cwd=ROOT, env=environment)
            try:
                (job,) = python(ENQUEUE.format(large), environment)
                seconds = request_until_done(database, job, probe, worker)
            finally:
                worker.kill()
                worker.wait()
        table = Table()
        for title, times in probe.times.items():
            without, during = times["without"], times["during"]
            medians = statistics.median(during), statistics.median(without)
            table.row(f"{title}, ms, against without", *medians, TARGET, at_most=True)
            slowest = [sorted(values)[int(0.95 * len(values))] for values in (during, without)]
            print(f"    95 % are faster than {slowest[0]:.0f} ms, without {slowest[1]:.0f} ms; {len(during)} requests")
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
