"""End, archive and look up sessions."""

from uuid import UUID

from django.db.models.functions import Greatest
from django.utils import timezone

from core.api.error_codes import ErrorCode
from core.api.exceptions import ApiError
from core.models import Session


def end_session(session_id: UUID) -> Session:
    """End a session and return it. A session that has already ended is unchanged. Raise ApiError NOT_FOUND."""
    # created_at may come from a server whose clock is ahead, and the database refuses ended_at before created_at.
    ended_at = Greatest("created_at", _new_updated_at())
    changed = Session.objects.filter(pk=parse_session_id(session_id), ended_at=None)
    changed.update(ended_at=ended_at, updated_at=_new_updated_at())
    return _get_session(session_id)


def archive_session(session_id: UUID, *, archived: bool = True) -> Session:
    """Archive or unarchive a session and return it. Raise ApiError NOT_FOUND."""
    changed = Session.objects.filter(pk=parse_session_id(session_id)).exclude(is_archived=archived)
    changed.update(is_archived=archived, updated_at=_new_updated_at())
    return _get_session(session_id)


def parse_session_id(session_id: UUID | str) -> UUID:
    """Return the id as a UUID. Raise ApiError NOT_FOUND if it is not one, because no session has such an id."""
    try:
        return UUID(str(session_id))
    except ValueError:
        raise session_not_found() from None


def session_not_found() -> ApiError:
    return ApiError(ErrorCode.NOT_FOUND, "Session not found.")


def _new_updated_at() -> Greatest:
    """Return an `updated_at` that never decreases, even if another server's clock was ahead of this one."""
    return Greatest("updated_at", timezone.now())


def _get_session(session_id: UUID) -> Session:
    # The context is loaded when it is read, because it may be large, and Python can't parse it if it is nested deeply.
    session = Session.objects.filter(pk=session_id).defer("context").first()
    if session is None:
        raise session_not_found()
    return session
