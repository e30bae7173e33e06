"""Write and read conversations. The admin uses these functions, and so must every API for sessions and messages.

append_message     stores a message exactly once, even if it is sent repeatedly or concurrently
read_messages      returns one page of a session's messages, by cursor
end_session        makes a session refuse further messages
archive_session    hides a session without ending it

Each raises ApiError with the error code for the client.
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn
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
from core.phi import stored_fields

MAX_PAGE_SIZE = 200
_MAX_TRIES = 3
# serialization_failure and deadlock_detected: PostgreSQL rolled the transaction back, so it is safe to retry.
# https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html
_ROLLED_BACK = {"40001", "40P01"}
# A retry with the same client_message_id must have the stored values in these fields.
_IDEMPOTENCY_FIELDS = (
    "role", "content", "audio_url", "model", "tokens", "tool_calls", "tool_results", "metadata", "contains_phi",
)  # fmt: skip
_INSERT_FIELDS = [field for field in stored_fields(Message) if field.name not in ("created_at", "updated_at")]
# The UPDATE locks the session's row until the transaction ends, so appends to one session are serialised. The time
# comes from the database, because the clocks of the application servers differ.
_INSERT = f"""
WITH locked_session AS (
    UPDATE sessions SET message_count = message_count + 1,
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    WHERE id = %s AND ended_at IS NULL RETURNING updated_at
)
INSERT INTO messages (created_at, updated_at, {", ".join(str(field.column) for field in _INSERT_FIELDS)})
SELECT updated_at, updated_at, {", ".join(["%s"] * len(_INSERT_FIELDS))} FROM locked_session RETURNING created_at
"""


@dataclass(frozen=True, slots=True)
class Page:
    messages: list[Message]
    next_cursor: str | None  # None on the last page


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
    """Append a message to a session and return it, or return the message stored earlier with this `client_message_id`.

    On return the message is committed, and confirmed by the synchronous standby if there is one. After any exception
    other than ApiError the outcome is unknown. A caller that passed a `client_message_id` can then retry with the same
    values, repeatedly and concurrently: the message is stored once.

    Appends to one session are serialised. Messages become visible in the order of their times, so a client that
    paginates by cursor never misses a message.

    Raise ApiError: NOT_FOUND if the session does not exist, CONFLICT if it has ended or if the `client_message_id`
    belongs to a message with different content, VALIDATION_ERROR with the invalid fields.
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
    except (DataError, UnicodeEncodeError):
        raise ApiError(
            ErrorCode.VALIDATION_ERROR,
            "Text or JSON cannot be stored. Remove NUL characters, unpaired surrogates, NaN and Infinity.",
        ) from None


def _append(message: Message) -> Message:
    # In autocommit mode the statement is its own transaction, which can be retried here. Otherwise a savepoint prevents
    # a failure from aborting the caller's transaction, and only the caller can retry the whole transaction.
    autocommit = connection.get_autocommit()
    for tries_left in reversed(range(_MAX_TRIES if autocommit else 1)):
        try:
            with nullcontext() if autocommit else transaction.atomic():
                if _insert(message):
                    return message
                return _find_existing(message) or _raise_not_open(message.session_id)
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
        # Return the validators' codes only, because their messages quote the invalid value, which may be PHI.
        details = {field: [item.code for item in errors] for field, errors in error.error_dict.items()}
        raise ApiError(ErrorCode.VALIDATION_ERROR, details=details) from None


def _insert(message: Message) -> bool:
    """Store the message and count it in its session. Return False if no open session has this id."""
    values = [field.get_db_prep_save(getattr(message, field.attname), connection) for field in _INSERT_FIELDS]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [message.session_id, *values])
        row = cursor.fetchone()
    if row:
        message.created_at = message.updated_at = row[0]
        message._state.adding, message._state.db = False, connection.alias
    return row is not None


def _find_existing(message: Message) -> Message | None:
    """Return the message stored earlier with this `client_message_id`. Raise CONFLICT if its content differs."""
    if message.client_message_id is None:
        return None
    stored = Message.objects.filter(session_id=message.session_id, client_message_id=message.client_message_id).first()
    if stored is None:
        return None
    # Compare as JSON, because that is what was stored: for example, a tuple was stored as a list.
    if any(getattr(stored, field) != json.loads(json.dumps(getattr(message, field))) for field in _IDEMPOTENCY_FIELDS):
        raise ApiError(ErrorCode.CONFLICT, "client_message_id already used for a different message. Send a new id.")
    _wait_for_replication()
    return stored


def _wait_for_replication() -> None:
    """Wait until the synchronous standby, if there is one, has confirmed everything that is visible now.

    A visible row may be unconfirmed: a primary that crashed while a commit waited for the standby shows its rows after
    the restart, and so does one on which the wait was cancelled. A commit waits for all WAL before it, so committing
    one small WAL record is enough.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {EMIT_WAL}")


def _raise_not_open(session_id: UUID) -> NoReturn:
    if Session.objects.filter(pk=session_id).exists():
        raise ApiError(ErrorCode.CONFLICT, "The session has ended. Start a new one.")
    raise ApiError(ErrorCode.NOT_FOUND, "Session not found.")


def read_messages(session_id: UUID, *, newest_first: bool = True, cursor: str | None = None, limit: int = 50) -> Page:
    """Return up to `limit` messages (1 to 200) after `cursor`, which is the `next_cursor` of the previous page.

    This is one query, except for an empty first page. Its time depends neither on the size of the table nor on the
    depth of the page. Raise ApiError: BAD_REQUEST for an invalid cursor, VALIDATION_ERROR for an invalid limit,
    NOT_FOUND if the session does not exist.
    """
    if not 1 <= limit <= MAX_PAGE_SIZE:
        raise ApiError(ErrorCode.VALIDATION_ERROR, f"Invalid limit. Use a number from 1 to {MAX_PAGE_SIZE}.")
    try:
        conditions = [] if cursor is None else [after_cursor(Message, cursor, newest_first)]
    except ValueError:
        raise ApiError(ErrorCode.BAD_REQUEST, "Invalid cursor. Request the first page without one.") from None
    messages = Message.objects.filter(*conditions, session_id=session_id).order_by(*ordering(newest_first))
    rows = list(messages[: limit + 1])  # one more than requested shows whether there is a next page
    if not rows and cursor is None and not Session.objects.filter(pk=session_id).exists():
        raise ApiError(ErrorCode.NOT_FOUND, "Session not found.")
    has_more = len(rows) > limit
    return Page(rows[:limit], cursor_of(rows[limit - 1]) if has_more else None)


def end_session(session_id: UUID) -> Session:
    """End a session and return it. A session that has already ended is unchanged. Raise ApiError NOT_FOUND."""
    # created_at may come from a server whose clock is ahead, and the database refuses ended_at before created_at.
    ended_at = Greatest("created_at", _new_updated_at())
    Session.objects.filter(pk=session_id, ended_at=None).update(ended_at=ended_at, updated_at=_new_updated_at())
    return _get_session(session_id)


def archive_session(session_id: UUID, *, archived: bool = True) -> Session:
    """Archive or unarchive a session and return it. Raise ApiError NOT_FOUND."""
    changed = Session.objects.filter(pk=session_id).exclude(is_archived=archived)
    changed.update(is_archived=archived, updated_at=_new_updated_at())
    return _get_session(session_id)


def _new_updated_at() -> Greatest:
    """Return an `updated_at` that never decreases, even if another server's clock was ahead of this one."""
    return Greatest("updated_at", timezone.now())


def _get_session(session_id: UUID) -> Session:
    session = Session.objects.filter(pk=session_id).first()
    if session is None:
        raise ApiError(ErrorCode.NOT_FOUND, "Session not found.")
    return session
