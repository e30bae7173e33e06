"""Load users, sessions and messages with what their names consist of, and without PHI.

Following the foreign key of a message would load its session with the context, which may be long.
"""

from functools import singledispatch
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from core.admin.display import message_name, session_name
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


@singledispatch
def name_of(row: ConversationRow) -> str:
    """Return a name for staff. It contains the user's email, so it must not be logged."""
    raise TypeError(type(row))


@name_of.register
def _(row: User) -> str:
    return row.email


name_of.register(Session, session_name)
name_of.register(Message, message_name)
