"""Times and durations of the status page. Timestamps are those of `time.time()`."""

import time
from datetime import UTC, datetime

from django import template
from django.utils.html import format_html

from core.durations import format_duration

register = template.Library()


@register.simple_tag
def utc_time(timestamp: float) -> str:
    """Return a `<time>` element: 12:14:36 UTC, with the date if it is not today's.

    The text names its zone, because a script may show the times of a page in the zone of the browser.
    """
    moment = datetime.fromtimestamp(timestamp, UTC)
    form = "%H:%M:%S UTC" if moment.date() == datetime.now(UTC).date() else "%Y-%m-%d %H:%M:%S UTC"
    return format_html('<time datetime="{}">{}</time>', moment.isoformat(timespec="seconds"), moment.strftime(form))


@register.filter
def elapsed(start: float, end: float) -> str:
    return format_duration(end - start)


@register.filter
def age(start: float, now: float) -> str:
    """Return the duration in whole minutes from one minute on, because an open page is not refreshed every second."""
    seconds = now - start
    return f"{int(seconds // 60)} min" if 60 <= seconds < 3600 else format_duration(seconds)


@register.filter
def certificate(expires_at: float | None) -> str:
    """Return "certificate expires in 61 days", or "" without a certificate."""
    if expires_at is None:
        return ""
    seconds = expires_at - time.time()
    days = int(seconds // 86400)
    return f"certificate expires in {days} day{'' if days == 1 else 's'}" if seconds > 0 else "certificate has expired"


@register.filter
def latency(milliseconds: float) -> str:
    """Return 0.8 ms, 124 ms or 2.0 s."""
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
