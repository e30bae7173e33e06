"""Conversations and their admin at ten million messages: `make benchmark-data`, `--messages N` for another number.

One PostgreSQL with a database of 100 thousand messages and one of ten million, both made by seed_demo. What is compared
takes turns, and medians are compared. Exits 1 if a target is missed.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.smoke import IS_SMOKE
from tests.benchmarks.table import Table
from tests.support.dependency_servers import Postgres, Valkey
from voiceassist.embedded.programs import postgres_program

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("users", "sessions", "messages")
SMALL = {"users": 100, "sessions": 20_000, "messages": 100_000}  # so many that a day of sessions fills a page
if IS_SMOKE:
    SMALL = {"users": 20, "sessions": 1000, "messages": 5000}


def numbers(messages: int) -> dict[str, int]:
    return {"users": max(messages // 1000, 1), "sessions": messages // 10, "messages": messages}


def seed(url: str, rows: dict[str, int], *, quiet: bool = False) -> None:
    manage(
        "seed_demo", *(word for name, count in rows.items() for word in (f"--{name}", str(count))), url=url, quiet=quiet
    )


def manage(*words: str, url: str, quiet: bool = False) -> None:
    environment = {**os.environ, "DATABASE_URL": url}
    output = subprocess.DEVNULL if quiet else None
    subprocess.run([sys.executable, "manage.py", *words], cwd=ROOT, env=environment, check=True, stdout=output)


class DurablePostgres(Postgres):
    """The tests' server doesn't wait for its disk. This one does, as everybody's."""

    def command(self) -> list[str]:
        return [*super().command(), "-c", "fsync=on"]


class Databases:
    """Databases of one server. In this process `connection` is that of the one chosen last."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self._connections: dict[str, Any] = {}
        manage("migrate", "--verbosity", "0", url=postgres.url)

    def url(self, name: str) -> str:
        return self.postgres.url.rpartition("/")[0] + f"/{name}"

    def create(self, name: str) -> str:
        """A copy of the empty one. Returns its URL."""
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
        def chosen() -> Any:
            self.choose(name)
            return call()

        return chosen


def seeding(table: Table, databases: Databases, folder: Path, messages: int) -> None:
    """seed_demo from start to end, against psql's COPY of the same rows into the same tables."""

    def psql(url: str, direction: str) -> None:
        copies = [word for name in TABLES for word in ("-c", f"\\copy {name} {direction} '{folder / name}'")]
        subprocess.run([postgres_program("psql"), "-qX", "-v", "ON_ERROR_STOP=1", url, *copies], check=True)

    rows = numbers(messages)
    seed(databases.create("seeded"), rows, quiet=True)
    psql(databases.url("seeded"), "to")
    ways: dict[str, Callable[[str], None]] = {
        "ours": lambda url: seed(url, rows, quiet=True),
        "theirs": lambda url: psql(url, "from"),
    }
    rates: dict[str, list[float]] = {who: [] for who in ways}
    for _ in range(1 if IS_SMOKE else 3):
        for who, call in ways.items():
            url = databases.create(who)
            began = time.perf_counter()
            call(url)
            rates[who].append(sum(rows.values()) / (time.perf_counter() - began))
    ours, theirs = (statistics.median(found) for found in rates.values())
    table.row("seed_demo, rows/s, against psql's COPY of them", ours, theirs, 0.5)
    for name in ("seeded", "ours", "theirs"):
        databases.postgres.execute(f"DROP DATABASE {name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--seeding", type=int, default=500_000, help="messages of the comparison with psql")
    options = parser.parse_args()
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
        from tests.benchmarks import conversations, pages

        table = Table()
        seeding(table, databases, folder, options.seeding)
        for name, rows in (("small", SMALL), ("large", numbers(options.messages))):
            seed(databases.create(name), rows)
            # What autovacuum does in the course of time.
            with psycopg.connect(databases.url(name), autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        conversations.reading(table, databases)
        conversations.appending(table, databases)
        pages.measure(table, databases)
    finally:
        redis.kill()
        postgres.kill()
        shutil.rmtree(folder)
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
