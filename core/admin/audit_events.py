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

from core.admin.audit_event_rows import describe, object_model, table_name
from core.admin.base import ReadOnlyAdmin, link, table
from core.admin.changelist import ChangeList
from core.admin.display import short_id, time_element
from core.admin.filters import IndexedFilter, TimeFilter
from core.admin.search_terms import parse_uuid
from core.admin.stored_text import stored_texts
from core.admin.user_search import add_links
from core.models import MATCHES_TIME_INDEX, AuditEvent, Session, User

_RELATED_MODELS: dict[str, type[Model]] = {"permission_id": Permission, "group_id": Group}
_SHOWN_AS_LINKS = ("subject", "session")  # in `changes`


def _described(attribute: str, description: str) -> Any:
    """Return a column that shows what `describe` has set."""

    @admin.display(description=description, empty_value="–")
    def column(_admin: Any, event: AuditEvent) -> Any:
        return getattr(event, attribute)

    return column


class AuditEventChangeList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        describe(request, self.result_list)


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("time", "actor", "action", "object_name", "changed", "address", "short_trace_id")
    list_filter = (("action", IndexedFilter), ("created_at", TimeFilter))
    index_condition = MATCHES_TIME_INDEX
    allowed_lookups = (
        "object_id__exact", "actor_id__exact", "trace_id__exact", "subject_id__exact", "session_id__exact",
    )  # fmt: skip
    search_help_text = "ID of an object, a user or a conversation, email of the acting user, address or trace ID"
    fields = (
        ("time", "action"),
        ("actor", "actor_id"),
        ("object_name", "object_id"),
        ("subject", "conversation"),
        ("address", "trace_id"),
        "changes_table",
        "related_events",
    )
    readonly_fields = ("time", "actor", "object_name", "subject", "conversation", "changes_table", "related_events")
    actor = _described("actor", "who")
    changed = _described("changed", "changes")
    subject = _described("subject", "whose data")
    conversation = _described("conversation", "conversation")

    @admin.display(description="time")
    def time(self, event: AuditEvent) -> str:
        return time_element(event.created_at)

    @admin.display(description="object")
    def object_name(self, event: AuditEvent) -> str:
        if not event.table:
            return "–"
        return format_html_join(" ", "{}", ((part,) for part in (table_name(event.table), event.object)))  # type: ignore[attr-defined]

    @admin.display(description="trace ID")
    def short_trace_id(self, event: AuditEvent) -> str:
        return short_id(event.trace_id)

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
                (column, display(column, before), display(column, after))
                for column, (before, after) in changes
                if column not in _SHOWN_AS_LINKS
            )
        except (AttributeError, TypeError, ValueError, RecursionError):  # not in the format of the triggers
            return text
        return table(("column", "before", "after"), rows) if rows else "–"

    @admin.display(description="related events")
    def related_events(self, event: Any) -> SafeString:
        model, key = object_model(event.table), parse_uuid(event.object_id)
        related = (
            ("same object", "object_id", event.object_id),
            ("same user", "actor_id", event.actor_id),
            ("same request", "trace_id", event.trace_id),
            # An event of a user or a session itself leads to the disclosures too, also after it was deleted.
            ("disclosures of this user's data", "subject_id", event.subject_id or (key if model is User else None)),
            ("disclosures of this conversation", "session_id", event.session_id or (key if model is Session else None)),
        )
        links = (
            link(label, "auditevent_changelist", request=event.reader, **{f"{column}__exact": value})
            for label, column, value in related
            if value
        )
        return format_html_join(" · ", "{}", ((item,) for item in links))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return AuditEventChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        event = super().get_object(request, object_id, from_field)
        if event is not None:
            describe(request, [event])
        return event

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).defer("changes")  # not in the list, and read by `changes_table`

    def search(self, request: HttpRequest, events: QuerySet, term: str) -> QuerySet:
        """Search the trail's own columns, because users and rows may have been deleted since.

        An email finds what that user did. Links lead to the disclosures of the data of the users that match.
        """
        lookups: list[dict[str, Any]] = [{"trace_id": term}, {"object_id": term}]
        if "@" in term:
            lookups = [{"actor_email": term.lower()}]
        if key := parse_uuid(term):
            lookups += [{name: key} for name in ("actor_id", "pk", "subject_id", "session_id")]
            lookups[1:2] = [{"object_id": str(key)}]
        if address := _parse_address(term):
            lookups += [{"address": address}]
        matches = next((events.filter(**lookup) for lookup in lookups if events.filter(**lookup).exists()), None)
        if matches is None or "@" in term or key:
            add_links(request, term, "Who viewed the data of", "auditevent", "subject_id__exact")
        return events.none() if matches is None else matches

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def _parse_address(term: str) -> str | None:
    try:
        return str(ip_address(term))
    except ValueError:
        return None
