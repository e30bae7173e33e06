"""Read-only pages of the audit trail."""

import json
from ipaddress import ip_address
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from core.admin.base import ReadOnlyAdmin, link, table
from core.admin.filters import IndexedFilter, TimeFilter
from core.admin.search_terms import parse_uuid
from core.admin.stored_text import stored_texts
from core.models import MATCHES_TIME_INDEX, AuditEvent, Message, Session, User

_LINKED_MODELS: dict[str, type[Model]] = {model._meta.db_table: model for model in (User, Session, Message)}
_RELATED_MODELS: dict[str, type[Model]] = {"permission_id": Permission, "group_id": Group}


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "action", "table", "object_id", "actor_email", "address", "trace_id")
    list_filter = (("action", IndexedFilter), ("created_at", TimeFilter))
    index_condition = MATCHES_TIME_INDEX
    allowed_lookups = ("object_id__exact", "actor_id__exact", "trace_id__exact")
    search_help_text = "object id, actor id, actor email, address or trace id"
    fields = (
        ("created_at", "action"),
        ("table", "object_link"),
        ("actor_email", "actor_id"),
        ("address", "trace_id"),
        "changes_table",
        "related_events",
    )
    readonly_fields = ("object_link", "changes_table", "related_events")

    @admin.display(description="object id")
    def object_link(self, event: Any) -> str:
        model = _LINKED_MODELS.get(event.table)
        if model is None:
            return str(event.object_id)
        return link(event.object_id, f"{model._meta.model_name}_change", event.object_id, request=event.reader)

    @admin.display(description="changes")
    def changes_table(self, event: AuditEvent) -> str:
        def display(column: str, value: Any) -> str:
            if value is None:
                return "–"
            model = _RELATED_MODELS.get(column) if isinstance(value, int) else None
            related = model and model._default_manager.filter(pk=value).first()
            return f"{value}: {related}" if related else str(value)

        text = stored_texts(event, ["changes"])["changes"]
        try:
            changes = json.loads(text or "{}").items()
            rows = sorted(
                (column, display(column, before), display(column, after)) for column, (before, after) in changes
            )
        except (AttributeError, TypeError, ValueError, RecursionError):  # not in the format of the triggers
            return text
        return table(("column", "before", "after"), rows) if rows else "–"

    @admin.display(description="all events of")
    def related_events(self, event: Any) -> SafeString:
        columns = (("object", "object_id"), ("actor", "actor_id"), ("request", "trace_id"))
        values = ((label, column, getattr(event, column)) for label, column in columns)
        links = (
            link(f"this {label}", "auditevent_changelist", request=event.reader, **{f"{column}__exact": value})
            for label, column, value in values
            if value
        )
        return format_html_join(" · ", "{}", ((item,) for item in links))

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).defer("changes")  # not in the list, and read by `changes_table`

    def search(self, request: HttpRequest, events: QuerySet, term: str) -> QuerySet:
        """Search the trail's own columns only, because the actor may have been deleted since."""
        if "@" in term:
            return events.filter(actor_email=term.lower())
        lookups: list[dict[str, Any]] = [{"trace_id": term}, {"object_id": term}]
        if key := parse_uuid(term):
            lookups += [{"object_id": str(key)}, {"actor_id": key}, {"pk": key}]
        if address := _parse_address(term):
            lookups += [{"address": address}]
        return next((events.filter(**lookup) for lookup in lookups if events.filter(**lookup).exists()), events.none())

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def _parse_address(term: str) -> str | None:
    try:
        return str(ip_address(term))
    except ValueError:
        return None
