"""Which rows writers lock, tried from a second connection. Without a lock only a race would show the fault."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from django.test import Client

from core import batched_deletion, conversations, deletion
from core.api.error_codes import ErrorCode
from core.api.exceptions import ApiError
from core.conversations import append_message
from core.models import AuditEvent, Message, Session, User
from tests.core.clients.postgresql.connections import separate_connection
from tests.core.test_deletion import a_statement_is_blocked, run_in_thread
from tests.support.polling import succeeds_within

pytestmark = pytest.mark.django_db(transaction=True)

# The locks that other transactions take: an append locks the session, and a new session locks its user by foreign key.
APPEND = "SELECT FROM sessions WHERE id = %s FOR NO KEY UPDATE NOWAIT"
NEW_SESSION = "SELECT FROM users WHERE id = %s FOR KEY SHARE NOWAIT"


@pytest.fixture
def session() -> Session:
    session = Session.objects.create(user=User.objects.create_user("ann@example.org"))
    append_message(session.pk, role="user", content="0")
    return session


@contextmanager
def tried_at(statement: str, lock: str, key: object) -> Iterator[list[bool]]:
    """Try to take a lock when this connection executes a statement. Yield whether it was free, each time."""
    was_free: list[bool] = []

    with separate_connection() as other:

        def try_first(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            if sql.startswith(statement):
                try:
                    other.execute(lock.encode(), (key,))
                    was_free.append(True)
                except psycopg.errors.LockNotAvailable:
                    was_free.append(False)
            return execute(sql, *args)

        with connection.execute_wrapper(try_first):
            yield was_free


@pytest.mark.parametrize(
    "delete",
    [
        lambda session: deletion.delete_sessions(Session.objects.filter(pk=session.pk)),
        lambda session: deletion.delete_messages(Message.objects.filter(session=session)),
        lambda session: deletion.delete_user(session.user),
        lambda session: list(batched_deletion.delete_session(session.pk)),
        lambda session: list(batched_deletion.delete_user(session.user_id)),
    ],
    ids=["sessions", "messages", "user", "session in background", "user in background"],
)
def test_nobody_can_append_while_messages_are_deleted(session: Session, delete: Callable[[Session], object]) -> None:
    with tried_at('DELETE FROM "messages"', APPEND, session.pk) as was_free:
        delete(session)
    assert was_free and not any(was_free)
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    "delete",
    [deletion.delete_user, lambda user: list(batched_deletion.delete_user(user.pk))],
    ids=["at once", "in background"],
)
def test_nobody_can_add_a_session_while_the_user_is_deleted(session: Session, delete: Callable[[User], object]) -> None:
    with tried_at("DELETE", NEW_SESSION, session.user_id) as was_free:
        delete(session.user)
    assert was_free and not any(was_free)


@pytest.mark.parametrize(
    "delete",
    [
        lambda session: deletion.delete_sessions(Session.objects.filter(user__email="ann@example.org", pk=session.pk)),
        lambda session: deletion.delete_messages(Message.objects.filter(session=session)),
        lambda session: list(batched_deletion.delete_session(session.pk)),
    ],
    ids=["session", "messages", "session in background"],
)
def test_other_sessions_go_on_while_one_is_deleted(session: Session, delete: Callable[[Session], object]) -> None:
    other = Session.objects.create(user=session.user)
    append_message(other.pk, role="user")
    with (
        tried_at('DELETE FROM "messages"', APPEND, other.pk) as could_append,
        tried_at('DELETE FROM "messages"', NEW_SESSION, session.user_id) as could_begin,
    ):
        delete(session)
    assert could_append and all(could_append) and all(could_begin)
    assert list(Message.objects.values_list("session", flat=True)) == [other.pk]


@pytest.mark.parametrize("action", ["end", "archive"])
def test_nobody_can_delete_a_session_between_its_selection_and_its_change(
    admin_client: Client, session: Session, action: str
) -> None:
    """The change would raise an error, and undo those of the other selected sessions."""
    with tried_at('UPDATE "sessions"', "SELECT FROM sessions WHERE id = %s FOR UPDATE NOWAIT", session.pk) as was_free:
        form = {"action": action, "_selected_action": str(session.pk)}
        with tried_at('UPDATE "sessions"', NEW_SESSION, session.user_id) as user_was_free:
            assert admin_client.post("/admin/core/session/", form).status_code == 302
    assert (was_free, user_was_free) == ([False], [True])


def assert_waits(other: "Future[None]") -> None:
    """Fail if the call ends instead of waiting for a lock of this transaction."""
    assert succeeds_within(20, lambda: other.done() or a_statement_is_blocked(), interval=0.01)
    assert not other.done()


class Rollback(Exception):
    pass


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "rolled back"])
def test_second_append_with_the_same_id_waits_for_the_first(session: Session, is_committed: bool) -> None:
    first: list[Message] = []
    second: list[Message] = []

    def append(to: list[Message]) -> None:
        to.append(append_message(session.pk, role="user", content="a", client_message_id="1"))

    with ThreadPoolExecutor(1) as pool:
        try:
            with transaction.atomic():
                append(first)
                other = pool.submit(run_in_thread, lambda: append(second))
                assert_waits(other)
                if not is_committed:
                    raise Rollback
        except Rollback:
            pass
        other.result(20)
    assert (first[0].pk == second[0].pk) is is_committed
    assert [message.pk for message in session.messages.filter(client_message_id="1")] == [second[0].pk]
    session.refresh_from_db()
    assert session.message_count == 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda session: deletion.delete_sessions(Session.objects.filter(pk=session.pk)), ErrorCode.NOT_FOUND),
        (lambda session: deletion.delete_user(session.user), ErrorCode.NOT_FOUND),
        (lambda session: conversations.end_session(session.pk), ErrorCode.CONFLICT),
    ],
    ids=["deletion of the session", "deletion of the user", "end"],
)
def test_append_waits_for_the_end_of_its_session(
    session: Session, change: Callable[[Session], object], code: ErrorCode
) -> None:
    errors: list[ApiError] = []

    def append() -> None:
        with pytest.raises(ApiError) as raised:
            append_message(session.pk, role="user", content="late")
        errors.append(raised.value)

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            change(session)
            other = pool.submit(run_in_thread, append)
            assert_waits(other)
        other.result(20)
    assert [error.code for error in errors] == [code]
    assert not Message.objects.filter(content="late").exists()


@pytest.mark.parametrize("kind", ["session", "user"])
def test_second_deletion_waits_for_the_first_and_does_nothing(session: Session, kind: str) -> None:
    progress: list[object] = []

    def delete_again() -> None:
        if kind == "session":
            progress.extend(batched_deletion.delete_session(session.pk))
        else:
            progress.extend(batched_deletion.delete_user(session.user_id))

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            deletion.delete_sessions(Session.objects.all())
            if kind == "user":
                deletion.delete_user(session.user)
            other = pool.submit(run_in_thread, delete_again)
            assert_waits(other)
        other.result(20)
    assert progress == []
    assert not AuditEvent.objects.filter(action="deletion_started").exists()
