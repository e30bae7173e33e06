"""Django's `migrate`, safe to start from any number of processes and while the application serves requests.

Processes take turns and all exit 0. A migration that does not get a lock soon is rolled back and tried again, so that
the application never waits long for it. After `MAX_TRIES` tries the command fails.
"""

import random
import time
from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError
from psycopg.errors import DeadlockDetected, LockNotAvailable

from core.clients.postgresql.migration_advisory_lock import migration_advisory_lock
from core.clients.postgresql.migration_locks import bounded_connection, reported_blockers

MAX_TRIES = 20
PAUSE = (2.0, 4.0)  # seconds, in which everything that waited behind the migration goes on


class Command(migrate.Command):
    _current: Any = None  # the migration that is being applied or unapplied

    def handle(self, *args: Any, **options: Any) -> None:
        alias, write = options["database"], self.stderr.write
        with (
            migration_advisory_lock(alias, write) as connection,
            bounded_connection(alias, write),
            reported_blockers(connection, write) as blockers,
        ):
            for number in range(1, MAX_TRIES + 1):
                try:
                    super().handle(*args, **options)
                    break
                except OperationalError as error:
                    if not isinstance(error.__cause__, LockNotAvailable | DeadlockDetected):
                        raise
                    # Only the first line of PostgreSQL's message, because the others may quote data.
                    self._pause_or_give_up(number, f"({error.__cause__.diag.message_primary})", blockers)

    def migration_progress_callback(self, action: str, migration: Any = None, fake: bool = False) -> None:
        self._current = migration if action in ("apply_start", "unapply_start") else None
        super().migration_progress_callback(action, migration, fake)

    def _pause_or_give_up(self, number: int, reason: str, blockers: list[str]) -> None:
        what = f"{self._current or 'migrate'} could not get a lock {reason}"
        if self._current and not self._current.atomic:
            raise CommandError(
                f"{what}. It is not retried automatically, because it does not run in a transaction and part of it may "
                "be done. Run migrate again: an index that was left invalid is dropped and created again."
            ) from None
        if number == MAX_TRIES:
            last_seen = "\n".join(blockers or ["Nothing blocked it for long: many short transactions use the table."])
            raise CommandError(
                f"{what} in {MAX_TRIES} tries and was rolled back. Wait until what blocks it has ended, or end it with "
                f"SELECT pg_terminate_backend(pid), then run migrate again. Blocked last by:\n{last_seen}"
            ) from None
        self.stdout.write("")  # ends the line "Applying ..."
        self.stderr.write(f"{what} and was rolled back (try {number} of {MAX_TRIES}). It will be tried again shortly.")
        time.sleep(random.uniform(*PAUSE))
