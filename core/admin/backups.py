"""The list of backups, which staff can only view."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from core.admin.base import AuditedModelAdmin
from core.admin.display import utc_text
from core.models import Backup


@admin.register(Backup)
class BackupAdmin(AuditedModelAdmin):
    list_display = ("started_at", "kind", "finished_at", "size", "verified_at", "recovery_seconds", "data_age_seconds")
    list_filter = ("kind",)
    sortable_by = ()

    def display_name(self, backup: Any) -> str:
        return f"{backup.get_kind_display()}, {utc_text(backup.started_at)}"

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        return lookup == "kind__exact" and value in Backup.Kind.values

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Backup | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Backup | None = None) -> bool:
        return False
