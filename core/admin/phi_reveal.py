"""Masks PHI in the admin, and adds a page that reveals it after the access has been recorded in the audit trail."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import JSONField, Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from core import audit, phi
from core.admin.base import ReadOnlyAdmin
from core.admin.stored_text import indented, stored_lengths, stored_texts
from core.auth import second_factor
from core.models import AuditEvent


def masked(field: str) -> Callable[[Any, Model], str]:
    """Return an admin column that shows the size of a PHI field instead of its value."""

    @admin.display(description=field.replace("_", " "))
    def column(_admin: Any, row: Model) -> str:
        return phi.masked(row.phi_lengths[field])  # type: ignore[attr-defined]

    return column


class RevealPHIAdmin(ReadOnlyAdmin):
    """Adds a page that shows the PHI of one row, in response to a POST by a user with `core.view_phi`."""

    change_form_template = "admin/core/masked_form.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).defer(*self.model.PHI)  # may be long, and only `reveal_view` shows it

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            row.phi_lengths = stored_lengths(row, self.model.PHI)
        return row

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
        if second_factor.requires_step_up(request):
            return second_factor.ask_again(request)
        audit.record(AuditEvent.Action.REVEAL, request, user=request.user, target=row)
        json_fields = {field.name for field in self.opts.fields if isinstance(field, JSONField)}
        values = {
            name.replace("_", " "): indented(text) if name in json_fields else text
            for name, text in stored_texts(row, self.model.PHI).items()
        }
        context = {
            **self.admin_site.each_context(request),
            "title": f"PHI of {row}",
            "opts": self.opts,
            "original": row,
            "values": values,
        }
        return TemplateResponse(request, "admin/core/reveal.html", context)
