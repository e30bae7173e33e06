"""The links above a list to years, months and days. Django's would scan the table for the dates that exist."""

from calendar import monthrange
from datetime import datetime
from typing import Any

DATE_UNITS = ("year", "month", "day")


def date_links(changelist: Any) -> list[tuple[str, str]]:
    """Return (label, URL) of the links to years, months and days.

    Empty periods are included, because finding them would require a scan.
    """
    field = changelist.date_hierarchy
    year, month, day = (f"{field}__{unit}" for unit in DATE_UNITS)
    try:
        selected = [int(changelist.params[lookup]) for lookup in (year, month, day) if lookup in changelist.params]
        start = datetime(*[*selected, 1, 1][:3]) if selected else None  # type: ignore[arg-type]
    except ValueError:
        start = None
    if start is None:
        times = changelist.root_queryset.filter(changelist.model_admin.index_condition).values_list(field, flat=True)
        first, last = (times.order_by(order).first() for order in (field, f"-{field}"))
        years = range(first.year, last.year + 1) if first and last else ()
        return [(str(number), changelist.get_query_string({year: number}, [field])) for number in years]
    links = [("‹ All dates", changelist.get_query_string({}, [field]))]
    if len(selected) > 1:
        links.append((f"‹ {start:%Y}", changelist.get_query_string({year: start.year}, [field])))
    if len(selected) == 1:
        months = ((number, f"{datetime(start.year, number, 1):%B}") for number in range(1, 13))
        return links + [(name, changelist.get_query_string({month: number})) for number, name in months]
    if len(selected) == 2:
        days = range(1, monthrange(start.year, start.month)[1] + 1)
        return links + [(str(number), changelist.get_query_string({day: number})) for number in days]
    return [*links, (f"‹ {start:%B %Y}", changelist.get_query_string({}, [day]))]
