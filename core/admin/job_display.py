"""Jobs in words, for the page of jobs and for the pages of the users and sessions that they are about."""

from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html

from core import exports
from core.admin.display import time_element
from core.admin.search_terms import parse_uuid
from core.durations import format_duration
from core.models import Export, Job, Session, User
from core.models.jobs import OBJECT_ID

MAX_JOBS_OF_OBJECT = 3
UNFINISHED = (Job.Status.QUEUED, Job.Status.RUNNING)
_MODELS: dict[str, Any] = {"user_id": User, "session_id": Session}


def describe_task(path: str) -> str:
    """Return the name of a task's function as words: "Delete user"."""
    return path.rpartition(".")[2].replace("_", " ").capitalize()


@dataclass(frozen=True)
class JobDisplay:
    """A job as one reader may see it."""

    job: Job
    is_cancellable: bool = False
    is_linked: bool = False  # the reader may open its page
    download: Export | None = None  # an export that the reader may download

    @property
    def title(self) -> str:
        return describe_task(self.job.task)

    @property
    def is_unfinished(self) -> bool:
        return self.job.status in UNFINISHED

    @property
    def status(self) -> str:
        job = self.job
        if job.status == Job.Status.QUEUED:
            if job.error:
                return format_html("failed, will be retried at {}", time_element(job.run_after))
            if job.is_scheduled:
                return "scheduled"
            return "waiting for a worker" if job.started_at is None else "interrupted, will continue soon"
        if job.status == Job.Status.RUNNING:
            is_lost = job.leased_until is not None and job.leased_until < timezone.now()
            return "interrupted because its worker stopped, will continue" if is_lost else "running"
        return {"succeeded": "done", "failed": "failed", "cancelled": "cancelled before it started"}[job.status]

    @property
    def progress(self) -> str:
        job = self.job
        if job.total is None:
            return f"{job.done:,} rows" if job.done else "–"
        return f"{job.done:,} of {job.total:,} messages"

    @property
    def percent(self) -> int | None:
        total = self.job.total
        return min(100 * self.job.done // total, 100) if total else None

    @property
    def duration(self) -> str:
        """Return how long the last attempt took, or takes so far."""
        job = self.job
        if job.started_at is None:
            return "–"
        # Between two attempts or two runs of the schedule a job takes no time.
        end = timezone.now() if job.status == Job.Status.RUNNING else job.finished_at or job.updated_at
        return format_duration((end - job.started_at).total_seconds())

    @property
    def requested_by(self) -> str:
        return "the schedule" if self.job.is_scheduled else self.job.actor_email or "a command"


def object_of(job: Job) -> Any:
    """Return the user or session that a job is about, None for another job or if it does not exist any more."""
    for name, model in _MODELS.items():
        if key := job.id_argument(name):
            phi = model.PHI
            return model.objects.filter(pk=key).defer(*phi).first()
    return None


def jobs_of(key: Any) -> Any:
    """Return the jobs of a user or session, by the index `jobs_object`."""
    return Job.objects.alias(object_id=OBJECT_ID).filter(object_id=str(key)).order_by("-created_at", "-id")


def is_permitted(request: HttpRequest, job: Job) -> bool:
    """Return whether the reader has the permission that asking for this job takes, and cancelling it."""
    if job.task == "core.tasks.export_user":
        return request.user.has_perm("core.export_user")
    for name, model in _MODELS.items():
        if job.id_argument(name):
            model_admin = admin.site.get_model_admin(model)
            return bool(model_admin.has_delete_permission(request, object_of(job)))
    # For example, a job whose task no release has any more.
    return bool(request.user.is_superuser) and not job.is_scheduled


def display(request: HttpRequest, job: Job) -> JobDisplay:
    is_waiting = job.status == Job.Status.QUEUED and job.started_at is None and not job.is_scheduled
    is_cancellable = is_waiting and is_permitted(request, job)
    download = exports.download(job) if request.user.has_perm("core.export_user") else None
    return JobDisplay(job, is_cancellable, request.user.has_perm("core.view_job"), download)


def displays_of(request: HttpRequest, object_id: str) -> list[JobDisplay]:
    """Return the latest jobs of a user or session. The id comes from the URL, so it may be any text."""
    key = parse_uuid(object_id)
    return [display(request, job) for job in jobs_of(key)[:MAX_JOBS_OF_OBJECT]] if key else []
