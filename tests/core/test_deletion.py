"""Deleting rows while another connection deletes some of them, and has not committed yet."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, connections, transaction

from core import deletion
from core.conversations import append_message
from core.models import Message, Session, User
from tests.support.polling import succeeds_within

pytestmark = pytest.mark.django_db(transaction=True)

FIRST: dict[str, Callable[[], object]] = {
    "a message": lambda: Message.objects.filter(content="0").delete(),
    "all messages of a session": lambda: Message.objects.filter(session__title="a").delete(),
    "a session": lambda: deletion.delete_sessions(Session.objects.filter(title="a")),
    "a session, by SQL": lambda: Session.objects.filter(title="a").delete(),
    "some messages": lambda: deletion.delete_messages(Message.objects.filter(content__in=("0", "1"))),
    "the user": lambda: deletion.delete_user(User.objects.get()),
}
SECOND: dict[str, Callable[[], object]] = {
    "messages": lambda: deletion.delete_messages(Message.objects.all()),
    "sessions": lambda: deletion.delete_sessions(Session.objects.all()),
    "user": lambda: deletion.delete_user(User.objects.get()),
}


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a user with two sessions of five messages, and delete two messages and one session per statement."""
    monkeypatch.setattr(deletion, "_MAX_MESSAGES", 2)
    monkeypatch.setattr(deletion, "_MAX_SESSIONS", 1)
    user = User.objects.create_user("ann@example.org")
    for title in "ab":
        session = Session.objects.create(user=user, title=title)
        for number in range(5):
            append_message(session.pk, role="user", content=str(number))


def a_statement_is_blocked() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid())")
        (is_blocked,) = cursor.fetchone()
    return bool(is_blocked)


def run_in_thread(call: Callable[[], object]) -> None:
    try:
        call()
    finally:
        connections.close_all()


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", SECOND)
def test_deletes_the_rest(first: str, second: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            FIRST[first]()
            other = pool.submit(run_in_thread, SECOND[second])
            assert succeeds_within(20, lambda: other.done() or a_statement_is_blocked(), interval=0.01)
            assert not other.done()
        other.result(20)
    assert not Message.objects.exists()
    assert Session.objects.exists() == (second == "messages" and first != "the user")
    if first in ("some messages", "a session"):
        assert not Session.objects.exclude(message_count=0).exists()


def test_deletions_in_opposite_orders_do_not_deadlock() -> None:
    """The sessions are locked in the order of their times, also if that is not the order of their keys."""
    a, b = Session.objects.order_by("title")
    Session.objects.filter(pk=b.pk).update(created_at="2020-01-01T00:00:00Z")
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            Session.objects.select_for_update().get(pk=b.pk)
            other = pool.submit(run_in_thread, SECOND["messages"])
            assert succeeds_within(20, a_statement_is_blocked, interval=0.01)
            Session.objects.select_for_update(nowait=True).get(pk=a.pk)
        other.result(20)
    assert not Message.objects.exists()
