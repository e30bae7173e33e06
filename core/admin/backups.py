"""The list of backups, which staff can only view."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat

from core.admin.base import AuditedModelAdmin
from core.admin.display import time_column
from core.durations import format_duration
from core.models import Backup


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else format_duration(seconds)


@admin.register(Backup)
class BackupAdmin(AuditedModelAdmin):
    list_display = ("started", "kind", "finished", "size_with_unit", "verified", "recovery_time", "data_age")
    fields = ("kind", "name", ("started", "finished", "verified"), ("size_with_unit", "recovery_time", "data_age"))
    readonly_fields = fields[2] + fields[3]
    started = time_column("started_at", "started")
    finished = time_column("finished_at", "finished")
    verified = time_column("verified_at", "restored by a drill")
    list_filter = ("kind",)
    sortable_by = ()

    @admin.display(description="size")
    def size_with_unit(self, backup: Backup) -> str:
        return filesizeformat(backup.size)

    @admin.display(description="recovery time")
    def recovery_time(self, backup: Backup) -> str:
        return _duration(backup.recovery_seconds)

    @admin.display(description="age of the latest data")
    def data_age(self, backup: Backup) -> str:
        return _duration(backup.data_age_seconds)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        return lookup == "kind__exact" and value in Backup.Kind.values

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Backup | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Backup | None = None) -> bool:
        return False
