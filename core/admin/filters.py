"""Filters that an index supports. `changelist` limits how many rows any other filter scans.

Django does not document `used_parameters` and `lookup_kwarg_…`. If they change, the tests in tests/core/admin fail.
"""

from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG
from django.http import HttpRequest
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.timezone import is_naive, make_aware

OLDER_THAN, NEWER_THAN = "older_than", "newer_than"  # URL parameters with a page's cursor


class IndexedFilter(admin.ChoicesFieldListFilter):
    """A filter on a column whose index is also ordered by time."""


class TimeFilter(admin.DateFieldListFilter):
    """Django's date ranges and a custom range in UTC, which may be open at either end."""

    template = "admin/core/time_filter.html"

    def __init__(self, field: Any, request: HttpRequest, params: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(field, request, params, *args, **kwargs)
        self.used_parameters: dict[str, Any]
        for key in (self.lookup_kwarg_since, self.lookup_kwarg_until):
            if times := [_parse_time(value) for value in self.used_parameters.pop(key, ()) if value]:
                self.used_parameters[key] = times
        self.since = self._input_value(self.lookup_kwarg_since)
        self.until = self._input_value(self.lookup_kwarg_until)
        replaced = (self.lookup_kwarg_since, self.lookup_kwarg_until, OLDER_THAN, NEWER_THAN, ERROR_FLAG)
        self.other_parameters = [(key, value) for key, value in request.GET.items() if key not in replaced]

    def _input_value(self, key: str) -> str:
        """Return the time in the format of <input type="datetime-local">."""
        values = self.used_parameters.get(key)
        return values[0].strftime("%Y-%m-%dT%H:%M") if values else ""


def _parse_time(value: Any) -> datetime:
    """Parse a date or a time, in UTC unless it has an offset. Raises IncorrectLookupParameters."""
    try:
        time = parse_datetime(value)
        if time is None and (day := parse_date(value)):
            time = datetime(day.year, day.month, day.day)
        if time is None:
            raise IncorrectLookupParameters
        return make_aware(time, UTC) if is_naive(time) else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise IncorrectLookupParameters from error
