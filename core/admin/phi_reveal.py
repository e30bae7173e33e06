"""Masks PHI in the admin, and adds a page that reveals it after the access has been recorded in the audit trail."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import JSONField, Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from core import audit, phi
from core.admin.access_reason import AccessReasonForm
from core.admin.base import ReadOnlyAdmin
from core.admin.row_names import name_of
from core.admin.search_terms import parse_uuid
from core.admin.stored_text import indented, stored_lengths, stored_texts
from core.auth import second_factor
from core.metrics import REVEALS
from core.models import AuditEvent


def label_of(field: str) -> str:
    return field.replace("_", " ").replace("url", "URL")


def masked(field: str) -> Callable[[Any, Model], str]:
    """Return an admin column that shows a class of sizes instead of the value of a PHI field."""

    @admin.display(description=label_of(field))
    def column(_admin: Any, row: Model) -> str:
        return phi.masked_html(row.phi_lengths[field])  # type: ignore[attr-defined]

    return column


class Value(NamedTuple):
    """A value of a PHI field, as the pages that reveal it show it."""

    label: str
    text: str
    is_json: bool
    is_cut: bool = False


def value_of(model: type[Model], field: str, text: str, is_cut: bool = False) -> Value:
    is_json = isinstance(model._meta.get_field(field), JSONField)
    return Value(label_of(field), indented(text) if is_json else text, is_json, is_cut)


def record_outcomes(model: type[Model], view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Count the outcomes of a view that discloses PHI, and record a refusal after `admin_view` has rolled back.

    The view sets `request.disclosed` to "revealed" or "exported" if it did.
    """

    @wraps(view)
    def recorded(request: HttpRequest, object_id: str) -> HttpResponse:
        try:
            response = view(request, object_id)
        except (PermissionDenied, Http404):
            _record_refusal(model, request, object_id)
            raise
        if outcome := getattr(request, "disclosed", ""):
            REVEALS.labels(outcome).inc()
        elif request.method == "POST" and response.status_code == 302:  # to the login, for example
            _record_refusal(model, request, object_id)
        return response

    return recorded


def _record_refusal(model: type[Model], request: HttpRequest, object_id: str) -> None:
    """Record the refusal, unless the user is unknown: anonymous clients could make the audit trail grow for ever.

    A text that is not an id is not recorded, because the client may have chosen any.
    """
    user: Any = getattr(request, "expired_user", request.user)  # set by core.auth.session_expiry
    if user.is_anonymous:
        return
    key = parse_uuid(unquote(object_id))
    target = model(pk=key) if key else None
    audit.record(AuditEvent.Action.REVEAL_REFUSED, request, user=user, target=target)
    # Users are asked for a code every hour, which must not raise the alert on refusals.
    REVEALS.labels("code_required" if getattr(request, "asked_for_code", False) else "refused").inc()


class RevealPHIAdmin(ReadOnlyAdmin):
    """Adds a page that shows the PHI of one row, in response to a POST by a user with `core.view_phi`."""

    change_form_template = "admin/core/masked_form.html"
    reason_form_class: type[AccessReasonForm] = AccessReasonForm

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).defer(*self.model.PHI)  # may be long, and only `reveal_view` shows it

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            row.phi_lengths = stored_lengths(row, self.model.PHI)
        return row

    def get_urls(self) -> list[Any]:
        view = record_outcomes(self.model, self.admin_site.admin_view(self.reveal_view))
        return [path("<path:object_id>/reveal/", view, name=f"{self._url_prefix}_reveal"), *super().get_urls()]

    @property
    def _url_prefix(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        context = self.reason_context(request) if request.user.has_perm("core.view_phi") else {}
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    def reason_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return what the form on the page of a row needs. A code is asked for first, so that no input gets lost."""
        initial = {"start": request.GET.get("start")}  # set by links of message lists
        return {
            "reason_form": self.reason_form_class(initial=initial),
            "code_is_required": second_factor.requires_step_up(request),
        }

    def reveal_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.disclose(request, object_id, self._reveal, "Reveal PHI")

    def disclose(
        self,
        request: HttpRequest,
        object_id: str,
        show: Callable[[HttpRequest, Any, Any], HttpResponse],
        button: str,
        permissions: Iterable[str] = (),
    ) -> HttpResponse:
        """Return what `show` returns, which records the access, if the request may reveal PHI and gives a reason.

        Django renders the TemplateResponse after `AdminSite.admin_view` has committed the audit event, so that PHI is
        never sent without one.
        """
        if request.method != "POST":  # redirected here after a login, or a typed URL
            return HttpResponseRedirect(self.page_url(request, unquote(object_id)))
        row = self.get_object(request, unquote(object_id))
        if not (request.user.has_perms(("core.view_phi", *permissions)) and self.has_view_permission(request, row)):
            raise PermissionDenied
        if row is None:
            raise Http404
        if second_factor.requires_step_up(request):
            return second_factor.ask_again(request)
        form = self.reason_form_class(request.POST)
        if not form.is_valid():
            return self.page_of(request, row, "reason_missing.html", "Reason for access", form=form, button=button)
        request.disclosed = "revealed"  # type: ignore[attr-defined]  # read by `record_outcomes`
        return show(request, row, form)

    def _reveal(self, request: HttpRequest, row: Any, form: AccessReasonForm) -> HttpResponse:
        action = AuditEvent.Action.REVEAL
        audit.record(action, request, user=request.user, target=row, changes=form.changes())
        texts = stored_texts(row, self.model.PHI).items()
        values = [value_of(self.model, name, text) for name, text in texts if text]
        title = f"PHI of {self.opts.verbose_name}: {name_of(row)}"
        return self.page_of(request, row, "reveal.html", title, values=values)

    def page_of(self, request: HttpRequest, row: Any, template: str, title: str, **context: Any) -> HttpResponse:
        context |= {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "original": row,
            "preserved_filters": self.get_preserved_filters(request),
            "page_url": self.page_url(request, row.pk),
            "mask_after": settings.REVEAL_MASK_AGE,
        }
        return TemplateResponse(request, f"admin/core/{template}", context)

    def page_url(self, request: HttpRequest, key: Any) -> str:
        """Return the URL of a row's page, with the filters of the list from which it was opened."""
        context: Any = {"opts": self.opts, "preserved_filters": self.get_preserved_filters(request)}
        return add_preserved_filters(context, reverse(f"admin:{self._url_prefix}_change", args=[key]))
