"""Compare the layout of the tables with alternatives: `python -m tests.benchmarks.layout`.

This module measures keys, indexes and the fill factor, `storage` compression and partitions. docs/DATA_MODEL.md has
the decisions. It starts its own PostgreSQL, which has no lz4. With `--url` it uses that server instead, where it
creates and drops a database named `layout`.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from uuid_utils.compat import uuid7

from tests.benchmarks.data import manage, row_counts, seed
from tests.benchmarks.storage import INDEXES, ROUNDS, Storage, Tables
from tests.support.dependency_servers import Postgres

KEYS = {  # column definition, and whether the database generates the key
    "UUIDv7 by the application": ("uuid", False),
    "UUIDv7 by PostgreSQL 18": ("uuid DEFAULT uuidv7()", True),
    "UUIDv4 by PostgreSQL": ("uuid DEFAULT gen_random_uuid()", True),
    "bigint": ("bigint GENERATED ALWAYS AS IDENTITY", True),
}
TEXT = "x" * 400


class Layout(Tables):
    def keys(self) -> None:
        """COPY rows of 400 bytes, with keys generated here and by the database."""
        rates: dict[str, list[float]] = {kind: [] for kind in KEYS}
        sizes: dict[str, float] = {}
        for _ in range(ROUNDS):
            for kind, (column, is_generated) in KEYS.items():
                self.run(f"DROP TABLE IF EXISTS keyed; CREATE TABLE keyed (id {column} PRIMARY KEY, content text)")
                target = "keyed (content)" if is_generated else "keyed (id, content)"
                started_at = time.perf_counter()
                with self.connection.cursor().copy(f"COPY {target} FROM STDIN".encode()) as copy:
                    for _ in range(self.rows):
                        copy.write_row((TEXT,) if is_generated else (uuid7(), TEXT))
                rates[kind].append(self.rows / (time.perf_counter() - started_at))
                sizes[kind] = self.megabytes("keyed_pkey")
        self.run("DROP TABLE keyed")
        self.print("key", rates, sizes)

    def indexes(self) -> None:
        """Insert all messages into an empty table with all indexes, and without each, to measure the cost of each."""
        without = {"all four": [], **{f"without {name}": [name] for name in INDEXES}, "none": list(INDEXES)}
        rates: dict[str, list[float]] = {kind: [] for kind in without}
        for _ in range(ROUNDS):
            for kind, omitted in without.items():
                self.run("DROP TABLE IF EXISTS filled; CREATE TABLE filled (LIKE messages INCLUDING CONSTRAINTS)")
                for name in set(INDEXES) - set(omitted):
                    self.run(INDEXES[name].format("filled"))
                rates[kind].append(self.rows / self.seconds("INSERT INTO filled SELECT * FROM messages"))
        self.run("DROP TABLE filled")
        self.print("indexes of messages", rates, {f"without {name}": self.megabytes(name) for name in INDEXES})

    def print(self, head: str, rates: dict[str, list[float]], sizes: dict[str, float]) -> None:
        print(f"\n{head:<42} {'rows/s':>10} {'ratio':>6} {'index, MB/million':>18}")
        first = statistics.median(next(iter(rates.values())))
        for kind, values in rates.items():
            rate, size = statistics.median(values), sizes.get(kind)
            size_text = f"{size * 1e6 / self.rows:18.1f}" if size else ""
            print(f"{kind:<42} {rate:10,.0f} {rate / first:6.2f} {size_text}", flush=True)

    def fill_factor(self) -> None:
        """Counting a message updates its session's row. Measure how many updates are HOT at several fill factors."""
        print(f"\n{'sessions, fillfactor':<34} {'updates/s':>10} {'HOT':>9} {'MB before':>10} {'after':>6}")
        for factor in (100, 90, 70):
            self.run(
                "DROP TABLE IF EXISTS counted;"
                f"CREATE TABLE counted (LIKE sessions INCLUDING ALL) WITH (fillfactor = {factor})"
            )
            self.run("INSERT INTO counted SELECT * FROM sessions")
            before = self.megabytes("counted")
            keys = [key for (key,) in self.run("SELECT id FROM counted ORDER BY created_at DESC LIMIT 2000")]
            started_at = time.perf_counter()
            for _ in range(10):
                for key in keys:
                    self.run(
                        "UPDATE counted SET message_count = message_count + 1, updated_at = now() WHERE id = %s", key
                    )
            rate = 10 * len(keys) / (time.perf_counter() - started_at)
            self.run("SELECT pg_stat_force_next_flush()")
            hot = self.run("SELECT n_tup_hot_upd::float / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'counted'")
            print(f"{factor:<34} {rate:10,.0f} {hot[0][0]:9.0%} {before:10.1f} {self.megabytes('counted'):6.1f}")
        self.run("DROP TABLE counted")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url", help="URL of another server, with a role that may create databases")
    parser.add_argument("--only", nargs="*", default=["keys", "indexes", "compression", "partitions", "fill_factor"])
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="voiceassist-layout-"))
    postgres = None if options.url else Postgres(folder / "postgres")
    try:
        if postgres:
            postgres.start()
        server = postgres.url if postgres else options.url
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS layout")
            connection.execute("CREATE DATABASE layout")
        url = server.rpartition("/")[0] + "/layout"
        os.environ["REDIS_URL"] = "redis://127.0.0.1:1"  # never used
        manage("migrate", "--verbosity", "0", url=url)
        seed(url, row_counts(options.rows))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            for kind in (Layout, Storage):
                for name in options.only:
                    if hasattr(kind, name):
                        getattr(kind(connection, options.rows), name)()
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("DROP DATABASE layout")
    finally:
        if postgres:
            postgres.kill()
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
