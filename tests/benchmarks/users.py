"""Benchmark the search for users with a million of them: `make benchmark-users`, or `--users N`.

One PostgreSQL server has a database with 100 thousand users and one with a million, both filled by seed_demo. Of their
family names each belongs to 4 % of the users. Pages of the admin are requested in turn, and their medians compared.
Exit code 1 means that a search takes more than 1.5 times as long with a million users.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import psycopg

from tests.benchmarks.data import Databases, DurablePostgres, seed
from tests.benchmarks.smoke import IS_SMOKE
from tests.benchmarks.table import Table, interleaved_medians
from tests.support.dependency_servers import Valkey

SMALL = 1000 if IS_SMOKE else 100_000
ROUNDS = 15
RARE = "UPDATE users SET full_name = 'Prof. Dr. med. Friederike von Schwarzenberg' WHERE email LIKE 'ada.alder.0@%'"
SEARCHES = {
    "a rare family name": "schwarzenberg",
    "the same with a title": "Prof. Dr. Schwarzenberg",
    "a name and a rare one": "Friederike Schwarz",
    "two letters": "sc",
    "part of an email": "777",
    "an email": "ada.alder.0@demo1.example.org",
    "no match": "nobody",
    "a family name of 4 %": "dunnock",
    "a given and a family name": "cleo dunnock",
    "a word that every user has": "example",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
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
        for name, users in (("small", SMALL), ("large", options.users)):
            seed(databases.create(name), {"users": users, "sessions": 0, "messages": 0})
            with psycopg.connect(databases.url(name), autocommit=True) as connection:
                connection.execute(RARE)
                connection.execute("VACUUM ANALYZE")  # autovacuum would do this eventually
        return measure(databases, options.users)
    finally:
        redis.kill()
        postgres.kill()
        shutil.rmtree(folder)


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
        table.row(f"search for {title}", large_ms, small_ms, 1.5, at_most=True)
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
