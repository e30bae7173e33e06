"""Whether contents are compressed, and whether messages are partitioned by time: see `layout`."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from tests.benchmarks.smoke import IS_SMOKE
from tests.benchmarks.table import taking_turns

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
        began = time.perf_counter()
        self.run(statement)
        return time.perf_counter() - began

    def megabytes(self, relation: str, what: str = "pg_relation_size") -> float:
        return float(self.run(f"SELECT {what}('{relation}') / 1e6")[0][0])


class Storage(Tables):
    def compression(self) -> None:
        """Contents of four lengths. Below 2 kB a row PostgreSQL compresses nothing, whatever it is told."""
        print(
            f"\n{'content':<10} {'compressed by':<14} {'rows/s':>10} {'ratio':>6} {'bytes/row':>10} {'read 50, ms':>12}"
        )
        sentences = [text for (text,) in self.run("SELECT content FROM messages WHERE role = 'assistant' LIMIT 2000")]
        chance = random.Random(1)
        for length in (400, 2500, 8000, 30_000):
            texts = [self._text(sentences, chance, length) for _ in range(500)]
            found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in COMPRESSION}
            for _ in range(ROUNDS):
                for way, measured in found.items():
                    measured.append(self._stored(way, texts))
            first = 0.0
            for way, measured in found.items():
                rate, size, read = (statistics.median(column) for column in zip(*measured, strict=True))
                first = first or rate
                told = f"{rate:10,.0f} {rate / first:6.2f} {size:10,.0f} {read:12.2f}" if rate else "not in this server"
                print(f"{length:<10} {way:<14} {told}", flush=True)
        self.run("DROP TABLE told")

    def _stored(self, way: str, texts: list[str]) -> tuple[float, float, float]:
        """Returns rows a second, bytes a row, and the milliseconds of reading 50 rows; zeros if the server can't."""
        count = min(self.rows, 40_000_000 // len(texts[0]))
        self.run("DROP TABLE IF EXISTS told; CREATE TABLE told (n int PRIMARY KEY, content text)")
        try:
            for change in COMPRESSION[way]:
                self.run(f"ALTER TABLE told ALTER content SET {change}")
        except psycopg.errors.FeatureNotSupported:
            return 0, 0, 0
        began = time.perf_counter()
        with self.connection.cursor().copy("COPY told FROM STDIN") as copy:
            for number in range(count):
                copy.write_row((number, texts[number % len(texts)]))
        rate = count / (time.perf_counter() - began)
        [read] = taking_turns(lambda: self.run("SELECT content FROM told WHERE n BETWEEN 100 AND 149"), rounds=50)
        return rate, self.megabytes("told", "pg_table_size") * 1e6 / count, read

    @staticmethod
    def _text(sentences: list[str], chance: random.Random, length: int) -> str:
        text = ""
        while len(text) < length:
            text += chance.choice(sentences) + f" [{chance.randint(1, 10**6)}]\n"
        return text[:length]

    def partitions(self) -> None:
        """Twelve partitions by month, of the same rows: what knows no time looks into every one."""
        self.run("CREATE TABLE parted (LIKE messages) PARTITION BY RANGE (created_at)")
        for month in range(1, 13):
            upper = f"'2025-{month + 1}-01'" if month < 12 else "MAXVALUE"
            lower = f"'2025-{month}-01'" if month > 1 else "MINVALUE"
            self.run(f"CREATE TABLE parted_{month} PARTITION OF parted FOR VALUES FROM ({lower}) TO ({upper})")
        self.run("CREATE UNIQUE INDEX ON parted (id, created_at)")
        self.run(INDEXES["messages_session_time"].format("parted"))
        self.run(INDEXES["messages_time"].format("parted"))
        self.run("CREATE INDEX ON parted (client_message_id, session_id) WHERE client_message_id IS NOT NULL")
        self.run("INSERT INTO parted SELECT * FROM messages; ANALYZE parted")
        keys = self.run(
            "SELECT id, session_id, client_message_id FROM messages WHERE client_message_id IS NOT NULL LIMIT 200"
        )
        questions = {
            "a message by its id": ("id = %s", 0),
            "a message by the client's id": ("client_message_id = %s", 2),
            "the latest 50 of a session": ("session_id = %s ORDER BY created_at DESC, id DESC LIMIT 50", 1),
            "the latest 50 of all": ("%s IS NOT NULL ORDER BY created_at DESC, id DESC LIMIT 50", 0),
        }
        print(f"\n{'partitioned by month, ms':<34} {'not':>8} {'12 of them':>11} {'ratio':>6}")
        for question, (condition, which) in questions.items():
            calls = [self._asking(table, condition, [key[which] for key in keys]) for table in ("messages", "parted")]
            taking_turns(*calls, rounds=20)
            plain, parted = taking_turns(*calls, rounds=200)
            print(f"{question:<34} {plain:8.3f} {parted:11.3f} {parted / plain:6.2f}")
        self.run("DROP TABLE parted")

    def _asking(self, table: str, condition: str, keys: list[Any]) -> Callable[[], Any]:
        every: Iterator[Any] = (key for _ in range(1000) for key in keys)
        return lambda: self.run(f"SELECT * FROM {table} WHERE {condition}", next(every))
