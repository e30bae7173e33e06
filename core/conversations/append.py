"""Append messages to sessions."""

from contextlib import nullcontext
from typing import Any, NoReturn
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.db.models import BooleanField, Field
from django.db.models.expressions import RawSQL

from core.api.error_codes import ErrorCode
from core.api.exceptions import ApiError
from core.clients.outages import PROGRAM_LIMIT_EXCEEDED, sqlstate
from core.clients.postgresql.probe import EMIT_WAL
from core.conversations.sessions import parse_session_id, session_not_found
from core.models import Message, Session
from core.phi import stored_fields

_MAX_TRIES = 3
# serialization_failure and deadlock_detected: PostgreSQL rolled the transaction back, so it is safe to retry.
# https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html
_ROLLED_BACK = {"40001", "40P01"}
_INSERT_FIELDS = [field for field in stored_fields(Message) if field.name not in ("created_at", "updated_at")]
# A retry with the same client_message_id must have the stored values in these fields.
_IDEMPOTENCY_FIELDS = [field for field in _INSERT_FIELDS if field.name != "id"]
# The UPDATE locks the session's row until the transaction ends, so appends to one session are serialised. The time
# comes from the database, because the clocks of the application servers differ.
_INSERT = f"""
WITH locked_session AS (
    UPDATE sessions SET message_count = message_count + 1,
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    WHERE id = %s AND ended_at IS NULL
        AND EXISTS (SELECT FROM users WHERE users.id = sessions.user_id AND users.is_active)
    RETURNING updated_at
)
INSERT INTO messages (created_at, updated_at, {", ".join(str(field.column) for field in _INSERT_FIELDS)})
SELECT updated_at, updated_at, {", ".join(["%s"] * len(_INSERT_FIELDS))} FROM locked_session RETURNING created_at
"""
# PostgreSQL compares, because it stores some values in another form: for example, a float such as 1e300 is returned as
# an integer, and a tuple as a list.
_IS_SAME = f"""
({", ".join(str(field.column) for field in _IDEMPOTENCY_FIELDS)})
IS NOT DISTINCT FROM ({", ".join(["%s"] * len(_IDEMPOTENCY_FIELDS))})
"""


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

    Raise ApiError: NOT_FOUND if the session does not exist, CONFLICT if it has ended, if its user is deactivated or if
    the `client_message_id` belongs to a message with different content, VALIDATION_ERROR with the invalid fields.
    """
    message = Message(
        session_id=parse_session_id(session_id),
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
    except OperationalError as error:
        if not (sqlstate(error) or "").startswith(PROGRAM_LIMIT_EXCEEDED):
            raise
        raise ApiError(ErrorCode.VALIDATION_ERROR, "Text or JSON is too large to be stored. Shorten it.") from None


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
            if not tries_left:  # otherwise another request may have deleted the message meanwhile
                raise
        except OperationalError as error:
            if not tries_left or sqlstate(error) not in _ROLLED_BACK:
                raise
    raise AssertionError("unreachable")


def _validate(message: Message) -> None:
    # `clean_fields` accepts None in a column that may be blank.
    nulls = (f.name for f in _INSERT_FIELDS if getattr(message, f.attname) is None and not f.null)
    details: dict[str, list[str | None]] = {name: ["null"] for name in nulls}
    if message.client_message_id == "":
        details["client_message_id"] = ["blank"]
    try:
        message.clean_fields(exclude={"id", "session"})
    except ValidationError as error:
        # Return the validators' codes only, because their messages quote the invalid value, which may be PHI.
        details |= {field: [item.code for item in errors] for field, errors in error.error_dict.items()}
    except OverflowError:  # from int(infinity)
        details["tokens"] = ["invalid"]
    if details:
        raise ApiError(ErrorCode.VALIDATION_ERROR, details=details)


def _insert(message: Message) -> bool:
    """Store the message and count it in its session. Return False if no open session has this id."""
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [message.session_id, *_parameters(message, _INSERT_FIELDS)])
        row = cursor.fetchone()
    if row:
        message.created_at = message.updated_at = row[0]
        message._state.adding, message._state.db = False, connection.alias
    return row is not None


def _parameters(message: Message, fields: list[Field]) -> list[Any]:
    return [field.get_db_prep_save(getattr(message, field.attname), connection) for field in fields]


def _find_existing(message: Message) -> Message | None:
    """Return the message stored earlier with this `client_message_id`. Raise CONFLICT if its content differs."""
    if message.client_message_id is None:
        return None
    is_same = RawSQL(_IS_SAME, _parameters(message, _IDEMPOTENCY_FIELDS), output_field=BooleanField())
    messages = Message.objects.filter(session_id=message.session_id, client_message_id=message.client_message_id)
    stored = messages.annotate(is_same=is_same).first()
    if stored is None:
        return None
    if not stored.is_same:
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
    session = Session.objects.filter(pk=session_id).values("ended_at").first()
    if session is None:
        raise session_not_found()
    if session["ended_at"] is None:  # a user whose deletion has begun is deactivated first
        raise ApiError(ErrorCode.CONFLICT, "The user of this session is deactivated. Activate the account first.")
    raise ApiError(ErrorCode.CONFLICT, "The session has ended. Start a new one.")
