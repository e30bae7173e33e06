"""Masks PHI in the admin, and adds a page that reveals it after the access has been recorded in the audit trail."""

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
    """Return an admin column that shows the size of a PHI field instead of its value."""

    @admin.display(description=field.replace("_", " "))
    def column(_admin: Any, row: Model) -> str:
        return phi.masked(getattr(row, field))

    return column


class RevealPHIAdmin(ReadOnlyAdmin):
    """Adds a page that shows the PHI of one row, in response to a POST by a user with `core.view_phi`."""

    change_form_template = "admin/core/masked_form.html"

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.reveal_view)
        return [path("<path:object_id>/reveal/", view, name=f"{self._url_prefix}_reveal"), *super().get_urls()]

    @property
    def _url_prefix(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}"

    def reveal_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Record the access, then return the PHI.

        Django renders the TemplateResponse after `AdminSite.admin_view` has committed the audit event, so that PHI is
        never sent without one.
        """
        if request.method != "POST":  # redirected here after a login, or a typed URL
            return HttpResponseRedirect(reverse(f"admin:{self._url_prefix}_change", args=[object_id]))
        row = self.get_object(request, unquote(object_id))
        if not (request.user.has_perm("core.view_phi") and self.has_view_permission(request, row)):
            raise PermissionDenied
        if row is None:
            raise Http404
        audit.record(AuditEvent.Action.REVEAL, request, user=request.user, target=row)
        values = {name.replace("_", " "): self._format_value(getattr(row, name)) for name in self.model.PHI}
        context = {
            **self.admin_site.each_context(request),
            "title": f"PHI of {row}",
            "opts": self.opts,
            "original": row,
            "values": values,
        }
        return TemplateResponse(request, "admin/core/reveal.html", context)

    @staticmethod
    def _format_value(value: Any) -> str:
        return value if isinstance(value, str) or not value else json.dumps(value, indent=2, ensure_ascii=False)
