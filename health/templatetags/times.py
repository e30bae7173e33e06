"""How long something took or is ago, short enough for a table."""

from datetime import datetime

from django import template

register = template.Library()


@register.filter
def until(began: datetime, ended: datetime) -> str:
    return lasting((ended - began).total_seconds())


def lasting(seconds: float) -> str:
    """Returns 4 s, 3 min 10 s, 2 h 5 min or 3 d 4 h."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


@register.filter
def latency(milliseconds: float) -> str:
    """Returns 0.8 ms, 124 ms or 2.0 s."""
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
