"""Compare methods of compression, and messages with and without partitions by time. `layout` runs this."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from tests.benchmarks.smoke import IS_SMOKE
from tests.benchmarks.table import interleaved_medians

INDEXES = {
    "messages_pkey": "CREATE UNIQUE INDEX ON {} (id)",
    "messages_session_time": "CREATE INDEX ON {} (session_id, created_at, id)",
    "messages_time": "CREATE INDEX ON {} (created_at, id)",
    "messages_client_message_id_once": "CREATE UNIQUE INDEX ON {} (client_message_id, session_id)"
    " WHERE client_message_id IS NOT NULL",
}
COMPRESSION = {
    "none": ["STORAGE EXTERNAL"],
    "pglz": ["COMPRESSION pglz"],
    "lz4": ["COMPRESSION lz4"],
}
ROUNDS = 1 if IS_SMOKE else 3
Rows = list[tuple[Any, ...]]


class Tables:
    def __init__(self, connection: "psycopg.Connection[Any]", rows: int) -> None:
        self.connection, self.rows = connection, rows

    def run(self, statement: str, *values: Any) -> Rows:
        cursor = self.connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def seconds(self, statement: str) -> float:
        started_at = time.perf_counter()
        self.run(statement)
        return time.perf_counter() - started_at

    def megabytes(self, relation: str, size_function: str = "pg_relation_size") -> float:
        return float(self.run(f"SELECT {size_function}('{relation}') / 1e6")[0][0])


class Storage(Tables):
    def compression(self) -> None:
        """Store contents of four lengths. PostgreSQL never compresses rows below 2 kB."""
        print(
            f"\n{'content':<10} {'compressed by':<14} {'rows/s':>10} {'ratio':>6} {'bytes/row':>10} {'read 50, ms':>12}"
        )
        sentences = [text for (text,) in self.run("SELECT content FROM messages WHERE role = 'assistant' LIMIT 2000")]
        rng = random.Random(1)
        for length in (400, 2500, 8000, 30_000):
            texts = [self._text(sentences, rng, length) for _ in range(500)]
            results: dict[str, list[tuple[float, float, float]]] = {method: [] for method in COMPRESSION}
            for _ in range(ROUNDS):
                for method, measurements in results.items():
                    measurements.append(self._measure(method, texts))
            first = 0.0
            for method, measurements in results.items():
                rate, size, read = (statistics.median(column) for column in zip(*measurements, strict=True))
                first = first or rate
                text = f"{rate:10,.0f} {rate / first:6.2f} {size:10,.0f} {read:12.2f}" if rate else "not in this server"
                print(f"{length:<10} {method:<14} {text}", flush=True)
        self.run("DROP TABLE compressed")

    def _measure(self, method: str, texts: list[str]) -> tuple[float, float, float]:
        """Return rows per second, bytes per row, and the milliseconds to read 50 rows. Return zeros if unsupported."""
        count = min(self.rows, 40_000_000 // len(texts[0]))
        self.run("DROP TABLE IF EXISTS compressed; CREATE TABLE compressed (n int PRIMARY KEY, content text)")
        try:
            for setting in COMPRESSION[method]:
                self.run(f"ALTER TABLE compressed ALTER content SET {setting}")
        except psycopg.errors.FeatureNotSupported:
            return 0, 0, 0
        started_at = time.perf_counter()
        with self.connection.cursor().copy("COPY compressed FROM STDIN") as copy:
            for number in range(count):
                copy.write_row((number, texts[number % len(texts)]))
        rate = count / (time.perf_counter() - started_at)
        [read] = interleaved_medians(
            lambda: self.run("SELECT content FROM compressed WHERE n BETWEEN 100 AND 149"), rounds=50
        )
        return rate, self.megabytes("compressed", "pg_table_size") * 1e6 / count, read

    @staticmethod
    def _text(sentences: list[str], rng: random.Random, length: int) -> str:
        text = ""
        while len(text) < length:
            text += rng.choice(sentences) + f" [{rng.randint(1, 10**6)}]\n"
        return text[:length]

    def partitions(self) -> None:
        """Compare with twelve monthly partitions. A query without a time has to search all of them."""
        self.run("CREATE TABLE partitioned (LIKE messages) PARTITION BY RANGE (created_at)")
        for month in range(1, 13):
            upper = f"'2025-{month + 1}-01'" if month < 12 else "MAXVALUE"
            lower = f"'2025-{month}-01'" if month > 1 else "MINVALUE"
            self.run(
                f"CREATE TABLE partitioned_{month} PARTITION OF partitioned FOR VALUES FROM ({lower}) TO ({upper})"
            )
        self.run("CREATE UNIQUE INDEX ON partitioned (id, created_at)")
        self.run(INDEXES["messages_session_time"].format("partitioned"))
        self.run(INDEXES["messages_time"].format("partitioned"))
        self.run("CREATE INDEX ON partitioned (client_message_id, session_id) WHERE client_message_id IS NOT NULL")
        self.run("INSERT INTO partitioned SELECT * FROM messages; ANALYZE partitioned")
        keys = self.run(
            "SELECT id, session_id, client_message_id FROM messages WHERE client_message_id IS NOT NULL LIMIT 200"
        )
        queries = {
            "a message by its id": ("id = %s", 0),
            "a message by the client's id": ("client_message_id = %s", 2),
            "the latest 50 of a session": ("session_id = %s ORDER BY created_at DESC, id DESC LIMIT 50", 1),
            "the latest 50 of all": ("%s IS NOT NULL ORDER BY created_at DESC, id DESC LIMIT 50", 0),
        }
        print(f"\n{'partitioned by month, ms':<34} {'not':>8} {'12 of them':>11} {'ratio':>6}")
        for query, (condition, position) in queries.items():
            calls = [
                self._make_query(table, condition, [key[position] for key in keys])
                for table in ("messages", "partitioned")
            ]
            interleaved_medians(*calls, rounds=20)
            plain, partitioned = interleaved_medians(*calls, rounds=200)
            print(f"{query:<34} {plain:8.3f} {partitioned:11.3f} {partitioned / plain:6.2f}")
        self.run("DROP TABLE partitioned")

    def _make_query(self, table: str, condition: str, keys: list[Any]) -> Callable[[], Any]:
        keys_in_turn: Iterator[Any] = (key for _ in range(1000) for key in keys)
        return lambda: self.run(f"SELECT * FROM {table} WHERE {condition}", next(keys_in_turn))
