"""Measure background jobs: throughput, latency, memory, and what an idle worker costs.

The throughput is compared with plain Dramatiq, which has no record of jobs, so the ratio is the price of PostgreSQL as
the record. Both run an empty task in four threads of one process, with the same Valkey.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.benchmarks.smoke import IS_SMOKE
from tests.support.databases import migrated_database
from tests.support.dependency_servers import Postgres, Valkey, as_application
from tests.support.forked_python import ROOT
from tests.support.jobs.worker import Worker
from tests.support.polling import succeeds_within

JOBS = 50 if IS_SMOKE else 10_000
LATENCIES = 3 if IS_SMOKE else 100
IDLE_SECONDS = 1 if IS_SMOKE else 30
_INSERT = """
    INSERT INTO jobs (id, created_at, updated_at, task, arguments, is_scheduled, status, run_after, attempts, done,
        result, error, actor_email, trace_id, reason)
    SELECT gen_random_uuid(), clock_timestamp(), now(), 'tests.support.jobs.tasks.sleep', '{"milliseconds": 0}', false,
        'queued', now(), 0, 0, '{}', '', '', '', '' FROM generate_series(1, %s)
"""
PRODUCTION = {"core.jobs.worker._INTERVAL": 5.0, "core.jobs.schedule.SCHEDULE": "unchanged"}


class Setup:
    def __init__(self, folder: Path) -> None:
        self.postgres, self.redis = Postgres(folder / "postgres"), Valkey(folder / "redis")
        self.postgres.start()
        self.redis.start()
        self.environment: dict[str, Any] = {
            "DATABASE_URL": as_application(migrated_database(self.postgres, "jobs")),
            "REDIS_URL": self.redis.url,
        }

    def stop(self) -> None:
        self.postgres.kill()
        self.redis.kill()

    def sql(self, statement: str, *values: Any) -> Any:
        url = self.postgres.url.replace("/tests", "/jobs")
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchone() if cursor.description else None

    def redis_commands(self) -> int:
        lines = self.redis.send_command("INFO stats").decode().splitlines()
        return next(int(line.partition(":")[2]) for line in lines if line.startswith("total_commands_processed"))

    def has_ended(self) -> bool:
        query = "SELECT count(*) FROM jobs WHERE status IN ('queued', 'running') AND NOT is_scheduled"
        return bool(self.sql(query) == (0,))


def throughput(setup: Setup) -> float:
    """Return jobs per second of one worker, and print how its memory grew."""
    constants = {"core.jobs.queue._SEND_AGAIN": 60}
    with Worker(
        constants=constants, python=sys.executable, LOG_LEVEL="WARNING", wait=False, **setup.environment
    ) as worker:
        process = psutil.Process(worker.process.pid)
        memory: list[float] = []
        for number in (JOBS // 10, JOBS):  # the first ones load all modules
            setup.sql(_INSERT, number)
            assert succeeds_within(600, setup.has_ended, interval=0.5)
            memory.append(process.memory_info().rss / 2**20)
    (seconds,) = setup.sql(
        "SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM"
        " (SELECT * FROM jobs ORDER BY created_at DESC LIMIT %s) AS last", JOBS
    )  # fmt: skip
    print(f"memory of the worker: {memory[0]:.0f} MiB, after {JOBS:,} more jobs {memory[1]:.0f} MiB")
    return JOBS / float(seconds)


def plain_throughput(setup: Setup) -> float:
    """Return messages per second of plain Dramatiq."""
    command = [sys.executable, "-m", "tests.benchmarks.jobs", "--plain", setup.redis.url]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def run_plain(url: str) -> float:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker: Any = RedisBroker(url=url)  # type: ignore[no-untyped-call]
    ended = []

    @dramatiq.actor(broker=broker)
    def empty(number: int) -> None:
        ended.append(number)

    for number in range(JOBS):
        empty.send(number)
    worker = dramatiq.Worker(broker, worker_threads=4)
    started_at = time.monotonic()
    worker.start()
    assert succeeds_within(600, lambda: len(ended) == JOBS, interval=0.01)
    seconds = time.monotonic() - started_at
    worker.stop()
    return JOBS / seconds


def idle_and_latency(setup: Setup) -> None:
    setup.sql("DELETE FROM jobs")
    with Worker(constants=PRODUCTION, python=sys.executable, **setup.environment) as worker:
        process = psutil.Process(worker.process.pid)
        time.sleep(IDLE_SECONDS / 3)
        cpu, commands, transactions = process.cpu_times(), setup.redis_commands(), _transactions(setup)
        time.sleep(IDLE_SECONDS)
        after = process.cpu_times()
        used = after.user + after.system - cpu.user - cpu.system
        print(
            f"idle worker: {used / IDLE_SECONDS:.2%} of a CPU, "
            f"{(setup.redis_commands() - commands) / IDLE_SECONDS:.1f} Redis commands and "
            f"{(_transactions(setup) - transactions) / IDLE_SECONDS:.1f} PostgreSQL transactions per second, "
            f"{process.memory_info().rss / 2**20:.0f} MiB, {len(process.threads())} threads"
        )
        _enqueue_with_pauses(setup)
        assert succeeds_within(120, setup.has_ended)
    url = setup.postgres.url.replace("/tests", "/jobs")
    with psycopg.connect(url) as connection:
        query = "SELECT started_at - created_at FROM jobs WHERE NOT is_scheduled"
        delays: list[timedelta] = [row[0] for row in connection.execute(query)]
    seconds = sorted(delay.total_seconds() for delay in delays)
    print(f"from enqueue to start, idle worker: median {statistics.median(seconds):.2f} s, slowest {seconds[-1]:.2f} s")


def _transactions(setup: Setup) -> int:
    return int(setup.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = 'jobs'")[0])


def _enqueue_with_pauses(setup: Setup) -> None:
    """Enqueue jobs with pauses in which the worker becomes idle, and print how long `enqueue` takes."""
    program = (
        "import django, statistics, time; django.setup()\n"
        "from tests.support.jobs.tasks import sleep\n"
        "seconds = []\n"
        f"for number in range({LATENCIES}):\n"
        "    time.sleep(1.5 + number % 7 / 10)\n"
        "    started_at = time.monotonic()\n"
        "    sleep.enqueue(0)\n"
        "    seconds.append(time.monotonic() - started_at)\n"
        "print(f'enqueue: median {statistics.median(seconds) * 1000:.1f} ms')"
    )
    settings = {"DJANGO_SETTINGS_MODULE": "tests.support.jobs.settings"}
    environment = {**psutil.Process().environ(), **setup.environment, **settings}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", metavar="URL", help="internal: measure plain Dramatiq")
    url = parser.parse_args().plain
    if url:
        print(run_plain(url))
        return
    with tempfile.TemporaryDirectory(prefix="voiceassist-jobs-") as folder:
        setup = Setup(Path(folder))
        try:
            jobs, plain = throughput(setup), plain_throughput(setup)
            print(f"jobs per second: {jobs:,.0f}; plain Dramatiq without a record: {plain:,.0f}, {plain / jobs:.1f} ×")
            idle_and_latency(setup)
        finally:
            setup.stop()


if __name__ == "__main__":
    main()
