"""Delete rows in the background if they are too many for a request, and show that on their pages."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.utils import model_ngettext, unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django_tasks.base import Task

from core import audit, deletion
from core.admin.base import AuditedModelAdmin
from core.admin.job_display import UNFINISHED, displays_of, jobs_of
from core.models import Job, Session

_REASON = "reason"  # a form that contains it was shown for a deletion in the background


class ReasonForm(forms.Form):
    reason = forms.CharField(
        max_length=Job._meta.get_field("reason").max_length,
        required=False,
        help_text="Optional. It is recorded in the audit trail, so do not name patients.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
    )


class LargeDeletionAdmin(AuditedModelAdmin):
    """Deletes up to MAX_ROWS_OF_REQUEST rows in the request, and more in one job for each selected row."""

    delete_task: "Task[Any, Any]"  # takes the key of a row

    def sessions_of(self, keys: list[Any]) -> QuerySet[Session]:
        """Return the sessions that deleting the rows with these keys deletes."""
        raise NotImplementedError

    def delete_now(self, row: Any) -> None:
        raise NotImplementedError

    @admin.action(permissions=["delete"], description="Delete selected %(verbose_name_plural)s")
    def delete_selected(self, request: HttpRequest, rows: QuerySet) -> HttpResponse | None:
        keys = list(rows.values_list("pk", flat=True))
        is_large = self._is_large(request, keys)
        if request.POST.get("post") and is_large:
            *_, perms_needed, protected = self.get_deleted_objects(rows, request)
            if perms_needed:
                raise PermissionDenied
            if not protected:
                self._enqueue(request, keys)
                return None
        response: TemplateResponse | None = delete_selected(self, request, rows)
        if response is not None and response.context_data is not None:
            response.context_data |= {"is_large": is_large, "reason_form": ReasonForm()}
        return response

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        if request.method == "POST" and not ReasonForm(request.POST).is_valid():
            messages.error(request, "The reason is too long or contains invalid characters. Nothing was deleted.")
            return HttpResponseRedirect(request.path)
        return super().delete_view(request, object_id, extra_context)

    def render_delete_form(self, request: HttpRequest, context: dict[str, Any]) -> Any:
        context |= {"is_large": self._is_large(request, [context["object"].pk]), "reason_form": ReasonForm()}
        return super().render_delete_form(request, context)

    def delete_model(self, request: HttpRequest, row: Any) -> None:
        if self._is_large(request, [row.pk]):
            self._enqueue(request, [row.pk])
            request.deleted_in_background = True  # type: ignore[attr-defined]  # read by `response_delete`
        else:
            self.delete_now(row)

    def delete_queryset(self, request: HttpRequest, rows: QuerySet) -> None:
        for row in rows:
            self.delete_now(row)

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: Any) -> HttpResponse:
        if getattr(request, "deleted_in_background", False):
            return HttpResponseRedirect(reverse(f"admin:core_{self.opts.model_name}_change", args=[obj_id]))
        return super().response_delete(request, obj_display, obj_id)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        jobs = displays_of(request, unquote(object_id)) if request.method == "GET" else []
        return super().change_view(request, object_id, form_url, {"jobs": jobs, **(extra_context or {})})

    def _is_large(self, request: HttpRequest, keys: list[Any]) -> bool:
        return _REASON in request.POST or deletion.is_large(self.sessions_of(keys))

    def _enqueue(self, request: HttpRequest, keys: list[Any]) -> None:
        form = ReasonForm(request.POST)
        if not form.is_valid():
            messages.error(request, "The reason is too long or contains invalid characters. Nothing was deleted.")
            return
        path = self.delete_task.module_path
        new = [key for key in keys if not jobs_of(key).filter(task=path, status__in=UNFINISHED).exists()]
        with audit.audit_context(request, reason=form.cleaned_data["reason"]):
            for key in new:
                self.delete_task.enqueue(key)
        if new:
            text = f"{len(new):,} {model_ngettext(self.opts, len(new))} will be deleted in the background."
            messages.success(request, f"{text} This can take some minutes; the page of the {self.opts.verbose_name} "
                             "shows the progress.")  # fmt: skip
        if len(new) < len(keys):
            count = len(keys) - len(new)
            messages.warning(request, f"{count:,} {model_ngettext(self.opts, count)} already being deleted.")
