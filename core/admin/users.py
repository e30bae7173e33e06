"""Pages of users and groups.

Only superusers may grant permissions or edit staff accounts, since either can lead to PHI. The rules for passwords and
the second factor are in `core.admin.account_security`.
"""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core import deletion, tasks
from core.admin import user_search
from core.admin.account_security import AccountSecurityAdmin, withdraw_passwords_of_others
from core.admin.base import AuditedModelAdmin, LargeTableAdmin, link
from core.admin.display import id_field, shortened_column, time_column
from core.admin.exports import ExportAdmin
from core.admin.filters import TimeFilter
from core.admin.large_deletion import LargeDeletionAdmin
from core.admin.permission_picker import PermissionPickerAdmin
from core.auth.ended_logins import end_logins
from core.models import Message, Session, User

PRIVILEGED_FIELDS = ("is_staff", "is_superuser", "is_emergency", "groups", "user_permissions")


@admin.register(User)
class UserAdmin(
    AccountSecurityAdmin,
    ExportAdmin,
    LargeDeletionAdmin,
    LargeTableAdmin,
    PermissionPickerAdmin,
    DjangoUserAdmin,
):
    fieldsets = (
        (None, {"fields": ("email", "password", "full_name", "specialty", "sessions")}),
        ("Permissions", {"fields": ("is_active", *PRIVILEGED_FIELDS)}),
        ("Login", {"fields": ("must_change_password", "second_factor")}),
        ("Record", {"fields": (("full_key", "audit_events_link"), ("created", "updated", "last_login_time"))}),
    )
    add_fieldsets = (
        (
            None,
            {
                "fields": (
                    "email",
                    "full_name",
                    "specialty",
                    "usable_password",
                    "password1",
                    "password2",
                    "confirmation",
                )
            },
        ),
    )
    list_display = ("short_email", "short_name", "account", "sessions", "short_specialty", "last_login_time", "created")
    list_filter = ("is_active", "is_staff", "is_superuser", ("created_at", TimeFilter))
    search_help_text = user_search.HELP_TEXT
    ordering = ("-created_at", "-id")
    readonly_fields = (
        "full_key",
        "created",
        "updated",
        "last_login_time",
        "sessions",
        "audit_events_link",
        "must_change_password",
        "second_factor",
    )
    actions = ("end_logins_of_selected", "delete_selected")
    delete_task = tasks.delete_user
    full_key = id_field
    short_email = shortened_column("email", "email")
    short_name = shortened_column("full_name", "name")
    short_specialty = shortened_column("specialty", "specialty")
    created = time_column("created_at", "created")
    updated = time_column("updated_at", "updated")
    last_login_time = time_column("last_login", "last login")

    @admin.display(description="account")
    def account(self, user: User) -> str:
        kind = "superuser" if user.is_superuser else "staff" if user.is_staff else "user"
        remarks = ("emergency" if user.is_emergency else "", "" if user.is_active else "inactive")
        return ", ".join(filter(None, (kind, *remarks)))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.end_logins_view)
        return [path("<path:object_id>/end-logins/", view, name="core_user_end_logins"), *super().get_urls()]

    def end_logins_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if request.method == "POST":  # otherwise redirected here after a login, or a typed URL
            user = self.get_object(request, unquote(object_id))
            if not self.has_change_permission(request, user):
                raise PermissionDenied
            if user is None:
                raise Http404
            end_logins(user, request)
            messages.success(request, "All logins of this user have ended.")
        return HttpResponseRedirect(reverse("admin:core_user_change", args=[object_id]))

    @admin.action(permissions=["change"], description="End all logins of selected users")
    def end_logins_of_selected(self, request: HttpRequest, users: QuerySet) -> None:
        for user in users:
            if not self.has_change_permission(request, user):
                raise PermissionDenied
            end_logins(user, request)
        messages.success(request, "All logins of the selected users have ended.")

    @admin.display(description="sessions")
    def sessions(self, user: Any) -> SafeString:
        return link("View sessions", "session_changelist", request=user.reader, user__id__exact=user.pk)

    @admin.display(description="activity")
    def audit_events_link(self, user: Any) -> SafeString:
        activity = link("View audit events", "auditevent_changelist", request=user.reader, actor_id__exact=user.pk)
        disclosures = link(
            "Who viewed this user's data", "auditevent_changelist", request=user.reader, subject_id__exact=user.pk
        )
        return format_html("{} · {}", activity, disclosures)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*super().get_readonly_fields(request, obj), *(() if request.user.is_superuser else PRIVILEGED_FIELDS))

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and self._can_modify(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and self._can_modify(request, obj)

    @staticmethod
    def _can_modify(request: HttpRequest, user: User | None) -> bool:
        return request.user.is_superuser or user is None or not (user.is_staff or user.is_superuser)

    def search(self, request: HttpRequest, users: QuerySet, term: str) -> QuerySet:
        return user_search.search(request, term)

    def count_deletions(self, users: QuerySet) -> dict[type[Model], int]:
        return {
            User: users.count(),
            Session: Session.objects.filter(user__in=users).count(),
            Message: Message.objects.filter(session__user__in=users).count(),
        }

    def sessions_of(self, keys: list[Any]) -> QuerySet[Session]:
        return Session.objects.filter(user__in=keys)

    def delete_now(self, user: Any) -> None:
        deletion.delete_user(user)


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(AuditedModelAdmin, PermissionPickerAdmin, DjangoGroupAdmin):
    """Deletes a group without loading its members, which Django's confirmation page lists one by one.

    Only superusers add and change groups, because a group's permissions are those of its members.
    """

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser and super().has_change_permission(request, obj)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if set(form.cleaned_data["permissions"]) - set(form.initial.get("permissions", ())):
            withdraw_passwords_of_others(User.objects.filter(groups=form.instance))

    def count_deletions(self, groups: QuerySet) -> dict[type[Model], int]:
        return {Group: groups.count()}
