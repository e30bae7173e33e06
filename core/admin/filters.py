"""Filters that an index supports. `changelist` limits how many rows any other filter scans.

Django does not document `used_parameters` and `lookup_kwarg_…`. If they change, the tests in tests/core/admin fail.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ERROR_FLAG
from django.http import HttpRequest
from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive, make_aware, now

OLDER_THAN, NEWER_THAN = "older_than", "newer_than"  # URL parameters with a page's cursor
AROUND = timedelta(minutes=15)
INPUT_FORMAT = "%Y-%m-%dT%H:%M"  # of <input type="datetime-local">


class IndexedFilter(admin.ChoicesFieldListFilter):
    """A filter on a column whose index is also ordered by time."""


class TimeFilter(admin.DateFieldListFilter):
    """Django's periods and two more, a custom range that may be open at either end, and a time ± AROUND. In UTC."""

    template = "admin/core/time_filter.html"

    def __init__(self, field: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(field, request, *args, **kwargs)
        self._add_periods()
        submitted = {key: _parse_time(values[0]) for key, values in self.used_parameters.items() if values[0]}
        around = submitted.pop(self.lookup_kwarg_around, None)
        self.used_parameters: dict[str, Any] = {
            key: [time] for key, time in (self._period_around(around) if around else submitted).items()
        }
        self.since, self.until, self.around = (
            time.strftime(INPUT_FORMAT) if time else ""
            for time in (*map(submitted.get, (self.lookup_kwarg_since, self.lookup_kwarg_until)), around)
        )
        replaced = (*self.expected_parameters(), OLDER_THAN, NEWER_THAN, ERROR_FLAG)
        self.other_parameters = [(key, value) for key, value in request.GET.items() if key not in replaced]

    @property
    def lookup_kwarg_around(self) -> str:
        return f"{self.field_path}__around"

    def expected_parameters(self) -> list[str | None]:
        return [*super().expected_parameters(), self.lookup_kwarg_around]

    def _add_periods(self) -> None:
        """Add the last hour and yesterday. Links contain times, so that all pages of a list have the same period."""
        any_date, today, *longer = self.links
        midnight = now().replace(hour=0, minute=0, second=0, microsecond=0)
        hour_ago = now().replace(second=0, microsecond=0) - timedelta(hours=1)
        yesterday = {
            self.lookup_kwarg_since: midnight - timedelta(days=1),
            self.lookup_kwarg_until: midnight,
        }
        last_hour = ("Last hour", {self.lookup_kwarg_since: hour_ago})
        self.links: Any = (any_date, last_hour, today, ("Yesterday", yesterday), *longer)

    def _period_around(self, time: datetime) -> dict[str, datetime]:
        return {self.lookup_kwarg_since: time - AROUND, self.lookup_kwarg_until: time + AROUND}


def _parse_time(value: Any) -> datetime:
    """Parse a date or a time, in UTC unless it has an offset. Raises ValueError or OverflowError."""
    time = parse_datetime(value)
    if time is None:
        raise ValueError("not a time")
    return make_aware(time, UTC) if is_naive(time) else time.astimezone(UTC)
