"""Limit how long `manage.py migrate` waits for locks, and report what blocks it.

While a statement waits for an ACCESS EXCLUSIVE lock, all later readers and writers of that table wait behind it.
So each transaction of a migration waits at most `LOCK_TIMEOUT` for a lock, and the command retries after a pause.

    bounded_connection   replaces a connection by one that sets these limits in every transaction
    reported_blockers    reports, from another connection, which transactions block the first one

We do not use django-pg-zero-downtime-migrations, because its database backend would replace `core.clients.postgresql`,
and because it neither retries nor reports what blocks a migration.
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
# `true` limits the settings to the transaction. Otherwise PgBouncer in transaction mode would give the connection with
# them to another client. transaction_timeout exists since PostgreSQL 17.
_SET_LIMITS = f"""
    SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '{LOCK_TIMEOUT}' ELSE '0' END, true)
    FROM pg_settings WHERE name IN
    ('lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
# For statements outside of transactions. client_connection_check_interval ends a statement whose client was killed.
# Otherwise PostgreSQL would continue it, and might complete an index that no migration records.
_STARTUP_OPTIONS = "-c lock_timeout=0 -c statement_timeout=0 -c client_connection_check_interval=2s"
# PostgreSQL rejects these statements inside a transaction. While they wait they block neither readers nor writers.
_NO_TRANSACTION = re.compile(r"\bCONCURRENTLY\b|^\s*VACUUM\b", re.IGNORECASE)
_CREATE_INDEX = re.compile(
    r'^\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?("[^"]+"|\w+)', re.IGNORECASE
)
# Does not select the blocker's query, which may contain PHI.
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

    It disables the timeouts of the settings and of the database role, because a migration may be long, and
    `CREATE INDEX CONCURRENTLY` waits for every open transaction.
    """
    # Undocumented: connections can be copied and replaced. `migrate` accepts only an alias.
    original = connections[alias]
    bounded = original.copy()
    options = bounded.settings_dict["OPTIONS"]
    options["application_name"] = APPLICATION_NAME
    if options.get("options") != "":  # empty for a pooler that refuses options; then those of the role apply
        options["options"] = f"{options.get('options', '')} {_STARTUP_OPTIONS}".strip()

    def apply_limits(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        connection = context["connection"]
        if connection.in_atomic_block:
            if connection.connection.info.transaction_status == TransactionStatus.IDLE:  # before the first statement
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
        with bounded.execute_wrapper(apply_limits):
            yield
    finally:
        bounded.close()
        connections[alias] = original


def _drop_invalid_index(execute: Any, sql: str, context: dict[str, Any], write: Write) -> None:
    """Drop the invalid index that an interrupted `CREATE INDEX CONCURRENTLY` left behind.

    Otherwise the same statement would fail, or with IF NOT EXISTS succeed and leave the index invalid.
    """
    if not (created := _CREATE_INDEX.match(sql)):
        return
    name = created[1]
    invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid"
    execute(invalid, [name], False, context)
    if context["cursor"].cursor.fetchone():
        write(f"Dropping the index {name}, which an interrupted migration left invalid. It will be created again.")
        execute(f"DROP INDEX CONCURRENTLY {name}", None, False, context)


@contextmanager
def reported_blockers(alias: str, write: Write) -> Iterator[list[str]]:
    """Report the transactions that block the migration, whenever they change. Yield the lines of the last report.

    It uses a separate connection in autocommit mode. `CREATE INDEX CONCURRENTLY` waits for the end of each
    transaction that has a snapshot when it looks, so a query in the transaction of the advisory lock could block it for
    ever.
    """
    watcher = connections[alias].copy()
    watcher.ensure_connection()
    connection = watcher.connection
    stop = threading.Event()
    last_reported: list[str] = []

    def watch() -> None:
        while not stop.wait(_POLL_INTERVAL):
            try:
                blockers = _blockers(connection)
            except psycopg.Error:  # a small pool may have no connection for this; migrate works without the report
                return
            if blockers and blockers != last_reported:
                last_reported[:] = blockers
                write("\n".join(blockers))

    thread = threading.Thread(target=watch, name="migrate-blockers", daemon=True)
    thread.start()
    try:
        yield last_reported
    finally:
        stop.set()
        thread.join()
        watcher.close()


def _blockers(connection: "psycopg.Connection[Any]") -> list[str]:
    return [_describe(*row) for row in connection.execute(_BLOCKERS)]


def _describe(pid: int, application: str, user: str, state: str, since: Any, mode: str, wanted: str) -> str:
    waiting = f"Waiting for {mode} on {wanted}, blocked by"
    if pid == 0:
        return f"{waiting} a prepared transaction (see pg_prepared_xacts)."
    blocker = f"{waiting} pid {pid}, application {application or 'unknown'!r}, user {user or 'unknown'!r}"
    if state is None:
        return f"{blocker}. Grant pg_monitor to the migrating role to see its state and start time."
    transaction_start = f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if since else "unknown"
    return f"{blocker}, {state}, in a transaction since {transaction_start}."
