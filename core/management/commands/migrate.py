"""Django's `migrate`, safe to run in any number of processes at once and while the application serves requests.

Processes take turns and all exit 0. A migration that can't get a lock within seconds is rolled back and retried, so
that requests never wait long behind it. The command fails after `MAX_TRIES` tries. In a database with settings that the
application can't work with it fails before it changes anything. At the end it grants the application's role what
`core.database_roles` lists.
"""

import random
import time
from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError, connections, transaction
from psycopg.errors import DeadlockDetected, LockNotAvailable

from core.clients.postgresql.database_settings import find_migration_problem
from core.clients.postgresql.migration_advisory_lock import migration_advisory_lock
from core.clients.postgresql.migration_locks import bounded_connection, reported_blockers
from core.clients.postgresql.owner import connected_as_owner
from core.database_roles import grant_privileges

MAX_TRIES = 20
PAUSE_SECONDS = (2.0, 4.0)  # between tries, in which statements that waited behind the migration can run


class Command(migrate.Command):
    _current: Any = None  # the migration being applied or unapplied

    def handle(self, *args: Any, **options: Any) -> None:
        with connected_as_owner(options["database"]):
            self._migrate(*args, **options)

    def _migrate(self, *args: Any, **options: Any) -> None:
        alias, write = options["database"], self.stderr.write
        with migration_advisory_lock(alias, write) as connection:
            if problem := find_migration_problem(connection):
                raise CommandError(f"Nothing was changed, because this database is unsuitable. {problem}")
            with bounded_connection(alias, write), reported_blockers(alias, write) as blockers:
                for attempt in range(1, MAX_TRIES + 1):
                    try:
                        super().handle(*args, **options)
                        if not (options["plan"] or options["check_unapplied"]):
                            with transaction.atomic(alias), connections[alias].cursor() as cursor:
                                grant_privileges(cursor)
                        break
                    except OperationalError as error:
                        if not isinstance(error.__cause__, LockNotAvailable | DeadlockDetected):
                            raise
                        # Only the first line of PostgreSQL's message, because the others may quote data.
                        self._pause_or_fail(attempt, f"({error.__cause__.diag.message_primary})", blockers)

    def migration_progress_callback(self, action: str, migration: Any = None, fake: bool = False) -> None:
        self._current = migration if action in ("apply_start", "unapply_start") else None
        super().migration_progress_callback(action, migration, fake)

    def _pause_or_fail(self, attempt: int, reason: str, blockers: list[str]) -> None:
        failure = f"{self._current or 'migrate'} could not get a lock {reason}"
        if self._current and not self._current.atomic:
            raise CommandError(
                f"{failure}. It is not retried automatically, because it does not run in a transaction and may be "
                "partly applied. Run migrate again. It drops and recreates an index that was left invalid."
            ) from None
        if attempt == MAX_TRIES:
            last_seen = "\n".join(blockers or ["No single transaction: many short ones use the table."])
            raise CommandError(
                f"{failure} in {MAX_TRIES} tries and was rolled back. Wait for the blocking transactions or end "
                f"them with SELECT pg_terminate_backend(pid), then run migrate again. Last blocked by:\n{last_seen}"
            ) from None
        self.stdout.write("")  # end the line "Applying ..."
        self.stderr.write(f"{failure} and was rolled back (try {attempt} of {MAX_TRIES}). Retrying shortly.")
        time.sleep(random.uniform(*PAUSE_SECONDS))
