"""Offer only permissions that allow something in this product, in the forms of users and groups.

Django offers every permission of every installed app, for example "Can view session" twice: for conversations, and for
web sessions, which no page shows.
"""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.models import Permission
from django.db.models import Q

OFFERED = {
    "core": (
        *("add_user", "change_user", "delete_user", "view_user", "export_user"),
        *("change_session", "delete_session", "view_session", "view_phi"),
        *("delete_message", "view_message"),
        *("view_auditevent", "view_backup", "view_job"),
    ),
    "auth": ("delete_group", "view_group"),  # only superusers add and change groups
}


class PermissionPickerAdmin(admin.ModelAdmin):
    def formfield_for_manytomany(self, db_field: Any, request: Any = None, **kwargs: Any) -> Any:
        field: Any = super().formfield_for_manytomany(db_field, request, **kwargs)
        if field is not None and db_field.related_model is Permission:
            field.queryset = self._offered_permissions(db_field.name, request)
            field.label_from_instance = lambda permission: permission.name
        return field

    def _offered_permissions(self, field: str, request: Any) -> Any:
        """Return the permissions to choose from, with those that the row has, which saving the form would remove."""
        offered = Q()
        for app, codenames in OFFERED.items():
            offered |= Q(content_type__app_label=app, codename__in=codenames)
        if request and request.resolver_match and (key := request.resolver_match.kwargs.get("object_id")):
            offered |= Q(pk__in=self.model._default_manager.filter(pk=unquote(key)).values(field))
        return Permission.objects.filter(offered).order_by("content_type__app_label", "content_type__model", "codename")
