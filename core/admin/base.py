"""Base ModelAdmins: indexed search, deletion by count, History links to the audit trail."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import BadRequest, ValidationError
from django.db.models import BooleanField, F, Func, Model, Q, QuerySet, UUIDField, Value
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from core.admin import search_terms
from core.admin.changelist import ChangeList
from core.admin.row_names import NamingModelAdmin
from core.admin.scripts import NeededScriptsAdmin
from core.auth.session_expiry import is_automatic_refresh

MAX_MATCHES = 1000  # rows, of a search whose index is not ordered by time
_KEYS = ArrayField(UUIDField())
_TIME_LOOKUPS = ("gte", "lt", "around", "year", "month", "day")


def link(text: str, page: str, *args: Any, request: HttpRequest, **query: Any) -> SafeString:
    """Return a link to a page such as `user_change`, or only the text if the reader may not view its model.

    Columns get no request. They pass `row.reader`, the request that the row was loaded for.
    """
    model = apps.get_model("core", page.partition("_")[0])
    if not admin.site.get_model_admin(model).has_view_permission(request):
        return format_html("{}", text)
    return format_html('<a href="{}">{}</a>', reverse(f"admin:core_{page}", args=args, query=query), text)


def table(headings: Iterable[str], rows: Iterable[Sequence[Any]]) -> SafeString:
    def join(template: str, values: Iterable[Any]) -> SafeString:
        return format_html_join("", template, ((value,) for value in values))

    head = join('<th scope="col">{}</th>', headings)
    body = join("<tr>{}</tr>", (join("<td>{}</td>", row) for row in rows))
    return format_html('<table class="cards"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>', head, body)


def limit_matches(request: HttpRequest, matches: QuerySet, hint: str = "Narrow your search.") -> QuerySet:
    """Limit matches from an index that is not ordered by time to MAX_MATCHES, so that sorting them stays cheap."""
    keys = list(matches.order_by().values_list("pk", flat=True)[: MAX_MATCHES + 1])
    if len(keys) > MAX_MATCHES:
        messages.warning(
            request,
            f"More than {MAX_MATCHES:,} match; showing an arbitrary {MAX_MATCHES:,}. {hint}",
        )
    rows: QuerySet = matches.model._default_manager.filter(_HasKey(F("pk"), Value(keys[:MAX_MATCHES], _KEYS)))
    return rows


class _HasKey(Func):
    """Match the rows with these keys by the primary key: `id = ANY(ARRAY(SELECT unnest(keys)))`.

    For `pk__in` with 1,000 keys PostgreSQL may scan the index on time instead, and the whole table if the rows are old.
    """

    template, arg_joiner = "%(expressions)s)))", " = ANY(ARRAY(SELECT unnest("
    output_field = BooleanField()


def is_key(model: type[Model], value: str) -> bool:
    """Return whether a text can be the key of a row."""
    field: Any = model._meta.pk
    try:
        field.to_python(value)
    except ValidationError:
        return False
    return True


class AuditedModelAdmin(NamingModelAdmin, NeededScriptsAdmin):
    """A ModelAdmin whose History page is the audit trail. Django's admin log is off, because it can be changed."""

    show_facets = admin.ShowFacets.NEVER  # each facet is a count

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        query = {"object_id__exact": object_id}
        return HttpResponseRedirect(reverse("admin:core_auditevent_changelist", query=query))

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        """Replace Django's message, which would store text from the URL in the session. There is no public hook."""
        if is_automatic_refresh(request):
            return HttpResponseNotFound()  # jobs.js shows it; a message would be added at every refresh
        messages.warning(request, f"This {opts.verbose_name} does not exist. It may have been deleted.")
        return HttpResponseRedirect(reverse("admin:index"))

    def get_object(self, request: HttpRequest, *args: Any) -> Any:
        row = super().get_object(request, *args)
        if row is not None:
            row.reader = request  # read by columns; see `link`
        return row

    def log_addition(self, *args: Any) -> Any: ...
    def log_change(self, *args: Any) -> Any: ...
    def log_deletions(self, *args: Any) -> Any: ...

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Refuse "Save as new", which no page offers. Django would fail to render the form's errors (500)."""
        if "_saveasnew" in request.POST:
            raise BadRequest
        return super().changeform_view(request, *args, **kwargs)

    def response_action(self, request: HttpRequest, queryset: QuerySet, *args: Any) -> HttpResponse | None:
        """Apply the action to the selected rows only, never to the whole table."""
        form = request.POST.copy()
        form["select_across"] = "0"
        # Django would raise an exception (500) for a value that can't be a key.
        form.setlist(
            ACTION_CHECKBOX_NAME, [key for key in form.getlist(ACTION_CHECKBOX_NAME) if is_key(self.model, key)]
        )
        request.POST = form  # type: ignore[assignment]
        return super().response_action(request, queryset, *args)

    # Django's confirmation page loads and lists every related row. Ours counts them, one query per table.

    def count_deletions(self, rows: QuerySet) -> dict[type[Model], int]:
        """Return the number of rows per model that deleting `rows` would delete."""
        return {self.model: rows.count()}

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        rows = list(objs)
        counts = self.count_deletions(self.model._default_manager.filter(pk__in=[row.pk for row in rows]))
        allowed = {model: self.admin_site.get_model_admin(model).has_delete_permission(request) for model in counts}
        allowed[self.model] = all(self.has_delete_permission(request, row) for row in rows)
        summary = {str(model._meta.verbose_name_plural): f"{count:,}" for model, count in counts.items()}
        forbidden = {model._meta.verbose_name for model, is_allowed in allowed.items() if not is_allowed}
        return self.names_of_deleted(request, rows), summary, forbidden, []


class LargeTableAdmin(AuditedModelAdmin):
    """A ModelAdmin that never counts, sorts or scans a whole table."""

    list_per_page = 50
    show_full_result_count = False
    date_hierarchy = "created_at"
    sortable_by = ()  # only the order by time has an index
    search_fields = ("id",)  # makes Django show the search box; `search` does the searching
    index_condition = Q()  # condition of the partial index on created_at, if the index is partial
    allowed_lookups: tuple[str, ...] = ()  # lookups that other pages link to; each needs an index ordered by time

    # Columns that a list leaves out if a link's lookup makes their value the same in every row: {lookup: names}.
    constant_columns: dict[str, tuple[str, ...]] = {}

    def get_list_display(self, request: HttpRequest) -> Any:
        constant = {name for lookup in request.GET for name in self.constant_columns.get(lookup, ())}
        return [name for name in super().get_list_display(request) if name not in constant]

    def search(self, request: HttpRequest, rows: QuerySet, term: str) -> QuerySet:
        """Return the rows that match `term`, found by an index."""
        raise NotImplementedError

    def no_results_message(self, request: HttpRequest, term: str) -> str:
        return f"No {self.opts.verbose_name} matches. Search by {self.search_help_text}."

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ChangeList

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if url := search_terms.redirect_url(request):
            return HttpResponseRedirect(url)
        return super().changelist_view(request, extra_context)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Allow only lookups that an index or a list filter supports.

        Django allows any column, which means scans, and would let users guess masked values prefix by prefix without
        an audit event.
        """
        list_filter: Iterable[Any] = self.list_filter
        filters = {f"{item if isinstance(item, str) else item[0]}__exact" for item in list_filter}
        times = {f"{self.date_hierarchy}__{part}" for part in _TIME_LOOKUPS}
        return lookup in {*filters, *times, *self.allowed_lookups} and "\0" not in value

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """Search by index only. Django's own search casts keys to text or scans every row."""
        term = search_term.strip()
        if not term:
            return queryset, False
        matches = self.search(request, self.model._default_manager.all(), term)
        if not matches.exists():
            messages.warning(request, self.no_results_message(request, term))
            return queryset.none(), False
        return queryset & matches, False


class ReadOnlyAdmin(LargeTableAdmin):
    """A ModelAdmin for rows that only the application creates and changes. Staff can view and delete them."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
