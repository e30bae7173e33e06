"""Delete a user or a session of any size in many short transactions, as a job or in a command.

Each transaction deletes at most MAX_MESSAGES messages with their audit events, so other requests wait for a lock at
most as long as that takes. A call after an interruption deletes what is left.

The first transaction prevents further appends: it ends a session, and deactivates a user, which also ends the logins.
Two deletions of the same user take turns. Messages and sessions that are added meanwhile are deleted too.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from uuid import UUID

from django.db.models import Model, QuerySet
from django.db.models.functions import Now

from core import audit, deletion
from core.conversations import end_session
from core.jobs.progress import batch, current_job
from core.models import AuditEvent, Job, Message, Session, User

MAX_MESSAGES = 2000  # per transaction, which takes less than a second


def delete_user(user_id: UUID, origin: audit.Origin | None = None) -> Iterator[Job]:
    """Delete a user with all sessions and messages. Yield the progress, in messages, after each transaction.

    A job has the origin of the user who asked for it. A command passes its own. Do nothing if the user does not exist.
    """
    job, sessions = current_job(), Session.objects.filter(user=user_id)
    while True:
        with _transaction(origin):
            # The lock blocks inserts of sessions that refer to the user.
            user = User.objects.select_for_update().filter(pk=user_id).first()
            if user is None:
                return
            _start(job, user, sessions)
            # In every transaction, because staff could activate the account again meanwhile.
            User.objects.filter(pk=user_id, is_active=True).update(is_active=False, updated_at=Now())
            if not _delete(job, sessions):
                user.delete()
        yield job


def delete_session(session_id: UUID, origin: audit.Origin | None = None) -> Iterator[Job]:
    """Delete a session with all messages, as `delete_user` does."""
    job, sessions = current_job(), Session.objects.filter(pk=session_id)
    while True:
        with _transaction(origin):
            session = sessions.select_for_update().only("pk").first()
            if session is None:
                return
            _start(job, session, sessions)
            end_session(session_id)
            _delete(job, sessions)
        yield job


@contextmanager
def _transaction(origin: audit.Origin | None) -> Iterator[None]:
    with batch(), audit.attributed_to(origin) if origin else nullcontext():
        yield


def _start(job: Job, target: Model, sessions: QuerySet[Session]) -> None:
    """Record the beginning and count the messages, once per job."""
    if job.total is not None:
        return
    job.total = Message.objects.filter(session__in=sessions.values("pk")).count()
    reason = audit.current_origin().reason
    changes = {"reason": [None, reason]} if reason else {}
    audit.record(AuditEvent.Action.DELETION_STARTED, None, user=None, target=target, changes=changes)


def _delete(job: Job, sessions: QuerySet[Session]) -> bool:
    """Delete one batch and count it. Return False if there was nothing to delete."""
    deleted_sessions, messages = deletion.delete_batch(sessions, MAX_MESSAGES)
    job.done += messages
    job.result = {"sessions": job.result.get("sessions", 0) + deleted_sessions}
    return bool(deleted_sessions or messages)
