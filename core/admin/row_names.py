"""Name rows for staff: people by email, conversations by user and time.

`str()` of a row has only its id, because logs may contain it.
"""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse


class LabelledRow:
    """A row whose `str()` is its name. Django's admin builds titles, breadcrumbs and messages from `str()`."""

    def __init__(self, row: Any, name: str) -> None:
        self.row, self._name = row, name

    def __str__(self) -> str:
        return self._name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.row, attribute)


class NamingModelAdmin(admin.ModelAdmin):
    """A ModelAdmin whose titles, questions and messages name a row by `display_name` instead of `str()`."""

    def display_name(self, row: Any) -> str:
        """Return the name of `row` for staff. It may contain personal data."""
        return str(row)

    def named(self, row: Any) -> Any:
        return LabelledRow(row, self.display_name(row))

    def names_of_deleted(self, request: HttpRequest, rows: Iterable[Any]) -> list[str]:
        """Return the names of rows that will be deleted, and keep them for `response_delete`."""
        names = [self.display_name(row) for row in rows]
        request.names_of_deleted = names  # type: ignore[attr-defined]
        return names

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if row := context["original"]:
            context |= {"original": self.named(row), "subtitle": self.display_name(row)}
        return super().render_change_form(request, context, *args, **kwargs)

    def render_delete_form(self, request: HttpRequest, context: dict[str, Any]) -> Any:
        row = context["object"]
        if not (context["perms_lacking"] or context["protected"]):
            context["title"] = f"Delete {self.opts.verbose_name}"
        context |= {"object": self.named(row), "subtitle": self.display_name(row)}
        return super().render_delete_form(request, context)

    def response_add(self, request: HttpRequest, obj: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().response_add(request, self.named(obj), *args, **kwargs)

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return super().response_change(request, self.named(obj))

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: Any) -> HttpResponse:
        (name,) = request.names_of_deleted  # type: ignore[attr-defined]
        return super().response_delete(request, name, obj_id)
