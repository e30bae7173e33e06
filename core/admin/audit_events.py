"""The audit trail: read by staff who may, changed by nobody."""

from ipaddress import ip_address
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from core.admin.base import ReadOnlyAdmin, as_key, link, table
from core.admin.filters import IndexedFilter, TimeFilter
from core.models import MATCHES_TIME_INDEX, AuditEvent, Message, Session, User

_PAGES: dict[str, type[Model]] = {model._meta.db_table: model for model in (User, Session, Message)}
_NAMED: dict[str, type[Model]] = {"permission_id": Permission, "group_id": Group}


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "action", "table", "object_id", "actor_email", "address", "trace_id")
    list_filter = (("action", IndexedFilter), ("created_at", TimeFilter))
    every_row = MATCHES_TIME_INDEX
    links = ("object_id__exact", "actor_id__exact", "trace_id__exact")
    search_help_text = "id of an object or of who acted, email of who acted, address, or trace id"
    fields = (
        ("created_at", "action"),
        ("table", "object_page"),
        ("actor_email", "actor_id"),
        ("address", "trace_id"),
        "what_changed",
        "all_events_of",
    )
    readonly_fields = ("object_page", "what_changed", "all_events_of")

    @admin.display(description="object id")
    def object_page(self, event: AuditEvent) -> str:
        model = _PAGES.get(event.table)
        return link(event.object_id, f"{model._meta.model_name}_change", event.object_id) if model else event.object_id

    @admin.display(description="changes")
    def what_changed(self, event: AuditEvent) -> str:
        def shown(column: str, value: Any) -> str:
            if value is None:
                return "–"
            named = column in _NAMED and _NAMED[column]._default_manager.filter(pk=value).first()
            return f"{value}: {named}" if named else str(value)

        changes = sorted(event.changes.items())
        rows = ((column, shown(column, before), shown(column, after)) for column, (before, after) in changes)
        return table(("column", "before", "after"), rows) if changes else "–"

    @admin.display(description="all events of")
    def all_events_of(self, event: AuditEvent) -> SafeString:
        ways = (
            ("this object", "object_id", event.object_id),
            ("who acted", "actor_id", event.actor_id),
            ("this request", "trace_id", event.trace_id),
        )
        links = (link(text, "auditevent_changelist", **{f"{key}__exact": of}) for text, key, of in ways if of)
        return format_html_join(" · ", "{}", ((one,) for one in links))

    def find(self, request: HttpRequest, events: QuerySet, term: str) -> QuerySet:
        """Takes what it finds in the trail alone: whoever acted may be gone."""
        if "@" in term:
            return events.filter(actor_email=term.lower())
        ways: list[dict[str, Any]] = [{"trace_id": term}, {"object_id": term}]
        if key := as_key(term):
            ways += [{"object_id": str(key)}, {"actor_id": key}, {"pk": key}]
        if address := _address(term):
            ways += [{"address": address}]
        return next((events.filter(**way) for way in ways if events.filter(**way).exists()), events.none())

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def _address(term: str) -> str | None:
    try:
        return str(ip_address(term))
    except ValueError:
        return None
