"""PHI on a page: masked, and shown only by an explicit act that was recorded before."""

import json
from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from core import audit, phi
from core.admin.base import ReadOnlyAdmin
from core.models import AuditEvent


def masked(field: str) -> Callable[[Any, Model], str]:
    """Returns a column for a PHI field: its size instead of its value."""

    @admin.display(description=field.replace("_", " "))
    def column(_admin: Any, row: Model) -> str:
        return phi.masked(getattr(row, field))

    return column


class RevealPHIAdmin(ReadOnlyAdmin):
    """Adds the page that shows the PHI of one row, to who may, after a POST, once."""

    change_form_template = "admin/core/masked_form.html"

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.reveal_view)
        return [path("<path:object_id>/reveal/", view, name=f"{self._page}_reveal"), *super().get_urls()]

    @property
    def _page(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}"

    def reveal_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Shows it after the transaction of `AdminSite.admin_view` has committed the record of it, else not at all.

        Who comes here by GET has logged in again, or typed the address: they get the masked page.
        """
        if request.method != "POST":
            return HttpResponseRedirect(reverse(f"admin:{self._page}_change", args=[object_id]))
        row = self.get_object(request, unquote(object_id))
        if not (request.user.has_perm("core.view_phi") and self.has_view_permission(request, row)):
            raise PermissionDenied
        if row is None:
            raise Http404
        audit.record(AuditEvent.Action.REVEAL, request, user=request.user, target=row)
        values = {name.replace("_", " "): self._readable(getattr(row, name)) for name in self.model.PHI}
        context = {
            **self.admin_site.each_context(request),
            "title": f"PHI of {row}",
            "opts": self.opts,
            "original": row,
            "values": values,
        }
        return TemplateResponse(request, "admin/core/reveal.html", context)

    @staticmethod
    def _readable(value: Any) -> str:
        return value if isinstance(value, str) or not value else json.dumps(value, indent=2, ensure_ascii=False)
