"""The audit trail: read by staff who may, changed by nobody."""

from ipaddress import ip_address
from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from core.admin.change_list import TimeFilter
from core.admin.find import Inspect, as_key
from core.models import AuditEvent, User


@admin.register(AuditEvent)
class AuditEventAdmin(Inspect):
    list_display = ("created_at", "action", "table", "object_id", "actor_email", "address", "trace_id")
    list_filter = ("action", ("created_at", TimeFilter))
    search_help_text = "id of an object or of who acted, email of who acted, address, or trace id"
    fields = (
        ("created_at", "action"),
        ("table", "object_id"),
        ("actor_email", "actor_id"),
        ("address", "trace_id"),
        "what_changed",
    )
    readonly_fields = ("what_changed",)

    @admin.display(description="changes")
    def what_changed(self, event: AuditEvent) -> SafeString:
        def shown(value: Any) -> str:
            return "–" if value is None else str(value)

        rows = ((column, shown(before), shown(after)) for column, (before, after) in sorted(event.changes.items()))
        body = format_html_join("", "<tr><th>{}</th><td>{}</td><td>{}</td></tr>", rows)
        heads = "<tr><th>column</th><th>before</th><th>after</th></tr>"
        return SafeString(f"<table><thead>{heads}</thead><tbody>{body}</tbody></table>") if body else SafeString("–")

    def find(self, events: QuerySet, term: str) -> QuerySet:
        if "@" in term:
            user = User.objects.filter(email=term).only("pk").first()
            return events.filter(actor_id=user.pk) if user else events.none()
        key = as_key(term)
        for condition in ({"object_id": str(key)}, {"actor_id": key}, {"pk": key}) if key else ():
            if events.filter(**condition).exists():
                return events.filter(**condition)
        try:
            return events.filter(address=str(ip_address(term)))
        except ValueError:
            by_trace = events.filter(trace_id=term)
            return by_trace if by_trace.exists() else events.filter(object_id=term)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
