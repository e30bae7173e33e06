"""What a list that a link leads to is limited to: the sessions of a user, the events about a message, and so on."""

from datetime import datetime
from typing import Any, NamedTuple

from django.contrib import admin
from django.contrib.admin.views import main
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse

from core.admin.conversation_rows import ConversationRow, find_row
from core.admin.filters import INPUT_FORMAT, TimeFilter
from core.admin.row_names import name_of
from core.models import AuditEvent, Message, Session, User

_PREPOSITIONS = {
    "user__id__exact": "of",
    "session__id__exact": "of",
    "object_id__exact": "about",
    "actor_id__exact": "by",
    "subject_id__exact": "about the data of",
    "session_id__exact": "about the conversation of",
}


class ListScope(NamedTuple):
    title: str
    row: ConversationRow | None = None  # the user, session or message that the rows of the list belong to


def scope_of(request: HttpRequest, model: type[Model], lookup: str, value: Any) -> ListScope:
    """Return the scope to which `lookup` limits a list of `model`. It names only what the reader may know."""
    plural = str(model._meta.verbose_name_plural).capitalize()
    if lookup == "trace_id__exact":
        return ListScope(f"{plural} of one request")
    row = _find(lookup, value)
    preposition = _PREPOSITIONS[lookup]
    # Lists of sessions and messages contain the emails of users anyway.
    can_name = model is not AuditEvent or (row and admin.site.get_model_admin(type(row)).has_view_permission(request))
    if row is not None and can_name:
        return ListScope(f"{plural} {preposition} {name_of(row)}", row)
    if lookup == "object_id__exact":  # it may be a row of any table
        return ListScope(f"{plural} about one object")
    kind = "session" if lookup.startswith("session") else "user"
    return ListScope(f"{plural} {preposition} a {kind}{'' if row else ' that does not exist any more'}")


def _find(lookup: str, value: Any) -> ConversationRow | None:
    if lookup == "object_id__exact":
        return find_row(User, value) or find_row(Session, value) or find_row(Message, value)
    if lookup.startswith("session"):
        return find_row(Session, value)
    return find_row(User, value)


class ScopedChangeList(main.ChangeList):
    """A change list that says in its title what a link has limited it to."""

    model_admin: Any
    scope: ListScope | None = None

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(request, *args, **kwargs)
        self._can_reveal = request.user.has_perms(("core.view_phi", "core.view_session"))
        for lookup in self.linked_lookups:  # at most one
            self.scope = scope_of(request, self.model, lookup, self.params[lookup])
            self.title = self.scope.title

    @property
    def linked_lookups(self) -> list[str]:
        return [lookup for lookup in self.model_admin.allowed_lookups if lookup in self.params]

    # Read by our template.

    @property
    def unscoped_url(self) -> str:
        return self.get_query_string({}, self.linked_lookups)

    @property
    def conversation_url(self) -> str:
        """Return the URL of the form that shows the messages of this list as a conversation, from the same time."""
        if not (self.model is Message and self.scope and self.scope.row and self._can_reveal):
            return ""
        query = {"start": f"{since:{INPUT_FORMAT}}"} if (since := self._since()) else None
        return reverse("admin:core_session_change", args=[self.scope.row.pk], query=query, fragment="access")

    def _since(self) -> datetime | None:
        """Return the beginning of the time to which a filter limits the list."""
        for spec in self.filter_specs:
            if isinstance(spec, TimeFilter) and (times := spec.used_parameters.get(spec.lookup_kwarg_since)):
                return times[0]  # type: ignore[no-any-return]
        return None
