"""Deletes users, sessions and messages with all that belongs to them, without loading it.

Each function is one transaction of many statements, none of which takes long, so that it fits into the time that a
request may wait for PostgreSQL however much there is to delete.
"""

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Greatest
from django.utils import timezone

from core.cursor_pagination import after_cursor, cursor_of, ordering
from core.models import Message, Session, User

_MAX_SESSIONS = 1000  # of one statement
_MAX_MESSAGES = 10_000  # of one statement; with the audit trail they take about a second


@transaction.atomic
def delete_sessions(sessions: QuerySet[Session]) -> None:
    """Delete sessions with their messages. Nothing is loaded but the keys of a batch."""
    rows = sessions.order_by(*ordering(newest_first=False)).only("id", "created_at").select_for_update(of=("self",))
    batch = list(rows[:_MAX_SESSIONS])
    while batch:
        keys = [session.pk for session in batch]
        _delete_in_batches(Message.objects.filter(session__in=keys))
        Session.objects.filter(pk__in=keys).delete()
        batch = list(rows.filter(after_cursor(Session, cursor_of(batch[-1]), newest_first=False))[:_MAX_SESSIONS])


@transaction.atomic
def delete_user(user: User) -> None:
    """Delete a user with their sessions and messages. An append that comes meanwhile waits and finds no session."""
    if not User.objects.select_for_update().filter(pk=user.pk):  # no new session from here on
        return  # another request was faster
    delete_sessions(Session.objects.filter(user=user))
    user.delete()


@transaction.atomic
def delete_messages(messages: QuerySet[Message]) -> None:
    """Delete messages and keep the counts of their sessions right."""
    for session_id in sorted(set(messages.values_list("session_id", flat=True))):
        session = Session.objects.filter(pk=session_id)
        if not session.select_for_update():  # deleted meanwhile, with its messages
            continue
        deleted = _delete_in_batches(messages.filter(session_id=session_id))
        left = Greatest(F("message_count") - deleted, 0)  # rows that were imported may not have been counted
        session.update(message_count=left, updated_at=Greatest("updated_at", timezone.now()))


def _delete_in_batches(messages: QuerySet[Message]) -> int:
    """Delete messages and return how many there were. The caller holds their sessions locked."""
    total = 0
    while True:
        keys = messages.order_by().values("pk")[:_MAX_MESSAGES]
        deleted, _ = Message.objects.filter(pk__in=keys).delete()
        total += deleted
        if deleted < _MAX_MESSAGES:
            return total
