"""Conversations and their admin at ten million messages: `make benchmark-data`, `--messages N` for another number.

One PostgreSQL with a database of 100 thousand messages and one of ten million, both made by seed_demo. What is compared
takes turns, and medians are compared. Exits 1 if a target is missed.
"""

import argparse
import itertools
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

from tests.benchmarks.table import Table, taking_turns
from tests.servers import Postgres, Valkey
from voiceassist.embedded.programs import postgres_program

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("users", "sessions", "messages")
SMALL = {"users": 100, "sessions": 20_000, "messages": 100_000}  # so many that a day of sessions fills a page
DEEP = 1000  # pages


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
    for _ in range(3):
        for who, call in ways.items():
            url = databases.create(who)
            began = time.perf_counter()
            call(url)
            rates[who].append(sum(rows.values()) / (time.perf_counter() - began))
    ours, theirs = (statistics.median(found) for found in rates.values())
    table.row("seed_demo, rows/s, against psql's COPY of them", ours, theirs, 0.5)
    for name in ("seeded", "ours", "theirs"):
        databases.postgres.execute(f"DROP DATABASE {name}")


def appending(table: Table, databases: Databases) -> None:
    """append_message, against the statement that it sends by psycopg as its documentation has it: execute, commit."""
    from django.db import connection
    from uuid_utils.compat import uuid7

    from core.conversations import append_message
    from core.models import Message, Session

    databases.choose("large")
    turns = itertools.cycle(Session.objects.filter(ended_at=None).values_list("pk", flat=True)[:100])
    content = "Bed 7: swollen ankles since 8:30. What did we do the last time? " * 2
    sent: list[tuple[str, Any]] = []

    def ours() -> None:
        append_message(next(turns), role="user", content=content, client_message_id=str(uuid7()))

    def listen(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        sent.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(listen):
        ours()
    [(statement, (_, *values))] = sent
    fields = [field for field in Message._meta.concrete_fields if field.name not in ("created_at", "updated_at")]
    same = {field.attname: value for field, value in zip(fields, values, strict=True)}

    with psycopg.connect(databases.url("large")) as plain:

        def theirs() -> None:
            session = next(turns)
            row = same | {"id": uuid7(), "session_id": session, "client_message_id": str(uuid7())}
            cursor = plain.execute(statement, [session, *row.values()])
            assert cursor.fetchone()
            plain.commit()

        for what, commit in (("", "on"), (", the disk not waited for", "off")):
            for own in (connection.cursor(), plain):
                own.execute(f"SET synchronous_commit = {commit}")
            plain.commit()
            taking_turns(ours, theirs, rounds=20)
            mine, other = taking_turns(ours, theirs, rounds=1000)
            table.row(f"append a message{what}, /s, against the same SQL by psycopg", 1000 / mine, 1000 / other, 0.6)


def reading(table: Table, databases: Databases) -> None:
    from core.conversations import read_messages
    from core.models import Session

    def latest(name: str, longest: bool) -> Callable[[], Any]:
        databases.choose(name)
        order = "-message_count" if longest else "pk"
        enough = Session.objects.filter(message_count__gt=50).order_by(order).values_list("pk", flat=True)
        keys = itertools.cycle(list(enough[: 1 if longest else 50]))
        return databases.on(name, lambda: read_messages(next(keys)))

    for longest, of in ((False, "of sessions"), (True, "of the longest session")):
        calls = latest("large", longest), latest("small", longest)
        taking_turns(*calls, rounds=60)
        large, small = taking_turns(*calls, rounds=500)
        table.row(f"latest 50 messages {of}, ms, against 100 thousand", large, small, 1.2, at_most=True)

    databases.choose("large")
    session = Session.objects.order_by("-message_count")[0]
    depth, cursor = min(DEEP, session.message_count // 50 - 1), None
    for _ in range(depth - 1):
        cursor = read_messages(session.pk, cursor=cursor).next_cursor
    assert len(read_messages(session.pk, cursor=cursor).messages) == 50
    deep, first = taking_turns(
        lambda: read_messages(session.pk, cursor=cursor), lambda: read_messages(session.pk), rounds=500
    )
    table.row(f"page {depth:,} of a session, ms, against page 1", deep, first, 1.2, at_most=True)


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
        from tests.benchmarks import pages

        table = Table()
        seeding(table, databases, folder, options.seeding)
        for name, rows in (("small", SMALL), ("large", numbers(options.messages))):
            seed(databases.create(name), rows)
            # What autovacuum does in the course of time.
            with psycopg.connect(databases.url(name), autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        reading(table, databases)
        appending(table, databases)
        pages.measure(table, databases)
    finally:
        redis.kill()
        postgres.kill()
        shutil.rmtree(folder)
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
