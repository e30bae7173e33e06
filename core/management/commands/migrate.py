"""Django's `migrate`, safe to start from any number of processes at once: they take turns, and all exit 0."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.commands import migrate
from django.db import connections

# Any number that nobody else locks: the first eight bytes of SHA-256 of "voiceassist migrate", as a signed integer.
LOCK = -905751056965657740
# The transaction that holds the lock is idle for as long as the migrations take.
_NO_TIMEOUTS = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        with self._turn(options["database"]):
            super().handle(*args, **options)

    @contextmanager
    def _turn(self, alias: str) -> Iterator[None]:
        """Holds an advisory lock of PostgreSQL on a connection of its own; it ends with its holder, even a killed one.

        It is tried again and again rather than waited for: a session that waits in PostgreSQL holds a snapshot, and
        `CREATE INDEX CONCURRENTLY` in the holder's migration would wait for that, a deadlock. It is a transaction's,
        not a session's: PgBouncer keeps one connection to PostgreSQL for as long as a transaction is open, and else
        would leave the lock with a connection that the next client gets.
        """
        connection = connections[alias].copy()
        try:
            with connection.cursor() as cursor:
                told = False
                while not self._taken(cursor):
                    if not told:
                        self.stderr.write("Another migrate is running: waiting for its end.")
                        told = True
                    time.sleep(random.uniform(0.3, 0.6))
                cursor.execute(_NO_TIMEOUTS)
                yield
        finally:
            connection.close()

    @staticmethod
    def _taken(cursor: Any) -> bool:
        # At this level an idle transaction holds no snapshot. Django itself leaves the beginning to us: autocommit.
        cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
        taken: bool = cursor.fetchone()[0]
        if not taken:
            cursor.execute("ROLLBACK")
        return taken
