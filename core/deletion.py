"""Delete users, sessions and messages with their dependent rows, which are not loaded.

Each function is one transaction. It deletes in batches, so that each statement stays within the time limit for
statements of a request. `is_large` says whether that would take too long for a request. `core.batched_deletion` then
deletes in many transactions.
"""

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Greatest
from django.utils import timezone

from core.cursor_pagination import after_cursor, cursor_of, ordering
from core.models import Message, Session, User

MAX_ROWS_OF_REQUEST = 10_000  # sessions and messages that a request deletes; takes about a second
_MAX_SESSIONS = 1000  # per statement
_MAX_MESSAGES = 10_000  # per statement; takes about a second, including the audit trail


def is_large(sessions: QuerySet[Session]) -> bool:
    """Return whether the sessions and their messages are too many rows for a request. Read at most that many."""
    limit = MAX_ROWS_OF_REQUEST + 1
    count = sessions.order_by().values("pk")[:limit].count()
    if count < limit:
        count += Message.objects.filter(session__in=sessions.order_by().values("pk")).values("pk")[:limit].count()
    return count >= limit


def delete_batch(sessions: QuerySet[Session], max_messages: int) -> tuple[int, int]:
    """Delete messages of the oldest sessions, and those sessions if no message is left.

    Return the numbers of deleted sessions and messages, (0, 0) if there are no sessions. The caller must have opened a
    transaction.
    """
    rows = sessions.order_by(*ordering(newest_first=False)).select_for_update(of=("self",))
    keys = list(rows.values_list("pk", flat=True)[:_MAX_SESSIONS])
    # The locks on the sessions block appends, so a batch that is not full leaves no message behind.
    messages = Message.objects.filter(session__in=keys).order_by().values("pk")[:max_messages]
    deleted, _ = Message.objects.filter(pk__in=messages).delete()
    if deleted == max_messages:
        return 0, deleted
    Session.objects.filter(pk__in=keys).only("pk").delete()  # otherwise Django loads the contexts
    return len(keys), deleted


@transaction.atomic
def delete_sessions(sessions: QuerySet[Session]) -> None:
    """Delete sessions with their messages. Only the keys of one batch of sessions are loaded at a time."""
    rows = sessions.order_by(*ordering(newest_first=False)).only("id", "created_at").select_for_update(of=("self",))
    batch = list(rows[:_MAX_SESSIONS])
    while batch:
        keys = [session.pk for session in batch]
        _delete_in_batches(Message.objects.filter(session__in=keys))
        Session.objects.filter(pk__in=keys).only("pk").delete()  # otherwise Django loads the contexts
        after_batch = after_cursor(Session, cursor_of(batch[-1]), newest_first=False)
        batch = list(rows.filter(after_batch)[:_MAX_SESSIONS])


@transaction.atomic
def delete_user(user: User) -> None:
    """Delete a user with their sessions and messages. A concurrent append waits, then raises NOT_FOUND."""
    # The lock on the user's row blocks inserts of sessions that refer to it.
    if not User.objects.select_for_update().filter(pk=user.pk):
        return  # already deleted by another request
    delete_sessions(Session.objects.filter(user=user))
    user.delete()


@transaction.atomic
def delete_messages(messages: QuerySet[Message]) -> None:
    """Delete messages and update `message_count` of their sessions."""
    # Lock sessions in the order of `delete_sessions`. Two transactions with different orders could deadlock.
    sessions = Session.objects.filter(pk__in=messages.order_by().values("session")).order_by(
        *ordering(newest_first=False)
    )
    for session_id in sessions.values_list("pk", flat=True):
        session = Session.objects.filter(pk=session_id)
        if not session.values("pk").select_for_update():  # deleted by another request, with its messages
            continue
        deleted = _delete_in_batches(messages.filter(session=session_id))
        new_count = Greatest(F("message_count") - deleted, 0)  # imported messages may not have been counted
        session.update(message_count=new_count, updated_at=Greatest("updated_at", timezone.now()))


def _delete_in_batches(messages: QuerySet[Message]) -> int:
    """Delete messages and return their number. The caller must hold locks on their sessions."""
    keys = messages.order_by().values("pk")[:_MAX_MESSAGES]
    total = 0
    # A batch that is not full may not be the last one, because another request may have deleted some of its messages.
    while deleted := Message.objects.filter(pk__in=keys).delete()[0]:
        total += deleted
    return total
