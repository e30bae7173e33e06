"""Benchmark the search for users with a million of them: `make benchmark-users`, or `--users N`.

One PostgreSQL server has a database with 100 thousand users and one with a million. Pages of the admin are requested in
turn, and their medians compared. Exit code 1 means that a search takes more than 1.5 times as long with a million, or
one with a word that every user has, for which PostgreSQL reads an index entry of every user, 3 times.
"""

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
from uuid_utils.compat import uuid7

from core.demo import vocabulary
from tests.benchmarks.data import Databases, running_databases
from tests.benchmarks.smoke import IS_SMOKE
from tests.benchmarks.table import Table, interleaved_medians

SMALL = 1000 if IS_SMOKE else 100_000
ROUNDS = 15
COLUMNS = "id, created_at, updated_at, password, email, full_name, specialty, is_active, is_staff, is_superuser"
SYLLABLES = "ber mann hof stein arz lind gra ko va mei er ze wolf ra mo del tan kir os we bau".split()  # noqa: SIM905
TITLES = ("", "", "", "Dr. ", "Dr. med. ", "Prof. Dr. med. ")
EVERY_USER = "it, with a word that every user has"
SEARCHES = {
    "a rare family name": "schwarzenberg",
    "the same with a title": "Prof. Dr. Schwarzenberg",
    "a given name and a rare one": "Friederike Schwarz",
    "two letters": "sc",
    "part of an email": "f.schwarz",
    "an email": "f.schwarzenberg@klinikum.example.org",
    "no match": "nobody",
    "the family name of 3 % of the users": "mueller",
    "it, with a given name": "ben müller",
    EVERY_USER: "müller example",
    "a title": "prof",
    "a word that every user has": "example",
}


def rows(count: int) -> Iterator[tuple[Any, ...]]:
    """Yield users with about 100,000 family names, some frequent and most rare, of which 3 % are "Müller"."""
    random = Random(1)
    yield _row(0, "f.schwarzenberg@klinikum.example.org", "Prof. Dr. med. Friederike Freifrau von Schwarzenberg")
    for number in range(1, count):
        family = "".join(SYLLABLES[int(len(SYLLABLES) * random.random() ** 2)] for _ in range(random.choice((2, 3, 4))))
        family = "Müller" if number % 33 == 0 else family.capitalize()
        given = random.choice(vocabulary.GIVEN_NAMES)
        email = f"{given}.{family}.{number}@klinikum-{number % 9}.example.org".lower().replace("ü", "u")
        yield _row(number, email, f"{random.choice(TITLES)}{given} {random.choice(vocabulary.INITIALS)}. {family}")


def _row(number: int, email: str, name: str) -> tuple[Any, ...]:
    time = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    return str(uuid7()), time, time, "!", email, name, "", True, False, False


def fill(url: str, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE users DISABLE TRIGGER audit")  # a user is found with or without an event
        with connection.cursor().copy(f"COPY users ({COLUMNS}) FROM STDIN".encode()) as copy:
            for row in rows(count):
                copy.write_row(row)
        connection.execute("ALTER TABLE users ENABLE ALWAYS TRIGGER audit")
        connection.execute("VACUUM ANALYZE")  # autovacuum would do this eventually


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    options = parser.parse_args()
    with running_databases() as databases:
        for name, users in (("small", SMALL), ("large", options.users)):
            fill(databases.create(name), users)
        return measure(databases, options.users)


def measure(databases: Databases, users: int) -> int:
    from tests.benchmarks.pages import Staff

    large, small = Staff(databases, "large"), Staff(databases, "small")
    print(f"Milliseconds of a page of results with {users:,} and with {SMALL:,} users")
    table = Table()
    for title, term in SEARCHES.items():
        calls = []
        for staff in (large, small):
            databases.choose(staff.name)
            calls.append(staff.page_request(staff.results_of(f"/admin/core/user/?q={term.replace(' ', '+')}")))
        interleaved_medians(*calls, rounds=2)
        large_ms, small_ms = interleaved_medians(*calls, rounds=ROUNDS)
        table.row(f"search for {title}", large_ms, small_ms, 3 if title == EVERY_USER else 1.5, at_most=True)
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
