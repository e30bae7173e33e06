"""What the pages of all tables share: search by index, counted deletion, the way to the audit trail."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from core.admin.changelist import ChangeList

MAX_MATCHES = 1000  # rows that a search may bring where their order by time has no index
_TIMES = ("gte", "lt", "year", "month", "day")


def link(text: str, page: str, *args: Any, **query: Any) -> SafeString:
    return format_html('<a href="{}">{}</a>', reverse(f"admin:core_{page}", args=args, query=query or None), text)


def table(heads: Iterable[str], rows: Iterable[Sequence[Any]]) -> SafeString:
    def joined(form: str, parts: Iterable[Any]) -> SafeString:
        return format_html_join("", form, ((part,) for part in parts))

    head = joined('<th scope="col">{}</th>', heads)
    body = joined("<tr>{}</tr>", (joined("<td>{}</td>", row) for row in rows))
    return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)


def as_key(term: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(term)
    except ValueError:
        return None


def limit_matches(request: HttpRequest, found: QuerySet) -> QuerySet:
    """Narrows to rows found by an index that isn't in the order of time: so many that sorting them is nothing."""
    keys = list(found.order_by().values_list("pk", flat=True)[: MAX_MATCHES + 1])
    if len(keys) > MAX_MATCHES:
        messages.warning(request, f"More than {MAX_MATCHES:,} match. Here are {MAX_MATCHES:,} of them, not the newest.")
    rows: QuerySet = found.model._default_manager.filter(pk__in=keys[:MAX_MATCHES])
    return rows


class AuditedModelAdmin(admin.ModelAdmin):
    """The history of an object is its audit trail. Django's own log beside it would be one that can be changed."""

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        trail = {"object_id__exact": object_id}
        return HttpResponseRedirect(reverse("admin:core_auditevent_changelist", query=trail))

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        """Django's own words quote what was typed, and the web session keeps them until they are shown."""
        messages.warning(request, f"There is no such {opts.verbose_name}. Perhaps it was deleted?")
        return HttpResponseRedirect(reverse("admin:index"))

    def log_addition(self, *args: Any) -> Any: ...
    def log_change(self, *args: Any) -> Any: ...
    def log_deletions(self, *args: Any) -> Any: ...

    # Deletion: what goes is counted, not listed; one statement a table, not one a row.

    def what_goes(self, rows: QuerySet) -> dict[type[Model], int]:
        """Returns how many rows of each table deleting `rows` takes with it."""
        return {self.model: rows.count()}

    def called(self, row: Model) -> str:
        """Returns how to name a row to who is about to delete it."""
        return str(row)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        rows = list(objs)
        counts = self.what_goes(self.model._default_manager.filter(pk__in=[row.pk for row in rows]))
        allowed = {model: self.admin_site.get_model_admin(model).has_delete_permission(request) for model in counts}
        allowed[self.model] = all(self.has_delete_permission(request, row) for row in rows)
        named = {str(model._meta.verbose_name_plural): f"{count:,}" for model, count in counts.items()}
        refused = {model._meta.verbose_name for model, ok in allowed.items() if not ok}
        return [self.called(row) for row in rows], named, refused, []


class LargeTableAdmin(AuditedModelAdmin):
    """Base of the pages: none of them counts, sorts or scans a whole table."""

    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each is a count
    date_hierarchy = "created_at"
    sortable_by = ()  # one order, the one by time, has an index
    search_fields = ("id",)  # shows the box; `find` is what searches
    every_row = Q()  # what a query says to be served by the index on time
    links: tuple[str, ...] = ()  # lookups that other pages link to, each with an index by time

    def find(self, request: HttpRequest, rows: QuerySet, term: str) -> QuerySet:
        """Returns the rows that `term` means, by an index."""
        raise NotImplementedError

    def not_found(self, term: str) -> str:
        return f"Not found by {self.search_help_text}. Anything else would need the whole table read: not done."

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ChangeList

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Django's own lets an address filter by any column: a scan, and a way to guess what is masked."""
        named: Iterable[Any] = self.list_filter
        filters = {f"{name if isinstance(name, str) else name[0]}__exact" for name in named}
        times = {f"{self.date_hierarchy}__{part}" for part in _TIMES}
        return lookup in {*filters, *times, *self.links} and "\0" not in value

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """Django's own way casts a key to text, or looks into every row. What isn't in an index is not searched."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = self.find(request, self.model._default_manager.all(), term)
        if not found.exists():
            messages.warning(request, self.not_found(term))
            return queryset.none(), False
        return queryset & found, False

    def response_action(self, request: HttpRequest, queryset: QuerySet, *args: Any) -> HttpResponse | None:
        """An action is for the rows that were ticked: never for all of a table."""
        form = request.POST.copy()
        form["select_across"] = "0"
        # Django would look for what is no key, and break.
        form.setlist("_selected_action", [key for key in form.getlist("_selected_action") if as_key(key)])
        request.POST = form  # type: ignore[assignment]
        return super().response_action(request, queryset, *args)


class ReadOnlyAdmin(LargeTableAdmin):
    """Rows that the application writes: here they can be found, looked at and deleted."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
