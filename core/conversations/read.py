"""Read the messages of a session."""

from dataclasses import dataclass
from uuid import UUID

from core.api.error_codes import ErrorCode
from core.api.exceptions import ApiError
from core.conversations.sessions import parse_session_id, session_not_found
from core.cursor_pagination import after_cursor, cursor_of, ordering
from core.models import Message, Session

MAX_PAGE_SIZE = 200


@dataclass(frozen=True, slots=True)
class Page:
    messages: list[Message]
    next_cursor: str | None  # None on the last page


def read_messages(session_id: UUID, *, newest_first: bool = True, cursor: str | None = None, limit: int = 50) -> Page:
    """Return up to `limit` messages (1 to 200) after `cursor`, which is the `next_cursor` of the previous page.

    This is one query, except for an empty first page. Its time depends neither on the size of the table nor on the
    depth of the page. Raise ApiError: BAD_REQUEST for an invalid cursor, VALIDATION_ERROR for an invalid limit,
    NOT_FOUND if the session does not exist.
    """
    session_id = parse_session_id(session_id)
    if not 1 <= limit <= MAX_PAGE_SIZE:
        raise ApiError(ErrorCode.VALIDATION_ERROR, f"Invalid limit. Use a number from 1 to {MAX_PAGE_SIZE}.")
    try:
        conditions = [] if cursor is None else [after_cursor(Message, cursor, newest_first)]
    except ValueError:
        raise ApiError(ErrorCode.BAD_REQUEST, "Invalid cursor. Request the first page without one.") from None
    messages = Message.objects.filter(*conditions, session_id=session_id).order_by(*ordering(newest_first))
    rows = list(messages[: limit + 1])  # one more than requested shows whether there is a next page
    if not rows and cursor is None and not Session.objects.filter(pk=session_id).exists():
        raise session_not_found()
    has_more = len(rows) > limit
    return Page(rows[:limit], cursor_of(rows[limit - 1]) if has_more else None)
