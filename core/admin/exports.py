"""Export a user's data, encrypted, in the background, and download the result."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import path, reverse

from core import audit, exports, tasks
from core.admin.large_deletion import ReasonForm
from core.admin.phi_reveal import record_outcomes
from core.auth import second_factor
from core.models import AuditEvent, Export, Job, User
from core.models.exports import MAX_EXPORT_AGE


class KeyInput(forms.PasswordInput):
    """A text field that is shown empty after an error, because the text may be a private key."""

    input_type = "text"


class ExportForm(ReasonForm):
    field_order = ("recipient",)
    recipient = forms.CharField(
        label="Public key",
        max_length=200,
        help_text="The public key (age1…) of the person who gets the data. They create it with age-keygen.",
        widget=KeyInput(attrs={"class": "vTextField", "autocomplete": "off", "spellcheck": "false"}),
    )

    def clean_recipient(self) -> str:
        return str(exports.parse_recipient(self.cleaned_data["recipient"]))


class ExportAdmin(admin.ModelAdmin):
    """Adds the page that asks for a key and starts the job. The export can reveal PHI, so it takes `core.view_phi`."""

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Protect users whose export is not finished, because the export of deleted data can't be made again."""
        names, counts, forbidden, protected = super().get_deleted_objects(objs, request)
        keys = exports.users_being_exported(user.pk for user in objs)
        emails = (user.email for user in objs if user.pk in keys)
        text = "an export of the data of {}, which is not finished. Wait until it is, or cancel it."
        return names, counts, forbidden, [*protected, *(text.format(email) for email in emails)]

    def get_urls(self) -> list[Any]:
        view = record_outcomes(self.model, self.admin_site.admin_view(self.export_view))
        return [path("<path:object_id>/export/", view, name="core_user_export"), *super().get_urls()]

    def export_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        user = self.get_object(request, unquote(object_id))
        if not (
            request.user.has_perms(("core.export_user", "core.view_phi")) and self.has_view_permission(request, user)
        ):
            raise PermissionDenied
        if user is None:
            raise Http404
        if second_factor.requires_step_up(request):
            return second_factor.ask_again(request)
        form = ExportForm(request.POST) if request.method == "POST" else ExportForm()
        if form.is_valid():
            _enqueue(request, user, **form.cleaned_data)
            messages.success(request, "The export is written in the background. Download it here when it is done.")
            return HttpResponseRedirect(reverse("admin:core_user_change", args=[user.pk]))
        context = {
            "title": "Export data",
            "opts": self.opts,
            "original": user,
            "form": form,
            "days": MAX_EXPORT_AGE.days,
        }
        page = {**self.admin_site.each_context(request), **context}
        return TemplateResponse(request, "admin/core/user/export.html", page)


def _enqueue(request: HttpRequest, user: User, recipient: str, reason: str) -> None:
    with audit.audit_context(request, reason=reason):
        exports.record(request, user, recipient)
        export = Export.objects.create(user_id=user.pk, recipient=recipient)
        tasks.export_user.enqueue(str(user.pk), str(export.pk))
    request.disclosed = "exported"  # type: ignore[attr-defined]  # read by `record_outcomes`


def download_view(request: HttpRequest, job: Job) -> Any:
    """Record the download, and return the encrypted file, which is sent after `admin_view` has committed the event."""
    if not request.user.has_perm("core.export_user"):
        raise PermissionDenied
    export = exports.download(job)
    if export is None:
        raise Http404
    target = User(pk=export.user_id)
    audit.record(AuditEvent.Action.EXPORT_DOWNLOADED, request, user=request.user, target=target)
    response = StreamingHttpResponse(exports.chunks_of(export), content_type="application/octet-stream")
    response["Content-Disposition"] = f'attachment; filename="export-{export.pk}.json.age"'
    response["Content-Length"] = str(export.size)
    return response
