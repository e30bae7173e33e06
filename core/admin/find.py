"""What the pages of all tables share: search by index, counted deletion, the way to the audit trail."""

import uuid
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.admin.change_list import ChangeList

MOST_FOUND = 1000  # rows that a search may bring where their order by time has no index


def link(text: str, page: str, *args: Any, **query: Any) -> SafeString:
    return format_html('<a href="{}">{}</a>', reverse(f"admin:core_{page}", args=args, query=query or None), text)


def as_key(term: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(term)
    except ValueError:
        return None


def some(found: QuerySet) -> QuerySet:
    """Narrows to rows found by an index that isn't in the order of time: so many that sorting them is nothing."""
    keys = found.order_by().values_list("pk", flat=True)[:MOST_FOUND]
    rows: QuerySet = found.model._default_manager.filter(pk__in=list(keys))
    return rows


class AtAnySize(admin.ModelAdmin):
    """Base of the pages: none of them counts, sorts or scans a whole table."""

    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each is a count
    date_hierarchy = "created_at"
    sortable_by = ()  # one order, the one by time, has an index
    search_fields = ("id",)  # shows the box; `find` is what searches

    def find(self, rows: QuerySet, term: str) -> QuerySet:
        """Returns the rows that `term` means, by an index."""
        raise NotImplementedError

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ChangeList

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """Django's own way casts a key to text, or looks into every row. What isn't in an index is not searched."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = self.find(self.model._default_manager.all(), term)
        if not found.exists():
            text = f"Not found by {self.search_help_text}. Anything else would need the whole table read: not done."
            messages.warning(request, text)
            return queryset.none(), False
        return queryset & found, False

    def response_action(self, request: HttpRequest, queryset: QuerySet, *args: Any) -> HttpResponse | None:
        """An action is for the rows that were ticked: never for all of a table."""
        form = request.POST.copy()
        form["select_across"] = "0"
        request.POST = form  # type: ignore[assignment]
        return super().response_action(request, queryset, *args)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:core_auditevent_changelist", query={"q": object_id}))

    # Deletion: what goes is counted, not listed; one statement a table, not one a row.

    def what_goes(self, rows: QuerySet) -> dict[type[Model], int]:
        """Returns how many rows of each table deleting `rows` takes with it."""
        return {self.model: rows.count()}

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        rows = self.model._default_manager.filter(pk__in=[row.pk for row in objs])
        counts = self.what_goes(rows)
        allowed = {model: self.admin_site.get_model_admin(model).has_delete_permission(request) for model in counts}
        named = {str(model._meta.verbose_name_plural): f"{count:,}" for model, count in counts.items()}
        return [str(row) for row in rows], named, {m._meta.verbose_name for m, ok in allowed.items() if not ok}, []


class Inspect(AtAnySize):
    """Rows that the application writes: here they can be found, looked at and deleted."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
