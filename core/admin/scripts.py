"""Pages load only the scripts that they use.

Django's ModelAdmin adds jQuery, xregexp and six more scripts to every page, also where nothing can be edited.
"""

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.forms import Media
from django.http import HttpRequest, HttpResponse

_ACTIONS = Media(js=["admin/js/actions.js"])


class NeededScriptsAdmin(admin.ModelAdmin):
    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        response: Any = super().changelist_view(request, extra_context)
        if context := getattr(response, "context_data", None):  # None for a redirect
            form = context.get("action_form")
            context["media"] = form.media + _ACTIONS if form else Media()
        return response  # type: ignore[no-any-return]

    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Model | None = None,
    ) -> HttpResponse:
        if change and not self.has_change_permission(request, obj):
            context |= {"media": Media(), "is_view_only": True}  # read by admin/change_form.html
        return super().render_change_form(request, context, add, change, form_url, obj)
