"""Bound how long `manage.py migrate` waits for locks, and report what blocks it.

A statement that waits for an ACCESS EXCLUSIVE lock makes every later reader and writer of that table wait behind it.
So each transaction of a migration waits at most `LOCK_TIMEOUT` for a lock, and the command retries after a pause.

    bounded_connection   replaces a connection by one that sets these limits in every transaction
    reported_blockers    reports, from another connection, which transactions block the first one

django-pg-zero-downtime-migrations is not used because its database backend would have to replace
`core.clients.postgresql`, and it neither retries nor reports what blocks a migration.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any

import psycopg
from django.db import connections, transaction
from psycopg.pq import TransactionStatus

Write = Callable[[str], object]

# Longer than PostgreSQL's deadlock_timeout (1 s by default), after which a waiting statement cancels an autovacuum.
LOCK_TIMEOUT = "2s"
APPLICATION_NAME = "voiceassist migrate"
_POLL_INTERVAL = 0.5  # seconds
# These settings end with the transaction. `SET` without LOCAL would stay on a connection that PgBouncer, in transaction
# mode, gives to another client next. transaction_timeout exists from PostgreSQL 17 on.
_SET_LIMITS = f"""
    SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '{LOCK_TIMEOUT}' ELSE '0' END, true)
    FROM pg_settings WHERE name IN
    ('lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
# For what runs in no transaction. The last one ends a statement whose client was killed: otherwise PostgreSQL goes on
# with it, and may complete an index that no migration records.
_STARTUP_OPTIONS = "-c lock_timeout=0 -c statement_timeout=0 -c client_connection_check_interval=2s"
# PostgreSQL refuses these inside a transaction. They block neither readers nor writers while they wait.
_NO_TRANSACTION = re.compile(r"\bCONCURRENTLY\b|^\s*VACUUM\b", re.IGNORECASE)
_CREATE_INDEX = re.compile(
    r'^\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?("[^"]+"|\w+)', re.IGNORECASE
)
# Only what an operator needs to find the blocker. The text of its query may be PHI.
_BLOCKERS = f"""
    WITH waiting AS MATERIALIZED (
        SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND starts_with(application_name, '{APPLICATION_NAME}') AND wait_event_type = 'Lock'
    )
    SELECT DISTINCT blocking.pid, blocker.application_name, blocker.usename, blocker.state, blocker.xact_start,
        wanted.mode, coalesce(wanted.relation::regclass::text, wanted.locktype)
    FROM waiting
    JOIN pg_locks AS wanted ON wanted.pid = waiting.pid AND NOT wanted.granted
    CROSS JOIN unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
    LEFT JOIN pg_stat_activity AS blocker ON blocker.pid = blocking.pid
    ORDER BY blocking.pid
"""


@contextmanager
def bounded_connection(alias: str, write: Write) -> Iterator[None]:
    """Replace the connection `alias` by one whose statements wait at most `LOCK_TIMEOUT` for a lock.

    The timeouts that the application's connections start with, and those of the role, do not apply to it, because a
    migration may be long, and `CREATE INDEX CONCURRENTLY` has to wait for every transaction that is open. PgBouncer
    has to ignore the startup parameter `options`.
    """
    original = connections[alias]
    bounded = original.copy()
    options = bounded.settings_dict["OPTIONS"]
    options["application_name"] = APPLICATION_NAME
    options["options"] = f"{options.get('options', '')} {_STARTUP_OPTIONS}".strip()

    def limit(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        connection = context["connection"]
        if connection.in_atomic_block:
            if connection.connection.info.transaction_status == TransactionStatus.IDLE:  # its first statement
                execute(_SET_LIMITS, None, False, context)
            return execute(sql, params, many, context)
        if _NO_TRANSACTION.search(str(sql)):
            _drop_invalid_index(execute, str(sql), context, write)
            return execute(sql, params, many, context)
        with transaction.atomic(connection.alias):
            execute(_SET_LIMITS, None, False, context)
            return execute(sql, params, many, context)

    connections[alias] = bounded
    try:
        with bounded.execute_wrapper(limit):
            yield
    finally:
        bounded.close()
        connections[alias] = original


def _drop_invalid_index(execute: Any, sql: str, context: dict[str, Any], write: Write) -> None:
    """Drop what an interrupted `CREATE INDEX CONCURRENTLY` has left, because the same statement would fail again.

    With IF NOT EXISTS it would succeed and leave the index invalid, which is worse.
    """
    if not (created := _CREATE_INDEX.match(sql)):
        return
    name = created[1]
    invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid"
    execute(invalid, [name], False, context)
    if context["cursor"].cursor.fetchone():
        write(f"Dropping the index {name}, which an interrupted migration left invalid. It is created again.")
        execute(f"DROP INDEX CONCURRENTLY {name}", None, False, context)


@contextmanager
def reported_blockers(connection: "psycopg.Connection[Any]", write: Write) -> Iterator[list[str]]:
    """Write what blocks a bounded connection, whenever that changes. Yield a list of what was written last.

    `connection` is another connection to the same database, which nothing else uses meanwhile.
    """
    stop = threading.Event()
    last: list[str] = []

    def watch() -> None:
        while not stop.wait(_POLL_INTERVAL):
            blockers = _blockers(connection)
            if blockers and blockers != last:
                last[:] = blockers
                write("\n".join(blockers))

    thread = threading.Thread(target=watch, name="migrate-blockers", daemon=True)
    thread.start()
    try:
        yield last
    finally:
        stop.set()
        thread.join()


def _blockers(connection: "psycopg.Connection[Any]") -> list[str]:
    connection.execute("SELECT pg_stat_clear_snapshot()")  # otherwise a transaction sees the same sessions to its end
    return [_describe(*row) for row in connection.execute(_BLOCKERS)]


def _describe(pid: int, application: str, user: str, state: str, since: Any, mode: str, wanted: str) -> str:
    waiting = f"Waiting for {mode} on {wanted}, blocked by"
    if pid == 0:
        return f"{waiting} a prepared transaction (see pg_prepared_xacts)."
    who = f"{waiting} pid {pid}, application {application or 'unknown'!r}, user {user or 'unknown'!r}"
    if state is None:
        return f"{who}. Grant pg_monitor to the role that migrates to see its state and since when."
    transaction_start = f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if since else "unknown"
    return f"{who}, {state}, in a transaction since {transaction_start}."
