"""The admin of the core tables, for inspecting them: from a user to their sessions, from a session to its messages.

Personal data is shown to staff, PHI is masked: a page tells how much there is of it, not what.
"""

import json
import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.models import Message, Session, User

admin.site.site_header = admin.site.site_title = "VoiceAssist"
admin.site.index_title = "Inspect"
admin.site.empty_value_display = "–"


def masked(field: str) -> Callable[[Any, Model], str]:
    """Returns a column for a PHI field: its size instead of its value."""

    @admin.display(description=field.replace("_", " "))
    def column(_admin: Any, row: Model) -> str:
        value = getattr(row, field)
        if not value:
            return "(empty)"
        text = value if isinstance(value, str) else json.dumps(value)
        return f"●●●●●● ({len(text)} characters)"

    return column


def link(text: str, page: str, *args: Any, **query: Any) -> SafeString:
    return format_html('<a href="{}">{}</a>', reverse(f"admin:core_{page}", args=args, query=query or None), text)


class InspectAdmin(admin.ModelAdmin):
    """Rows that the application writes: here they can be found, looked at and deleted."""

    show_full_result_count = False  # else a second COUNT of the whole table, for "12 results (3,000,000 total)"
    list_per_page = 50
    search_keys: tuple[str, ...] = ()  # compared as keys if the search is a UUID
    search_texts: tuple[str, ...] = ()  # compared as they are

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """Looks the term up by indexes. Django's own way casts a key to text and scans the table."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q(pk__in=[])
        for field in self.search_texts:
            found |= Q(**{field: term})
        try:
            key = uuid.UUID(term)
        except ValueError:
            key = None
        for field in self.search_keys if key else ():
            found |= Q(**{field: key})
        return queryset.filter(found), False


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    fieldsets = (
        (None, {"fields": ("email", "password", "full_name", "specialty", "their_sessions")}),
        ("Permissions", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Record", {"fields": ("id", "created_at", "updated_at", "last_login")}),
    )
    add_fieldsets = (
        (None, {"fields": ("email", "full_name", "specialty", "usable_password", "password1", "password2")}),
    )
    list_display = ("email", "full_name", "specialty", "is_active", "is_staff", "last_login", "created_at", "sessions")
    list_filter = ("is_active", "is_staff", "is_superuser", "specialty")
    search_fields = ("email", "full_name")
    ordering = ("-id",)
    readonly_fields = ("id", "created_at", "updated_at", "last_login", "their_sessions")
    show_full_result_count = False

    @admin.display(description="sessions")
    def sessions(self, user: User) -> SafeString:
        return link("sessions", "session_changelist", user__id__exact=user.pk)

    @admin.display(description="sessions")
    def their_sessions(self, user: User) -> SafeString:
        return link("All their sessions", "session_changelist", user__id__exact=user.pk)


@admin.register(Session)
class SessionAdmin(InspectAdmin):
    list_display = (
        "id",
        "user_link",
        "mode",
        "is_archived",
        "message_count",
        "created_at",
        "ended_at",
        "messages_link",
    )
    list_filter = ("mode", "is_archived", "created_at")
    list_select_related = ("user",)
    search_keys = ("pk", "user_id")
    search_texts = ("user__email",)
    search_fields = ("id",)  # shows the search box; get_search_results is what searches
    search_help_text = "id of a session or of its user, or the user's email"
    fields = (
        ("id", "user_link", "messages_link"),
        ("mode", "is_archived", "message_count"),
        ("masked_title", "masked_context"),
        ("created_at", "updated_at", "ended_at"),
    )
    readonly_fields = ("user_link", "messages_link", "masked_title", "masked_context")
    masked_title = masked("title")
    masked_context = masked("context")

    @admin.display(description="user", ordering="user")
    def user_link(self, session: Session) -> SafeString:
        return link(session.user.email, "user_change", session.user_id)

    @admin.display(description="messages")
    def messages_link(self, session: Session) -> SafeString:
        return link("messages", "message_changelist", session__id__exact=session.pk)


@admin.register(Message)
class MessageAdmin(InspectAdmin):
    list_display = ("id", "session_link", "role", "masked_content", "model", "tokens", "contains_phi", "created_at")
    list_filter = ("role", "contains_phi", "created_at")
    search_keys = ("pk", "session_id")
    search_texts = ("client_message_id",)
    search_fields = ("id",)  # shows the search box; get_search_results is what searches
    search_help_text = "id of a message or of its session, or the client's message id. Content is not searched."
    fields = (
        ("id", "session_link", "client_message_id"),
        ("role", "model", "tokens", "contains_phi"),
        ("masked_content", "masked_audio_url"),
        ("masked_tool_calls", "masked_tool_results", "masked_metadata"),
        ("created_at", "updated_at"),
    )
    readonly_fields = ("session_link", *(name for group in fields for name in group if name.startswith("masked_")))
    masked_content = masked("content")
    masked_audio_url = masked("audio_url")
    masked_tool_calls = masked("tool_calls")
    masked_tool_results = masked("tool_results")
    masked_metadata = masked("metadata")

    @admin.display(description="session", ordering="session")
    def session_link(self, message: Message) -> SafeString:
        return link(str(message.session_id), "session_change", message.session_id)
