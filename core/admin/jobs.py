"""Pages of background jobs: read-only, except that a job can be cancelled before it begins."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.safestring import SafeString
from django_tasks.base import Task

from core import audit, tasks
from core.admin import exports
from core.admin.base import ReadOnlyAdmin, link
from core.admin.display import time_column, time_element
from core.admin.filters import TimeFilter
from core.admin.job_display import (
    JobDisplay,
    describe_task,
    display,
    is_permitted,
    jobs_of,
    object_of,
)
from core.admin.row_names import name_of
from core.admin.search_terms import parse_uuid
from core.durations import format_duration
from core.jobs import execution
from core.jobs.schedule import SCHEDULE, VERIFY_BACKUP
from core.models import AuditEvent, Job


class TaskFilter(admin.ChoicesFieldListFilter):
    """Filters by the tasks that exist."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        chosen: Any = self.lookup_val or ()
        everything = changelist.get_query_string(remove=[self.lookup_kwarg])
        yield {"selected": not chosen, "query_string": everything, "display": "All"}
        for task in (task for task in vars(tasks).values() if isinstance(task, Task)):
            query = changelist.get_query_string({self.lookup_kwarg: task.module_path})
            selected = task.module_path in chosen
            yield {"selected": selected, "query_string": query, "display": describe_task(task.module_path)}


def _shown(name: str, description: str) -> Any:
    """Return an admin column that shows an attribute of `JobDisplay`."""

    @admin.display(description=description)
    def column(_admin: Any, job: Job) -> str:
        return str(getattr(JobDisplay(job), name))

    return column


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("created", "what", "requested_by", "state", "progress", "duration")
    list_filter = ("status", ("task", TaskFilter), "is_scheduled", ("created_at", TimeFilter))
    search_help_text = "ID of a job, or of the user or session that it is about"
    change_list_template = "admin/core/job/change_list.html"
    fields = ("object", "requested_by", "reason", ("created", "started", "finished", "next_run"), "errors", "events")
    readonly_fields = ("object", "requested_by", "created", "started", "finished", "next_run", "errors", "events")
    created = time_column("created_at", "requested")
    started = time_column("started_at", "last started")
    finished = time_column("finished_at", "ended")
    what = _shown("title", "task")
    requested_by = _shown("requested_by", "requested by")
    state = _shown("status", "status")
    progress = _shown("progress", "progress")
    duration = _shown("duration", "duration")

    @admin.display(description="about")
    def object(self, job: Any) -> str | SafeString:
        """Return a link if the row exists and the reader may open it, and no id otherwise."""
        row = object_of(job)
        if row is None:
            return "–"
        name = str(row._meta.verbose_name)
        model_admin: Any = self.admin_site.get_model_admin(type(row))
        if not model_admin.has_view_permission(job.reader, row):
            return f"a {name}"
        return link(name_of(row), f"{row._meta.model_name}_change", row.pk, request=job.reader)

    @admin.display(description="next run")
    def next_run(self, job: Job) -> str:
        return time_element(job.run_after if job.status == Job.Status.QUEUED else None)

    @admin.display(description="last error")
    def errors(self, job: Job) -> str:
        return f"{job.error}. The log of the worker has the details." if job.error else "–"

    @admin.display(description="audit events")
    def events(self, job: Any) -> str | SafeString:
        if not job.trace_id:
            return "–"
        text = "Events of the request and of the job"
        return link(text, "auditevent_changelist", request=job.reader, trace_id__exact=job.trace_id)

    def search(self, request: HttpRequest, jobs: QuerySet, term: str) -> QuerySet:
        key = parse_uuid(term)
        if key is None:
            return jobs.none()
        by_key = jobs.filter(pk=key)
        return by_key if by_key.exists() else jobs_of(key)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_urls(self) -> list[Any]:
        return [
            path("<path:object_id>/cancel/", self.admin_site.admin_view(self.cancel_view), name="core_job_cancel"),
            path(
                "<path:object_id>/download/", self.admin_site.admin_view(self.download_view), name="core_job_download"
            ),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        scheduled = {job.task: job for job in Job.objects.filter(is_scheduled=True)}
        rows = [
            (display(request, scheduled[entry.task]), format_duration(entry.interval.total_seconds()))
            for entry in (*SCHEDULE, VERIFY_BACKUP)
            if entry.task in scheduled
        ]
        return super().changelist_view(request, {"schedule": rows, **(extra_context or {})})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        job = _find(object_id)
        context = {"jobs": [display(request, job)], "title": display(request, job).title} if job else {}
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    def cancel_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Cancel a job that has not begun, and record that. Show a message if the job has begun."""
        job = _find(object_id)
        if job is None:
            raise Http404
        page = self._page_of(request, job)
        if request.method != "POST":  # redirected here after a login, or a typed URL
            return HttpResponseRedirect(page)
        if not is_permitted(request, job):
            raise PermissionDenied
        if execution.cancel(job.pk):
            audit.record(AuditEvent.Action.JOB_CANCELLED, request, user=request.user, target=job)
            messages.success(request, "The job was cancelled. Nothing was changed.")
        else:
            messages.warning(request, "The job has already started or ended, so it can't be cancelled.")
        return HttpResponseRedirect(page)

    def download_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        job = _find(object_id)
        if job is None:
            raise Http404
        if request.method != "POST":  # redirected here after a login, or a typed URL
            return HttpResponseRedirect(self._page_of(request, job))
        return exports.download_view(request, job)  # type: ignore[no-any-return]

    def _page_of(self, request: HttpRequest, job: Job) -> str:
        if request.user.has_perm("core.view_job"):
            return reverse("admin:core_job_change", args=[job.pk])
        row = object_of(job)
        return reverse(f"admin:core_{row._meta.model_name}_change", args=[row.pk]) if row else reverse("admin:index")


def _find(object_id: str) -> Job | None:
    key = parse_uuid(unquote(object_id))
    return Job.objects.filter(pk=key).first() if key else None
