"""A change list with cursor pagination, as fast for ten million rows as for ten.

Django's change list counts the table and skips to a page with OFFSET. This one continues from a cursor on the time
index and shows PostgreSQL's estimated count. A filter without an index scans at most `MAX_SCANNED_ROWS` rows per page.

Django does not document ChangeList's methods and attributes. If they change, the tests in tests/core/admin fail.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views import main
from django.db import connection
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from core.admin import search_terms
from core.admin.date_links import DATE_UNITS, date_links
from core.admin.filters import NEWER_THAN, OLDER_THAN, IndexedFilter, TimeFilter
from core.admin.list_scope import ScopedChangeList
from core.cursor_pagination import after_cursor, cursor_of, encode_cursor, ordering

MAX_SCANNED_ROWS = 10_000
_OLDEST_CURSOR = encode_cursor(datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


class ChangeList(ScopedChangeList):
    older_cursor: str | None = None
    newer_cursor: str | None = None
    scanned_to: datetime | None = None  # set if the scan stopped at MAX_SCANNED_ROWS
    unindexed_filters: list[Any]
    uses_time_index: bool
    is_complete: bool  # the page shows every matching row

    def get_ordering(self, request: HttpRequest, queryset: QuerySet) -> list[Any]:
        return list(ordering(newest_first=True))

    def get_filters(self, request: HttpRequest) -> Any:
        """Separate active filters that no index supports from those that one does.

        A query uses one index. The index of a search or of a link's lookup also covers time, but no other filter.
        """
        index_lookups = [*filter(None, [self.query]), *self.linked_lookups]
        units = [unit for unit in DATE_UNITS if f"{self.date_hierarchy}__{unit}" in self.params]
        is_repeated = any(len(values) > 1 for values in self.filter_params.values())
        if len(index_lookups) > 1 or is_repeated or units != list(DATE_UNITS[: len(units)]):
            raise IncorrectLookupParameters
        try:
            self.all_filters, *rest = super().get_filters(request)
        # No time, a time before the year 1 or after 9999, or an unknown filter. Django would show an error page.
        except (ValueError, OverflowError, DisallowedModelAdminLookup) as error:
            raise IncorrectLookupParameters from error
        active = [spec for spec in self.all_filters if spec.used_parameters]
        for spec in active:
            if not isinstance(spec, TimeFilter) and not any(choice["selected"] for choice in spec.choices(self)):
                raise IncorrectLookupParameters  # an unknown value; Django would show an empty list
        indexed = (TimeFilter,) if index_lookups else (TimeFilter, IndexedFilter)
        self.unindexed_filters = [spec for spec in active if not isinstance(spec, indexed)]
        self.uses_time_index = not index_lookups and not any(isinstance(spec, IndexedFilter) for spec in active)
        return [spec for spec in self.all_filters if spec not in self.unindexed_filters], *rest

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet:
        self.query = search_terms.read(request, self.query)
        for key in (OLDER_THAN, NEWER_THAN):  # Django would filter by them, and every link would repeat them
            self.filter_params.pop(key, None)
        self.indexed_queryset = super().get_queryset(request, exclude_parameters)
        if self.uses_time_index:
            self.indexed_queryset = self.indexed_queryset.filter(self.model_admin.index_condition)
        queryset = self.indexed_queryset
        for spec in self.unindexed_filters:
            queryset = spec.queryset(request, queryset)
        self.filter_specs = self.all_filters  # the sidebar shows all of them
        return queryset

    def get_results(self, request: HttpRequest) -> None:
        """Load one page, starting at the cursor in the URL.

            newest  ←  ?newer_than=[first row]   this page   ?older_than=[last row]  →  oldest

        A page that follows `newer_than` is read from oldest to newest, and reversed for display.
        """
        older_than, newer_than = request.GET.get(OLDER_THAN), request.GET.get(NEWER_THAN)
        newest_first = newer_than is None
        cursor = older_than if newest_first else newer_than
        try:
            rows, scan_end = self._scan_window(cursor, newest_first)
        except ValueError as error:
            raise IncorrectLookupParameters from error
        page = list(rows[: self.list_per_page + 1])
        has_more = len(page) > self.list_per_page
        page = page[: self.list_per_page]
        if has_more:
            next_cursor = cursor_of(page[-1])
        else:
            next_cursor = scan_end and cursor_of(scan_end)
            self.scanned_to = scan_end and scan_end.created_at
        has_previous = cursor and cursor != _OLDEST_CURSOR  # "Oldest" begins where no row is older
        previous_cursor = (cursor_of(page[0]) if page else cursor) if has_previous else None
        cursors = (next_cursor, previous_cursor)
        self.older_cursor, self.newer_cursor = cursors if newest_first else reversed(cursors)
        self.is_newest_first = newest_first
        for row in page:
            row.reader = request  # read by columns; see `core.admin.base.link`
        self.result_list = page if newest_first else page[::-1]
        self.is_complete = not (cursor or has_more or scan_end)
        self._set_pagination_attributes()

    def _scan_window(self, cursor: str | None, newest_first: bool) -> tuple[QuerySet, Any]:
        """Return the rows after `cursor`, and the last row to scan if there may be more rows after it.

        Raises ValueError if the cursor is invalid.
        """
        order = ordering(newest_first)
        conditions = [after_cursor(self.model, cursor, newest_first)] if cursor else []
        rows = self.queryset.filter(*conditions).order_by(*order)
        if not self.unindexed_filters:
            return rows, None
        window = self.indexed_queryset.filter(*conditions).order_by(*order)
        window = window.select_related(None).only("id", "created_at")
        last = next(iter(window[MAX_SCANNED_ROWS - 1 : MAX_SCANNED_ROWS]), None)
        if last is None:
            return rows, None
        # The condition on time bounds the index scan. PostgreSQL derives no bound from the `exclude`.
        bound = {f"created_at__{'gte' if newest_first else 'lte'}": last.created_at}
        return rows.filter(**bound).exclude(after_cursor(self.model, cursor_of(last), newest_first)), last

    def _set_pagination_attributes(self) -> None:
        """Set what Django's `get_results` sets and its templates read."""
        self.result_count = len(self.result_list)
        self.full_result_count = None
        self.show_full_result_count = False
        self.show_admin_actions = True
        self.can_show_all = self.show_all = self.multi_page = False

    # Read by our templates.

    @property
    def page_links(self) -> list[tuple[str, str]]:
        """Return (label, URL) of the links to other pages."""
        links: list[tuple[str, dict[str, Any], str | None]] = [
            ("« Newest", {}, self.newer_cursor),
            ("‹ Newer", {NEWER_THAN: self.newer_cursor}, self.newer_cursor),
            ("Older ›", {OLDER_THAN: self.older_cursor}, self.older_cursor),
            ("Oldest »", {NEWER_THAN: _OLDEST_CURSOR}, self.older_cursor),
        ]
        return [(label, self.get_query_string(parameters)) for label, parameters, cursor in links if cursor]

    @property
    def search_url(self) -> str:
        """Return the URL that a new search is sent to. It repeats the filters, without the lookups of links."""
        return self.get_query_string({}, [main.SEARCH_VAR, *self.linked_lookups])

    @property
    def max_scanned_rows(self) -> str:
        return f"{MAX_SCANNED_ROWS:,}"

    @property
    def is_filtered(self) -> bool:
        return bool(self.query or self.has_active_filters or self.get_filters_params())

    @cached_property
    def estimated_count(self) -> str:
        """Return the table's row count as PostgreSQL last estimated it, or "" without an estimate."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)", [self.opts.db_table])
            (rows,) = cursor.fetchone()
        return f"{rows:,}" if rows > 0 else ""

    def date_links(self) -> list[tuple[str, str]]:
        return date_links(self)
