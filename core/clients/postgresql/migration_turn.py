"""The advisory lock that makes any number of `manage.py migrate` take turns."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connections

# Any number that nothing else locks: the first eight bytes of SHA-256 of "voiceassist migrate", as a signed integer.
LOCK = -905751056965657740
# The transaction that holds the lock is idle for as long as the migrations take.
_NO_TIMEOUTS = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""


@contextmanager
def migration_turn(alias: str, write: Callable[[str], object]) -> "Iterator[psycopg.Connection[Any]]":
    """Hold the advisory lock on a connection of its own, and yield that connection.

    PostgreSQL releases the lock when its holder ends, even if it was killed. It is polled because a session that waits
    for a lock in PostgreSQL holds a snapshot, and `CREATE INDEX CONCURRENTLY` in the holder's migration would wait for
    that snapshot, which is a deadlock. It belongs to a transaction, not to a session, because PgBouncer in transaction
    mode would leave a session's lock on a connection that another client gets next.
    """
    connection = connections[alias].copy()
    try:
        with connection.cursor() as cursor:
            has_reported = False
            while not _try_lock(cursor):
                if not has_reported:
                    write("Another migrate is running; waiting for it to finish.")
                    has_reported = True
                time.sleep(random.uniform(0.3, 0.6))
            cursor.execute(_NO_TIMEOUTS)
            yield connection.connection
    finally:
        connection.close()


def _try_lock(cursor: Any) -> bool:
    # At this isolation level an idle transaction holds no snapshot. Django is in autocommit mode and sends no BEGIN.
    cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
    is_locked: bool = cursor.fetchone()[0]
    if not is_locked:
        cursor.execute("ROLLBACK")
    return is_locked
