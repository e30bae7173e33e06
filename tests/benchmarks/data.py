"""Benchmark conversations and the admin with ten million messages: `make benchmark-data`, or `--messages N`.

One PostgreSQL server has a database with 100 thousand messages and one with ten million, both filled by seed_demo.
Calls are interleaved and their medians compared. Exit code 1 means that a target was missed.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.smoke import IS_SMOKE
from tests.benchmarks.table import Table
from tests.support.dependency_servers import Postgres, Valkey
from voiceassist.embedded.programs import postgres_program

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("users", "sessions", "messages")
SMALL = {"users": 100, "sessions": 20_000, "messages": 100_000}  # enough sessions a day to fill a page
if IS_SMOKE:
    SMALL = {"users": 20, "sessions": 1000, "messages": 5000}


def row_counts(messages: int) -> dict[str, int]:
    return {"users": max(messages // 1000, 1), "sessions": messages // 10, "messages": messages}


def seed(url: str, rows: dict[str, int], *, quiet: bool = False) -> None:
    options = [argument for table, count in rows.items() for argument in (f"--{table}", str(count))]
    manage("seed_demo", *options, url=url, quiet=quiet)


def manage(*arguments: str, url: str, quiet: bool = False) -> None:
    environment = {**os.environ, "DATABASE_URL": url}
    output = subprocess.DEVNULL if quiet else None
    subprocess.run([sys.executable, "manage.py", *arguments], cwd=ROOT, env=environment, check=True, stdout=output)


class DurablePostgres(Postgres):
    """A server with fsync on, as in production. The tests' server has it off."""

    def command(self) -> list[str]:
        return [*super().command(), "-c", "fsync=on"]


class Databases:
    """Databases of one server. `choose` sets the database that Django's `connection` uses in this process."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self._connections: dict[str, Any] = {}
        manage("migrate", "--verbosity", "0", url=postgres.url)

    def url(self, name: str) -> str:
        return self.postgres.url.rpartition("/")[0] + f"/{name}"

    def create(self, name: str) -> str:
        """Create a database from the migrated, empty one. Return its URL."""
        self.postgres.execute(f"DROP DATABASE IF EXISTS {name}")
        self.postgres.execute(f"CREATE DATABASE {name} TEMPLATE tests")
        return self.url(name)

    def choose(self, name: str) -> None:
        from django.db import connections

        if name not in self._connections:
            self._connections[name] = connections["default"].copy()
            self._connections[name].settings_dict["NAME"] = name
        connections["default"] = self._connections[name]

    def on(self, name: str, call: Callable[[], Any]) -> Callable[[], Any]:
        def call_on_database() -> Any:
            self.choose(name)
            return call()

        return call_on_database


def seeding(table: Table, databases: Databases, folder: Path, messages: int) -> None:
    """Compare a complete run of seed_demo with psql's COPY of the same rows into the same tables."""

    def psql(url: str, direction: str) -> None:
        copies = [argument for name in TABLES for argument in ("-c", f"\\copy {name} {direction} '{folder / name}'")]
        subprocess.run([postgres_program("psql"), "-qX", "-v", "ON_ERROR_STOP=1", url, *copies], check=True)

    rows = row_counts(messages)
    seed(databases.create("seeded"), rows, quiet=True)
    psql(databases.url("seeded"), "to")
    methods: dict[str, Callable[[str], None]] = {
        "ours": lambda url: seed(url, rows, quiet=True),
        "theirs": lambda url: psql(url, "from"),
    }
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(1 if IS_SMOKE else 3):
        for name, call in methods.items():
            url = databases.create(name)
            started_at = time.perf_counter()
            call(url)
            rates[name].append(sum(rows.values()) / (time.perf_counter() - started_at))
    ours, theirs = (statistics.median(values) for values in rates.values())
    table.row("seed_demo, rows/s, against psql's COPY of them", ours, theirs, 0.5)
    for name in ("seeded", "ours", "theirs"):
        databases.postgres.execute(f"DROP DATABASE {name}")


@contextmanager
def running_databases() -> Iterator[Databases]:
    """Start the servers, set up Django for them, and remove everything at the end."""
    folder = Path(tempfile.mkdtemp(prefix="voiceassist-benchmark-"))
    postgres, redis = DurablePostgres(folder / "postgres"), Valkey(folder / "redis")
    try:
        postgres.start()
        redis.start()
        os.environ |= {"REDIS_URL": redis.url, "DJANGO_SETTINGS_MODULE": "voiceassist.settings", "LOG_LEVEL": "ERROR"}
        databases = Databases(postgres)
        os.environ["DATABASE_URL"] = postgres.url
        import django

        django.setup()
        yield databases
    finally:
        redis.kill()
        postgres.kill()
        shutil.rmtree(folder)


def fill(databases: Databases, name: str, rows: dict[str, int]) -> None:
    seed(databases.create(name), rows)
    with psycopg.connect(databases.url(name), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")  # autovacuum would do this eventually


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--seeding", type=int, default=500_000, help="number of messages for the comparison with psql")
    options = parser.parse_args()
    with running_databases() as databases:
        from tests.benchmarks import conversations, pages

        table = Table()
        with tempfile.TemporaryDirectory() as folder:
            seeding(table, databases, Path(folder), options.seeding)
        fill(databases, "small", SMALL)
        fill(databases, "large", row_counts(options.messages))
        conversations.reading(table, databases)
        conversations.appending(table, databases)
        pages.measure(table, databases)
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
