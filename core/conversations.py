"""Writing and reading conversations: what every later phase calls, and the admin too.

append_message     stores a message once, however often and by how many at once it is sent
read_messages      a page of a session's messages, by cursor
end_session        no message is appended any more
archive_session    out of sight, not ended

Each raises ApiError with the code that a client is to see.
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.db.models.functions import Greatest
from django.utils import timezone

from core.api.error_codes import ErrorCode
from core.api.exceptions import ApiError
from core.clients.outages import sqlstate
from core.clients.postgresql.probe import EMIT_WAL
from core.cursor_pagination import after_cursor, cursor_of, ordering
from core.models import Message, Session

MOST_PER_PAGE = 200
_MAX_TRIES = 3
# serialization_failure and deadlock_detected: the transaction was rolled back, so that it can be run again.
# https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html
_ROLLED_BACK = {"40001", "40P01"}
# What a message that is sent again has to agree on with the stored one.
_SENT = ("role", "content", "audio_url", "model", "tokens", "tool_calls", "tool_results", "metadata", "contains_phi")
_GIVEN = [field for field in Message._meta.concrete_fields if field.name not in ("created_at", "updated_at")]
_INSERT = f"""
WITH turn AS (
    UPDATE sessions SET message_count = message_count + 1,
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    WHERE id = %s AND ended_at IS NULL RETURNING updated_at
)
INSERT INTO messages (created_at, updated_at, {", ".join(str(field.column) for field in _GIVEN)})
SELECT updated_at, updated_at, {", ".join(["%s"] * len(_GIVEN))} FROM turn RETURNING created_at
"""


@dataclass(frozen=True, slots=True)
class Page:
    messages: list[Message]
    next_cursor: str | None  # None: there are no more


def append_message(
    session_id: UUID,
    *,
    role: str,
    content: str = "",
    client_message_id: str | None = None,
    audio_url: str = "",
    model: str = "",
    tokens: int | None = None,
    tool_calls: Any = None,
    tool_results: Any = None,
    metadata: dict[str, Any] | None = None,
    contains_phi: bool = True,
) -> Message:
    """Append a message to a session and return it, or the stored one if this `client_message_id` was appended before.

    The message is stored when this returns: committed, and confirmed by the synchronous standby if there is one. After
    any other exception than ApiError the outcome is unknown. A caller that passed a `client_message_id` may then call
    again with the same values, as often and from as many places as it likes: the message is stored once.

    Messages of a session are appended one after another, so that their order by time is that of their appearance, and a
    client that paginates by cursor misses none.

    Raises ApiError: NOT_FOUND without such a session, CONFLICT if it has ended or if the `client_message_id` is that of
    a message with other content, VALIDATION_ERROR with the refused fields.
    """
    message = Message(
        session_id=session_id,
        role=role,
        content=content,
        client_message_id=client_message_id,
        audio_url=audio_url,
        model=model,
        tokens=tokens,
        tool_calls=tool_calls,
        tool_results=tool_results,
        metadata={} if metadata is None else metadata,
        contains_phi=contains_phi,
    )
    _validate(message)
    try:
        return _append(message)
    except (DataError, UnicodeEncodeError):  # NUL, half a surrogate pair, a JSON number that isn't one
        raise ApiError(ErrorCode.VALIDATION_ERROR, "Some characters can't be stored.") from None


def _append(message: Message) -> Message:
    # In autocommit mode the statement is a transaction of its own, and can be run again. Otherwise a savepoint keeps a
    # refused statement from aborting the caller's transaction, and only the caller can run all of it again.
    autocommit = connection.get_autocommit()
    for tries_left in reversed(range(_MAX_TRIES if autocommit else 1)):
        try:
            with nullcontext() if autocommit else transaction.atomic():
                if _insert(message):
                    return message
                return _find_existing(message) or _refuse(message.session_id)
        except IntegrityError:
            if stored := _find_existing(message):
                return stored
            raise
        except OperationalError as error:
            if not tries_left or sqlstate(error) not in _ROLLED_BACK:
                raise
    raise AssertionError("unreachable")


def _validate(message: Message) -> None:
    if message.client_message_id == "":
        raise ApiError(ErrorCode.VALIDATION_ERROR, details={"client_message_id": ["blank"]})
    try:
        message.clean_fields(exclude={"id", "session"})
    except ValidationError as error:
        # The messages of Django's validators quote the refused value; their codes don't.
        details = {field: [e.code for e in errors] for field, errors in error.error_dict.items()}
        raise ApiError(ErrorCode.VALIDATION_ERROR, details=details) from None


def _insert(message: Message) -> bool:
    """Counts the message and stores it with a time later than that of all before. False: there is no open session.

    The time is the database's: the clocks of the servers that append differ. It is one statement, because nobody
    else appends to the session until it has ended.
    """
    values = [field.get_db_prep_save(getattr(message, field.attname), connection) for field in _GIVEN]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [message.session_id, *values])
        row = cursor.fetchone()
    if row:
        message.created_at = message.updated_at = row[0]
        message._state.adding, message._state.db = False, connection.alias
    return row is not None


def _find_existing(message: Message) -> Message | None:
    """Return the message that was stored under this client's id. Raises CONFLICT if it has other content."""
    if message.client_message_id is None:
        return None
    same_id = Message.objects.filter(session_id=message.session_id, client_message_id=message.client_message_id)
    stored = same_id.first()
    if stored is None:
        return None
    # As JSON, which is what was stored: a tuple came back as a list.
    if any(getattr(stored, field) != json.loads(json.dumps(getattr(message, field))) for field in _SENT):
        raise ApiError(ErrorCode.CONFLICT, "This client_message_id was sent before, with other content.")
    _wait_for_replication()
    return stored


def _wait_for_replication() -> None:
    """Return when everything that is visible now is confirmed by the synchronous standby, if there is one.

    A row can be visible without that: a primary that crashed while its commit waited shows it after the restart, and so
    does one whose wait was cancelled. A commit waits for all that was written before it, so one small record suffices.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {EMIT_WAL}")


def _refuse(session_id: UUID) -> Message:
    if Session.objects.filter(pk=session_id).exists():
        raise ApiError(ErrorCode.CONFLICT, "The session has ended: start another.")
    raise ApiError(ErrorCode.NOT_FOUND, "There is no such session.")


def read_messages(session_id: UUID, *, newest_first: bool = True, cursor: str | None = None, limit: int = 50) -> Page:
    """Returns up to `limit` messages (1 to 200) from where `cursor`, the `next_cursor` of the page before, left off.

    One query, whose time depends neither on the size of the table nor on how deep the page is. Raises ApiError:
    BAD_REQUEST for a cursor that isn't one, VALIDATION_ERROR for the limit, NOT_FOUND without such a session.
    """
    if not 1 <= limit <= MOST_PER_PAGE:
        raise ApiError(ErrorCode.VALIDATION_ERROR, f"limit must be from 1 to {MOST_PER_PAGE}.")
    try:
        beyond = [] if cursor is None else [after_cursor(Message, cursor, newest_first)]
    except ValueError:
        raise ApiError(ErrorCode.BAD_REQUEST, "The cursor is not one.") from None
    messages = Message.objects.filter(*beyond, session_id=session_id).order_by(*ordering(newest_first))
    found = list(messages[: limit + 1])
    if not found and cursor is None and not Session.objects.filter(pk=session_id).exists():
        raise ApiError(ErrorCode.NOT_FOUND, "There is no such session.")
    more = len(found) > limit
    return Page(found[:limit], cursor_of(found[limit - 1]) if more else None)


def end_session(session_id: UUID) -> Session:
    """Ends a session: it takes no more messages. One that has ended stays as it is. Raises ApiError NOT_FOUND."""
    # Its beginning may come from a clock that is ahead of ours.
    end = Greatest("created_at", _touched())
    Session.objects.filter(pk=session_id, ended_at=None).update(ended_at=end, updated_at=_touched())
    return _session(session_id)


def archive_session(session_id: UUID, *, archived: bool = True) -> Session:
    """Puts a session out of sight, or back. Raises ApiError NOT_FOUND."""
    changed = Session.objects.filter(pk=session_id).exclude(is_archived=archived)
    changed.update(is_archived=archived, updated_at=_touched())
    return _session(session_id)


def _touched() -> Greatest:
    """A session's new `updated_at`: it never goes back, also if another server's clock was ahead of ours."""
    return Greatest("updated_at", timezone.now())


def _session(session_id: UUID) -> Session:
    session = Session.objects.filter(pk=session_id).first()
    if session is None:
        raise ApiError(ErrorCode.NOT_FOUND, "There is no such session.")
    return session
