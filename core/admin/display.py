"""How the admin shows times, identifiers and the names of rows."""

from datetime import datetime

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.models import Message, Session


def utc_text(time: datetime) -> str:
    """Return 2026-11-25 14:00:40 UTC."""
    return f"{timezone.localtime(time):%Y-%m-%d %H:%M:%S} UTC"  # TIME_ZONE in the settings is UTC


def time_element(time: datetime | None) -> str:
    """Return a `<time>` element that names its zone, or a dash."""
    if time is None:
        return "–"
    element: SafeString = format_html('<time datetime="{}">{}</time>', time.isoformat(), utc_text(time))
    return element


def session_name(session: Session) -> str:
    """Return the user and the start of a conversation. `str()` names neither, because logs may contain it."""
    return f"{session.user.email}, {timezone.localtime(session.created_at):%Y-%m-%d %H:%M} UTC"


def message_name(message: Message) -> str:
    return f"{message.session.user.email}, {utc_text(message.created_at)}"
