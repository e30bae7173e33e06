"""Load users, sessions and messages with what `row_names.name_of` needs, and without PHI.

Following the foreign key of a message would load its session with the context, which may be long.
"""

from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from core.models import Message, Session, User

ConversationRow = User | Session | Message
_Row = TypeVar("_Row", User, Session, Message)


def find_row(model: type[_Row], key: Any) -> _Row | None:
    """Return the row with this key, or None if there is none or the key is invalid."""
    rows: QuerySet[Any] = model._default_manager.all()
    if model is Session:
        rows = rows.select_related("user").defer(*Session.PHI)
    elif model is Message:
        of_session = (f"session__{name}" for name in Session.PHI)
        rows = rows.select_related("session__user").defer(*Message.PHI, *of_session)
    try:
        row: _Row | None = rows.filter(pk=key).first()
    except ValidationError:
        return None
    return row
