"""Users: made, changed and deleted here."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from core import conversations
from core.admin.find import AtAnySize, as_key, link, some
from core.models import Message, Session, User

_SHORTEST_BEGINNING = 3  # letters; fewer would mean too many


@admin.register(User)
class UserAdmin(AtAnySize, DjangoUserAdmin):
    fieldsets = (
        (None, {"fields": ("email", "password", "full_name", "specialty", "sessions")}),
        ("Permissions", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Record", {"fields": ("id", "created_at", "updated_at", "last_login")}),
    )
    add_fieldsets = (
        (None, {"fields": ("email", "full_name", "specialty", "usable_password", "password1", "password2")}),
    )
    list_display = ("email", "full_name", "specialty", "is_active", "is_staff", "last_login", "created_at", "sessions")
    list_filter = ("is_active", "is_staff", "is_superuser")
    search_fields = ("id",)
    search_help_text = "id, email, or the beginning of an email or a name (3 letters or more)"
    ordering = ("-created_at", "-id")
    readonly_fields = ("id", "created_at", "updated_at", "last_login", "sessions")

    @admin.display(description="sessions")
    def sessions(self, user: User) -> SafeString:
        return link("sessions", "session_changelist", user__id__exact=user.pk)

    def find(self, users: QuerySet, term: str) -> QuerySet:
        if key := as_key(term):
            return users.filter(pk=key)
        if len(term) < _SHORTEST_BEGINNING:
            return users.filter(email=term)
        by_email = some(users.filter(email__startswith=term.lower()))
        return by_email | some(users.filter(full_name__istartswith=term))

    def what_goes(self, users: QuerySet) -> dict[type[Model], int]:
        return {
            User: users.count(),
            Session: Session.objects.filter(user__in=users).count(),
            Message: Message.objects.filter(session__user__in=users).count(),
        }

    def delete_model(self, request: HttpRequest, user: Any) -> None:
        conversations.delete_user(user)

    def delete_queryset(self, request: HttpRequest, users: QuerySet) -> None:
        for user in users:
            conversations.delete_user(user)
