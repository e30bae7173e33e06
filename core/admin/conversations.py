"""Pages of sessions and messages, with PHI masked."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import model_ngettext
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core import conversations, deletion, tasks
from core.admin import display
from core.admin.base import limit_matches, link, table
from core.admin.filters import TimeFilter
from core.admin.large_deletion import LargeDeletionAdmin
from core.admin.phi_reveal import masked
from core.admin.search_terms import parse_uuid
from core.admin.transcripts import TranscriptAdmin, TranscriptForm
from core.admin.user_search import add_links
from core.cursor_pagination import ordering
from core.models import Message, Session, User

MAX_LATEST_MESSAGES = 10  # on a session's page


@admin.register(Session)
class SessionAdmin(LargeDeletionAdmin, TranscriptAdmin):
    reason_form_class = TranscriptForm
    list_display = ("started", "user_link", "messages_link", "state", "mode", "ended", "key")
    list_filter = ("mode", "is_archived", ("created_at", TimeFilter))
    allowed_lookups = ("user__id__exact",)
    constant_columns = {"user__id__exact": ("user_link",)}
    search_help_text = "ID of a session, or ID, email or any part of the name of its user"
    actions = ("end", "archive", "delete_selected")
    delete_task = tasks.delete_session
    fields = (
        ("user_link", "messages_link", "state"),
        ("started", "ended", "mode"),
        ("masked_title", "masked_context"),
        ("full_key", "updated"),
        "latest_messages",
    )
    readonly_fields = (*(name for group in fields[:-1] for name in group if name != "mode"), "latest_messages")
    key, full_key = display.id_column, display.id_field
    started = display.time_column("created_at", "started")
    ended = display.time_column("ended_at", "ended")
    updated = display.time_column("updated_at", "updated")
    masked_title = masked("title")
    masked_context = masked("context")

    @admin.display(description="user")
    def user_link(self, session: Any) -> SafeString:
        return link(display.shortened(session.user.email), "user_change", session.user_id, request=session.reader)

    @admin.display(description="state")
    def state(self, session: Session) -> str:
        ended = "ended" if session.ended_at else "open"
        return f"{ended}, archived" if session.is_archived else ended

    @admin.display(description="messages")
    def messages_link(self, session: Any) -> SafeString:
        text = f"{session.message_count:,} {model_ngettext(Message._meta, session.message_count)}"
        return link(text, "message_changelist", request=session.reader, session__id__exact=session.pk)

    @admin.display(description="latest messages")
    def latest_messages(self, session: Any) -> SafeString:
        # `read_messages` would load the PHI.
        messages = Message.objects.filter(session=session).order_by(*ordering(newest_first=True)).defer(*Message.PHI)
        # The buttons Close and Delete of a message lead back to the messages of this session.
        query = {"_changelist_filters": f"session__id__exact={session.pk}"}
        rows = (
            (
                link(display.time_element(m.created_at), "message_change", m.pk, request=session.reader, **query),
                display.phi_flag(m),
                m.get_role_display(),
                m.model or "–",
            )
            for m in messages[:MAX_LATEST_MESSAGES]
        )
        messages_table = table(("Sent", "PHI flag", "Role", "Model"), rows)
        return format_html("{}<p>All {}</p>", messages_table, self.messages_link(session))

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).select_related("user")

    def search(self, request: HttpRequest, sessions: QuerySet, term: str) -> QuerySet:
        if key := parse_uuid(term):
            by_key = sessions.filter(pk=key)
            return by_key if by_key.exists() else sessions.filter(user=key)
        user = User.objects.filter(email=term).only("pk").first()
        return sessions.filter(user=user) if user else sessions.none()

    def no_results_message(self, request: HttpRequest, term: str) -> str:
        if add_links(request, term, "Sessions of", "session", "user__id__exact"):
            return "No session matches, but a user does. Choose whose sessions to show."
        return super().no_results_message(request, term)

    @admin.action(description="End selected sessions", permissions=["manage"])
    def end(self, request: HttpRequest, sessions: QuerySet) -> None:
        self._apply(request, sessions, conversations.end_session, "ended")

    @admin.action(description="Archive selected sessions", permissions=["manage"])
    def archive(self, request: HttpRequest, sessions: QuerySet) -> None:
        self._apply(request, sessions, conversations.archive_session, "archived")

    def _apply(
        self, request: HttpRequest, sessions: QuerySet, change: Callable[[UUID], Session], description: str
    ) -> None:
        # Locked, because `change` raises an error if another request deletes the session first. Oldest first, as in
        # core.deletion, because two orders would deadlock.
        locked = list(sessions.order_by(*ordering(newest_first=False)).select_for_update(of=("self",)))
        for session in locked:
            change(session.pk)
        count = len(locked)
        self.message_user(request, f"{count} {model_ngettext(self.opts, count)} {description}.", messages.SUCCESS)

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("core.change_session")

    def count_deletions(self, sessions: QuerySet) -> dict[type[Model], int]:
        return {Session: sessions.count(), Message: Message.objects.filter(session__in=sessions).count()}

    def sessions_of(self, keys: list[Any]) -> QuerySet[Session]:
        return Session.objects.filter(pk__in=keys)

    def delete_now(self, session: Any) -> None:
        deletion.delete_sessions(Session.objects.filter(pk=session.pk))

    def delete_queryset(self, request: HttpRequest, sessions: QuerySet) -> None:
        deletion.delete_sessions(Session.objects.filter(pk__in=sessions.values("pk")))


@admin.register(Message)
class MessageAdmin(TranscriptAdmin):
    list_display = ("sent", "flag", "role", "user_link", "session_link", "model", "tokens", "key")
    list_filter = ("role", "contains_phi", ("created_at", TimeFilter))
    allowed_lookups = ("session__id__exact",)
    constant_columns = {"session__id__exact": ("user_link", "session_link")}
    search_help_text = "ID of a message or session, or client message ID"
    fields = (
        ("sent", "flag", "role"),
        ("user_link", "session_link"),
        ("masked_content", "masked_audio_url"),
        ("masked_tool_calls", "masked_tool_results", "masked_metadata"),
        ("model", "tokens"),
        ("full_key", "client_message_id", "updated"),
    )
    readonly_fields = (
        *("sent", "flag", "user_link", "session_link", "full_key", "updated"),
        *(name for group in fields for name in group if name.startswith("masked_")),
    )
    key, full_key = display.id_column, display.id_field
    sent = display.time_column("created_at", "sent")
    updated = display.time_column("updated_at", "updated")
    masked_content = masked("content")
    masked_audio_url = masked("audio_url")
    masked_tool_calls = masked("tool_calls")
    masked_tool_results = masked("tool_results")
    masked_metadata = masked("metadata")

    @admin.display(description="PHI flag")
    def flag(self, message: Message) -> str:
        return display.phi_flag(message)

    @admin.display(description="user")
    def user_link(self, message: Any) -> SafeString:
        user = message.session.user
        return link(display.shortened(user.email), "user_change", user.pk, request=message.reader)

    @admin.display(description="session")
    def session_link(self, message: Any) -> SafeString:
        text = display.time_element(message.session.created_at)
        return link(text, "session_change", message.session_id, request=message.reader)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        of_session = (f"session__{name}" for name in Session.PHI)
        return super().get_queryset(request).select_related("session__user").defer(*Message.PHI, *of_session)

    def search(self, request: HttpRequest, messages: QuerySet, term: str) -> QuerySet:
        if key := parse_uuid(term):
            by_key = messages.filter(pk=key)
            return by_key if by_key.exists() else messages.filter(session=key)
        return limit_matches(request, messages.filter(client_message_id=term))

    def no_results_message(self, request: HttpRequest, term: str) -> str:
        if add_links(request, term, "Sessions of", "session", "user__id__exact"):
            return "Messages can't be searched by user. Choose whose sessions to show."
        return super().no_results_message(request, term)

    def delete_model(self, request: HttpRequest, message: Any) -> None:
        deletion.delete_messages(Message.objects.filter(pk=message.pk))

    def delete_queryset(self, request: HttpRequest, messages: QuerySet) -> None:
        deletion.delete_messages(Message.objects.filter(pk__in=messages.values("pk")))
