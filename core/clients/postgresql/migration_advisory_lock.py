"""The advisory lock that lets only one `manage.py migrate` run at a time."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connections

# Unique to this lock: the first eight bytes of SHA-256 of "voiceassist migrate", as a signed integer.
LOCK_ID = -905751056965657740
# The transaction that holds the lock is idle while the migrations run, so these timeouts would end it.
_NO_TIMEOUTS = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""


@contextmanager
def migration_advisory_lock(alias: str, write: Callable[[str], object]) -> "Iterator[psycopg.Connection[Any]]":
    """Hold the advisory lock on a separate connection, and yield that connection.

    PostgreSQL releases the lock when its holder disconnects, even if the holder was killed. We poll for the lock,
    because a session that waits inside PostgreSQL holds a snapshot, and `CREATE INDEX CONCURRENTLY` in the holder's
    migration would wait for that snapshot: a deadlock. For the same reason, nothing may query on this connection while
    migrations run. The lock belongs to a transaction, because PgBouncer in
    transaction mode would leave a session's lock on a connection that it then gives to another client.
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
    # READ COMMITTED, because an idle transaction then holds no snapshot. Django, in autocommit mode, sends no BEGIN.
    cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK_ID])
    is_acquired: bool = cursor.fetchone()[0]
    if not is_acquired:
        cursor.execute("ROLLBACK")
    return is_acquired
