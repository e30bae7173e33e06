"""A page that shows the messages of a conversation in their order, after the access has been recorded.

It is opened from the page of a session, at the beginning or at a time, or from the page of a message, at this message.
Every page of messages is a separate access, with the same reason.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from django import forms
from django.core.exceptions import BadRequest
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path

from core import audit
from core.admin.access_reason import AccessReasonForm
from core.admin.filters import INPUT_FORMAT
from core.admin.phi_reveal import RevealPHIAdmin, Value, record_outcomes, value_of
from core.admin.row_names import name_of
from core.admin.stored_text import excerpts_of, with_excerpts
from core.cursor_pagination import after_cursor, cursor_of, encode_cursor, ordering
from core.models import AuditEvent, Message, Session

PAGE_SIZE = 50  # messages
MAX_CHARACTERS = 10_000  # of one value; the page of the message reveals longer ones
_PERMISSIONS = ("core.view_session", "core.view_message")


class TranscriptForm(AccessReasonForm):
    start = forms.DateTimeField(
        label="Read from (UTC)",
        required=False,
        input_formats=[INPUT_FORMAT],
        help_text="Leave empty to read from the beginning.",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
    )


class Entry(NamedTuple):
    """A message and its values. `content` is None if it is empty."""

    message: Message
    content: Value | None
    others: list[Value]


class Page(NamedTuple):
    messages: list[Message]
    earlier: str | None = None  # cursor; None on the first page
    later: str | None = None  # cursor; None on the last page


def read_page(session: Session, cursor: str | None, backwards: bool) -> Page:
    """Return the messages after the cursor, or before it. If there are none, return those on its other side.

    Raise ValueError if the cursor is invalid.
    """
    messages = Message.objects.filter(session=session)
    rows = with_excerpts(messages, Message.PHI, MAX_CHARACTERS)
    page = _read(rows, cursor, backwards)
    if not page:
        backwards = not backwards
        page = _read(rows, cursor, backwards)
    if not page:
        return Page([])
    has_more = len(page) > PAGE_SIZE
    page = page[:PAGE_SIZE]
    has_others = messages.filter(after_cursor(Message, cursor_of(page[0]), not backwards)).exists()
    if backwards:
        page.reverse()
        has_more, has_others = has_others, has_more
    return Page(page, cursor_of(page[0]) if has_others else None, cursor_of(page[-1]) if has_more else None)


def _read(rows: QuerySet, cursor: str | None, backwards: bool) -> list[Message]:
    conditions = [after_cursor(Message, cursor, newest_first=backwards)] if cursor else []
    return list(rows.filter(*conditions).order_by(*ordering(newest_first=backwards))[: PAGE_SIZE + 1])


def entry_of(message: Message) -> Entry:
    excerpts = excerpts_of(message, Message.PHI, MAX_CHARACTERS)
    values = {name: value_of(Message, name, *excerpt) for name, excerpt in excerpts.items() if excerpt[0]}
    return Entry(message, values.pop("content", None), list(values.values()))


class TranscriptAdmin(RevealPHIAdmin):
    """Adds the page that shows a conversation, to sessions and to messages."""

    def get_urls(self) -> list[Any]:
        view = record_outcomes(self.model, self.admin_site.admin_view(self.read_view))
        return [path("<path:object_id>/read/", view, name=f"{self._url_prefix}_read"), *super().get_urls()]

    def reason_context(self, request: HttpRequest) -> dict[str, Any]:
        return {**super().reason_context(request), "can_read": request.user.has_perms(_PERMISSIONS)}

    def read_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.disclose(request, object_id, self._read_page, "Read conversation", _PERMISSIONS)

    def _read_page(self, request: HttpRequest, row: Any, form: AccessReasonForm) -> HttpResponse:
        session = row if isinstance(row, Session) else row.session
        cursor, backwards = self._position(request, row, form)
        try:
            page = read_page(session, cursor, backwards)
        except ValueError as error:
            raise BadRequest from error
        about = with_excerpts(Session.objects.filter(pk=session.pk), Session.PHI, MAX_CHARACTERS).first()
        if about is None:
            raise Http404
        changes = form.changes()
        if page.messages:
            first, last = page.messages[0].created_at, page.messages[-1].created_at
            changes |= {"from": [None, first.isoformat()], "until": [None, last.isoformat()]}
        audit.record(AuditEvent.Action.REVEAL, request, user=request.user, target=session, changes=changes)
        excerpts = excerpts_of(about, Session.PHI, MAX_CHARACTERS)
        context = {
            "session": session,
            "about": [value_of(Session, name, *excerpt) for name, excerpt in excerpts.items() if excerpt[0]],
            "entries": [entry_of(message) for message in page.messages],
            "earlier": page.earlier,
            "later": page.later,
            "form": form,
            "max_characters": MAX_CHARACTERS,
        }
        return self.page_of(request, row, "transcript.html", f"Conversation of {name_of(session)}", **context)

    def _position(self, request: HttpRequest, row: Any, form: AccessReasonForm) -> tuple[str | None, bool]:
        """Return the cursor to read from, and whether to read backwards."""
        if cursor := request.POST.get("before"):
            return cursor, True
        if cursor := request.POST.get("after"):
            return cursor, False
        if isinstance(row, Message):  # the cursor just before this message
            return encode_cursor(row.created_at, UUID(int=max(row.pk.int - 1, 0))), False
        start: datetime | None = form.cleaned_data.get("start")
        return (encode_cursor(start.astimezone(UTC), UUID(int=0)) if start else None), False
