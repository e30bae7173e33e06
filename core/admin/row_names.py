"""Name rows for staff: people by email, conversations by user and time.

`str()` of a row has only its id, because logs may contain it.
"""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.timezone import localtime

from core.admin.display import utc_text
from core.admin.job_display import describe_task
from core.models import AuditEvent, Backup, Job, Message, Session, User


@singledispatch
def name_of(row: Any) -> str:
    """Return the name of a row for staff. It may contain an email, so it must not be logged."""
    return str(row)


@name_of.register
def _(user: User) -> str:
    return str(user.email)


@name_of.register
def _(session: Session) -> str:
    return f"{session.user.email}, {localtime(session.created_at):%Y-%m-%d %H:%M} UTC"


@name_of.register
def _(message: Message) -> str:
    return f"{message.session.user.email}, {utc_text(message.created_at)}"


@name_of.register
def _(job: Job) -> str:
    return f"{describe_task(job.task)}, {utc_text(job.created_at)}"


@name_of.register
def _(backup: Backup) -> str:
    return f"{backup.get_kind_display()}, {utc_text(backup.started_at)}"


@name_of.register
def _(event: AuditEvent) -> str:
    return f"{event.get_action_display()}, {utc_text(event.created_at)}"


class LabelledRow:
    """A row whose `str()` is its name. Django's admin builds titles, breadcrumbs and messages from `str()`."""

    def __init__(self, row: Any) -> None:
        self.row = row

    def __str__(self) -> str:
        return name_of(self.row)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.row, attribute)


class NamingModelAdmin(admin.ModelAdmin):
    """A ModelAdmin whose titles, questions and messages name a row by `name_of` instead of `str()`."""

    def names_of_deleted(self, request: HttpRequest, rows: Iterable[Any]) -> list[str]:
        """Return the names of rows that will be deleted, and keep them for `response_delete`."""
        names = [name_of(row) for row in rows]
        request.names_of_deleted = names  # type: ignore[attr-defined]
        return names

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if row := context["original"]:
            context |= {"original": LabelledRow(row), "subtitle": name_of(row)}
        return super().render_change_form(request, context, *args, **kwargs)

    def render_delete_form(self, request: HttpRequest, context: dict[str, Any]) -> Any:
        row = context["object"]
        if not (context["perms_lacking"] or context["protected"]):
            context["title"] = f"Delete {self.opts.verbose_name}"
        context |= {"object": LabelledRow(row), "subtitle": name_of(row)}
        return super().render_delete_form(request, context)

    def response_add(self, request: HttpRequest, obj: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().response_add(request, LabelledRow(obj), *args, **kwargs)

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return super().response_change(request, LabelledRow(obj))

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: Any) -> HttpResponse:
        (name,) = request.names_of_deleted  # type: ignore[attr-defined]
        return super().response_delete(request, name, obj_id)
