"""Filters that an index serves. Any other looks at a bounded number of rows, see `change_list`."""

from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG
from django.http import HttpRequest
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.timezone import is_naive, make_aware

OLDER, NEWER = "older_than", "newer_than"  # the cursors of a page


class IndexedFilter(admin.ChoicesFieldListFilter):
    """Of a column that has an index by time."""


class TimeFilter(admin.DateFieldListFilter):
    """Django's ranges, and one of one's own, in UTC; either end of it may be open."""

    template = "admin/core/time_filter.html"

    def __init__(self, field: Any, request: HttpRequest, params: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(field, request, params, *args, **kwargs)
        self.used_parameters: dict[str, Any]
        for key in (self.lookup_kwarg_since, self.lookup_kwarg_until):
            if moments := [_moment(value) for value in self.used_parameters.pop(key, ()) if value]:
                self.used_parameters[key] = moments
        self.since = self._shown(self.lookup_kwarg_since)
        self.until = self._shown(self.lookup_kwarg_until)
        own = (self.lookup_kwarg_since, self.lookup_kwarg_until, OLDER, NEWER, ERROR_FLAG)
        self.others = [(key, value) for key, value in request.GET.items() if key not in own]

    def _shown(self, key: str) -> str:
        """The form that <input type="datetime-local"> takes."""
        values = self.used_parameters.get(key)
        return values[0].strftime("%Y-%m-%dT%H:%M") if values else ""


def _moment(value: Any) -> datetime:
    try:
        moment = parse_datetime(value)
        if moment is None and (day := parse_date(value)):
            moment = datetime(day.year, day.month, day.day)
        if moment is None:
            raise IncorrectLookupParameters
        return make_aware(moment, UTC) if is_naive(moment) else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise IncorrectLookupParameters from error
