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


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        with self._turn(options["database"]):
            super().handle(*args, **options)

    @contextmanager
    def _turn(self, alias: str) -> Iterator[None]:
        """Holds an advisory lock of PostgreSQL on a connection of its own; it ends with its holder, even a killed one.

        It is tried again and again rather than waited for: a session that waits in PostgreSQL holds a snapshot, and
        `CREATE INDEX CONCURRENTLY` in the holder's migration would wait for that, a deadlock.
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
                yield
        finally:
            connection.close()

    @staticmethod
    def _taken(cursor: Any) -> bool:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
        return bool(cursor.fetchone()[0])
