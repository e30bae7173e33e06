"""A change list that takes as long for ten million rows as for ten.

Django's own counts the table and skips to a page row by row. This one goes on from a row, by the index on time, counts
nothing, and tells an estimate as one. A filter that no index serves looks at up to `MAX_SCANNED_ROWS` rows a page,
and says how far it came.
"""

from calendar import monthrange
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views import main
from django.db import connection
from django.db.models import QuerySet
from django.http import HttpRequest

from core.admin.filters import NEWER, OLDER, IndexedFilter, TimeFilter
from core.cursor_pagination import after_cursor, cursor_of, encode_cursor, ordering

MAX_SCANNED_ROWS = 10_000
_WAYS = ("created_at", "-created_at")
_OLDEST = encode_cursor(datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


class ChangeList(main.ChangeList):
    older = newer = None  # links
    looked_back_to: datetime | None = None
    most_looked_at = f"{MAX_SCANNED_ROWS:,}"
    scanning: list[Any]
    by_time: bool  # by no other index
    model_admin: Any

    def get_ordering(self, request: HttpRequest, queryset: QuerySet) -> list[Any]:
        return list(ordering(newest_first=True))

    def get_filters(self, request: HttpRequest) -> Any:
        """Puts aside the active filters that no index serves: one index can't serve what another has found already."""
        found_by = [*filter(None, [self.query]), *self.links_followed]
        parts = {part for part in ("year", "month", "day") if f"{self.date_hierarchy}__{part}" in self.params}
        repeated = any(len(values) > 1 for values in self.filter_params.values())
        if len(found_by) > 1 or repeated or (parts and "year" not in parts):
            raise IncorrectLookupParameters
        try:
            self.all_specs, *rest = super().get_filters(request)
        except (ValueError, OverflowError) as error:  # Django goes on to a year 10000
            raise IncorrectLookupParameters from error
        active = [spec for spec in self.all_specs if spec.used_parameters]
        by_index = (TimeFilter,) if found_by else (TimeFilter, IndexedFilter)
        self.scanning = [spec for spec in active if not isinstance(spec, by_index)]
        self.by_time = not found_by and not any(isinstance(spec, IndexedFilter) for spec in active)
        return [spec for spec in self.all_specs if spec not in self.scanning], *rest

    @property
    def links_followed(self) -> list[str]:
        return [lookup for lookup in self.model_admin.links if lookup in self.params]

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet:
        for key in (OLDER, NEWER):  # else taken for filters, and kept by the links to others
            self.params.pop(key, None)
            self.filter_params.pop(key, None)
        self.by_index = super().get_queryset(request, exclude_parameters)
        if self.by_time:
            self.by_index = self.by_index.filter(self.model_admin.every_row)
        queryset = self.by_index.defer(*getattr(self.model, "PHI", ()))  # not shown, and a message may be long
        for spec in self.scanning:
            queryset = spec.queryset(request, queryset)
        self.filter_specs = self.all_specs  # as the page shows them
        return queryset

    def get_results(self, request: HttpRequest) -> None:
        older, newer = request.GET.get(OLDER), request.GET.get(NEWER)
        newest_first = newer is None
        start = older if newest_first else newer
        try:
            rows, last = self._looked_at(start, newest_first)
        except ValueError as error:
            raise IncorrectLookupParameters from error
        found = list(rows[: self.list_per_page + 1])
        more = len(found) > self.list_per_page
        found = found[: self.list_per_page]
        if more:
            onwards = cursor_of(found[-1])
        else:
            onwards = last and cursor_of(last)
            self.looked_back_to = last and last.created_at
        back = start and (cursor_of(found[0]) if found else start)
        self.older, self.newer = (onwards, back) if newest_first else (back, onwards)
        self.result_list = found if newest_first else found[::-1]
        self._tell_django(request, whole=not start and not more and not last)

    def _looked_at(self, start: str | None, newest_first: bool) -> tuple[QuerySet, Any]:
        """Returns the rows from `start` on, and the last that is looked at if there may be more behind it."""
        order = ordering(newest_first)
        beyond = [after_cursor(self.model, start, newest_first)] if start else []
        rows = self.queryset.filter(*beyond).order_by(*order)
        if not self.scanning:
            return rows, None
        window = self.by_index.filter(*beyond).order_by(*order).select_related(None).only("id", "created_at")
        last = next(iter(window[MAX_SCANNED_ROWS - 1 : MAX_SCANNED_ROWS]), None)
        if last is None:
            return rows, None
        bound = {f"created_at__{'gte' if newest_first else 'lte'}": last.created_at}  # for the index
        return rows.filter(**bound).exclude(after_cursor(self.model, cursor_of(last), newest_first)), last

    def _tell_django(self, request: HttpRequest, *, whole: bool) -> None:
        self.result_count = len(self.result_list)
        self.full_result_count = None
        self.show_full_result_count = False
        self.show_admin_actions = True
        self.can_show_all = self.show_all = self.multi_page = False
        self.whole = whole
        self.paginator = self.model_admin.get_paginator(request, self.result_list, self.list_per_page)

    # What the templates ask.

    @property
    def links(self) -> list[tuple[str, str]]:
        """The words and the addresses of the links to other pages."""
        moves: list[tuple[str, dict[str, Any], str | None]] = [
            ("« Newest", {}, self.newer),
            ("‹ Newer", {NEWER: self.newer}, self.newer),
            ("Older ›", {OLDER: self.older}, self.older),
            ("Oldest »", {NEWER: _OLDEST}, self.older),
        ]
        return [(words, self.get_query_string(parameters)) for words, parameters, there in moves if there]

    @property
    def kept_by_search(self) -> list[tuple[str, str]]:
        """A search starts from the whole table again, but for the filters."""
        dropped = (main.SEARCH_VAR, *self.links_followed)
        return [(key, value) for key, value in self.params.items() if key not in dropped]

    @property
    def is_narrowed(self) -> bool:
        return bool(self.query or self.has_active_filters or self.get_filters_params())

    @property
    def estimate(self) -> str:
        """How many rows the table has, as PostgreSQL last estimated it; "" if it never has."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)", [self.opts.db_table])
            (rows,) = cursor.fetchone()
        return f"{rows:,}" if rows > 0 else ""

    def drill_down(self) -> list[tuple[str, str]]:
        """The words and links from years to months to days, whether there are rows or not: to know would be a scan."""
        field = self.date_hierarchy
        year, month, day = (f"{field}__{unit}" for unit in ("year", "month", "day"))
        try:
            at = [int(self.params[unit]) for unit in (year, month, day) if unit in self.params]
            start = datetime(*[*at, 1, 1][:3]) if at else None  # type: ignore[arg-type]
        except ValueError:
            start = None
        if start is None:
            rows = self.root_queryset.filter(self.model_admin.every_row).values_list(field, flat=True)
            first, last = (rows.order_by(way).first() for way in _WAYS)
            years = range(first.year, last.year + 1) if first and last else ()
            return [(str(y), self.get_query_string({year: y}, [field])) for y in years]
        links = [("‹ All dates", self.get_query_string({}, [field]))]
        if len(at) > 1:
            links.append((f"‹ {start:%Y}", self.get_query_string({year: at[0]}, [field])))
        if len(at) == 1:
            months = ((m, f"{datetime(at[0], m, 1):%B}") for m in range(1, 13))
            return links + [(name, self.get_query_string({month: m})) for m, name in months]
        if len(at) == 2:
            days = range(1, monthrange(at[0], at[1])[1] + 1)
            return links + [(str(d), self.get_query_string({day: d})) for d in days]
        return [*links, (f"‹ {start:%B %Y}", self.get_query_string({}, [day]))]
