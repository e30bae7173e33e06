"""How the admin shows times, identifiers and the names of rows."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin
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


def shortened(text: str) -> str:
    """Return text that the style sheet limits to the width of a list's column. The title has all of it."""
    element: SafeString = format_html('<span class="shortened" title="{}">{}</span>', text, text)
    return element if text else ""


def short_id(key: Any) -> SafeString:
    """Return the last digits of a UUID, which differ most, because it begins with the time. The title has all of it.

    display.js adds a button that copies `data-copy`.
    """
    text = str(key)
    shown = f"…{text[-8:]}" if len(text) > 12 else text
    return format_html('<span class="id" title="{}" data-copy="{}">{}</span>', text, text, shown)


def full_id(key: Any) -> SafeString:
    return format_html('<span class="id" data-copy="{}">{}</span>', key, key)


def time_column(field: str, description: str) -> Callable[[Any, Any], str]:
    """Return an admin column that shows a time with its zone."""

    @admin.display(description=description)
    def column(_admin: Any, row: Any) -> str:
        return time_element(getattr(row, field))

    return column


@admin.display(description="ID")
def id_column(_admin: Any, row: Any) -> str:
    """Show the key of a row in a list."""
    return short_id(row.pk)


@admin.display(description="ID")
def id_field(_admin: Any, row: Any) -> str:
    """Show the key of a row on its page."""
    return full_id(row.pk)


def phi_flag(message: Message) -> str:
    return "PHI" if message.contains_phi else "no PHI"
