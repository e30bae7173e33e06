"""Acknowledged writes are committed: after any failure, Django and psycopg agree about autocommit."""

import contextlib
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.clients.postgresql.connection import Connection
from core.clients.postgresql.errors import NoResponse
from core.conversations import append_message
from core.models import Session
from tests.core.clients.postgresql.connections import requires_real_transactions, separate_connection, stored_ids


def assert_autocommit_agrees() -> None:
    psycopg_connection = connection.connection
    if psycopg_connection is None or psycopg_connection.closed:
        return
    assert psycopg_connection.autocommit == connection.autocommit
    idle = psycopg.pq.TransactionStatus.IDLE
    assert psycopg_connection.info.transaction_status == idle or not connection.autocommit


@requires_real_transactions
def test_commits_after_failed_reconnect(session: Session) -> None:
    append_message(session.pk, role="user", client_message_id="m1")
    connection.connection.close()  # as a killed primary does
    connection.close_if_unusable_or_obsolete()
    connection.connection = None
    circuit_breaker.open()
    with pytest.raises(OperationalError, match="not responding"):
        append_message(session.pk, role="user", client_message_id="m2")
    assert_autocommit_agrees()
    circuit_breaker.close()
    append_message(session.pk, role="user", client_message_id="m2")
    assert_autocommit_agrees()
    with separate_connection() as other:
        assert stored_ids(session, other) == {"m1", "m2"}


def in_transaction(call: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        with transaction.atomic():
            call()

    return run


def in_savepoint() -> None:
    with transaction.atomic(), transaction.atomic():
        connection.cursor().execute("SELECT 1")


def use_chunked_cursor() -> None:
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT 1")


def use_schema_editor() -> None:
    with connection.schema_editor() as editor:
        editor.execute("SELECT 1")


def use_temporary_connection() -> None:
    with connection.temporary_connection() as cursor:
        cursor.execute("SELECT 1")


def in_manual_transaction(call: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        try:
            connection.set_autocommit(False)
            connection.cursor().execute("SELECT 1")
            call()
        finally:
            with contextlib.suppress(DatabaseError, InterfaceError):
                connection.rollback()
            with contextlib.suppress(DatabaseError, InterfaceError):
                connection.set_autocommit(True)

    return run


def connect_again() -> None:
    connection.close()
    connection.connect()


def use_savepoint(end: Callable[[Any], None]) -> Callable[[], None]:
    return in_transaction(lambda: end(connection.savepoint()))


# Every method of Django's wrapper that may send a query, as a caller would use it.
ENTRY_POINTS: dict[str, Callable[[], Any]] = {
    "atomic": in_savepoint,
    "chunked_cursor": in_transaction(use_chunked_cursor),
    "clean_savepoints": in_transaction(lambda: connection.clean_savepoints()),
    "check_constraints": lambda: connection.check_constraints(),
    "close": lambda: connection.close(),
    "close_if_health_check_failed": lambda: connection.close_if_health_check_failed(),
    "close_if_unusable_or_obsolete": lambda: connection.close_if_unusable_or_obsolete(),
    "commit": in_manual_transaction(lambda: connection.commit()),
    "connect": connect_again,
    "constraint_checks_disabled": lambda: connection.constraint_checks_disabled().__enter__(),
    "cursor": lambda: connection.cursor().execute("SELECT 1"),
    "ensure_timezone": lambda: connection.ensure_timezone(),
    "ensure_connection": lambda: connection.ensure_connection(),
    "get_autocommit": lambda: connection.get_autocommit(),
    "get_new_connection": lambda: connection.get_new_connection(connection.get_connection_params()).close(),
    "init_connection_state": lambda: connection.init_connection_state(),
    "is_usable": lambda: connection.is_usable(),
    "rollback": in_manual_transaction(lambda: connection.rollback()),
    "savepoint": use_savepoint(lambda sid: None),
    "savepoint_commit": use_savepoint(lambda sid: connection.savepoint_commit(sid)),
    "savepoint_rollback": use_savepoint(lambda sid: connection.savepoint_rollback(sid)),
    "schema_editor": use_schema_editor,
    "set_autocommit": in_manual_transaction(lambda: None),
    "temporary_connection": use_temporary_connection,
    "check_database_version_supported": lambda: connection.check_database_version_supported(),
    "get_database_version": lambda: connection.get_database_version(),
}
# These methods send no query, or only call the methods above.
SENDS_NO_QUERY = {
    "cached_property", "check_settings", "copy", "create_cursor", "dec_thread_sharing", "disable_constraint_checking",
    "enable_constraint_checking", "execute_wrapper", "get_connection_params", "get_rollback", "inc_thread_sharing",
    "make_cursor", "make_debug_cursor", "on_commit", "prepare_database", "run_and_clear_commit_hooks", "set_rollback",
    "validate_no_atomic_block", "validate_no_broken_transaction", "validate_thread_sharing",
}  # fmt: skip


def test_all_methods_of_django_are_covered() -> None:
    public = {name for name in vars(BaseDatabaseWrapper) if not name.startswith("_")}
    methods = {name for name in public if callable(getattr(BaseDatabaseWrapper, name))}
    assert methods - SENDS_NO_QUERY - {"display_name"} <= set(ENTRY_POINTS) | {
        name for name in methods if name.endswith("_class")
    }


ERRORS = (DatabaseError, InterfaceError, psycopg.Error)


class Broken(Exception):
    pass


def break_wait(monkeypatch: pytest.MonkeyPatch, number: int, fault: str) -> None:
    """Make one exchange with the server fail: the next one if `number` is 1, the one after it if 2, and so on."""
    count = 0
    original = Connection.wait

    def wait(self: Connection, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            if fault == "timeout":
                self._handle_timeout(args[0])
                raise NoResponse("timeout")
            if fault == "connection lost":
                self.pgconn.finish()
                raise psycopg.OperationalError("connection lost")
            raise Broken
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Connection, "wait", wait)


@requires_real_transactions
# psycopg can't close a server-side cursor of a lost connection.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function ServerCursorMixin")
@pytest.mark.parametrize("fault", ["timeout", "connection lost", "another exception"])
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_autocommit_agrees_after_exception(
    session: Session, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    """Each of the first four exchanges of each entry point fails, with an open and with a closed connection."""
    with separate_connection() as other:
        for is_open in (True, False):
            for number in range(1, 5):
                start(is_open=is_open)
                with monkeypatch.context() as context, contextlib.suppress(*ERRORS, Broken):
                    break_wait(context, number, fault)
                    ENTRY_POINTS[name]()
                assert_autocommit_agrees()
                assert_commits(session, f"{is_open}-{number}", other)


@requires_real_transactions
@pytest.mark.parametrize("name", sorted(set(ENTRY_POINTS) - {"get_new_connection", "is_usable"}))
def test_autocommit_agrees_after_rejection(session: Session, name: str) -> None:
    with separate_connection() as other:
        for is_open in (True, False):
            start(is_open=is_open)
            circuit_breaker.open()
            with contextlib.suppress(*ERRORS):
                ENTRY_POINTS[name]()
            assert_autocommit_agrees()
            assert_commits(session, str(is_open), other)


def start(*, is_open: bool) -> None:
    connection.close()
    if is_open:
        connection.ensure_connection()
    connection.close_if_unusable_or_obsolete()  # as before a request, so that the next use checks the connection


def assert_commits(session: Session, client_message_id: str, other: psycopg.Connection) -> None:
    circuit_breaker.close()
    connection.close_if_unusable_or_obsolete()
    append_message(session.pk, role="user", client_message_id=client_message_id)
    assert_autocommit_agrees()
    assert client_message_id in stored_ids(session, other)
