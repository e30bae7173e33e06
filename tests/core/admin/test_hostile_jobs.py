"""Rows of jobs that the application does not write: the pages show them, and the database refuses what they can't."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError
from django.test import Client

from core.models import Job

pytestmark = pytest.mark.django_db


VALUES: tuple[Any, ...] = (5, "x", None, [1], {})
ARGUMENTS = [5, "text", [1], *({name: value} for name in ("user_id", "export_id") for value in VALUES)]


@pytest.mark.parametrize("task", ["core.tasks.delete_user", "junk\n<script>", ""])
@pytest.mark.parametrize("status", ["queued", "failed"])
def test_arguments_of_any_kind(admin_client: Client, status: str, task: str) -> None:
    jobs = [Job.objects.create(task=task, status=status, arguments=value, result=value) for value in ARGUMENTS]
    assert_is_shown(admin_client, "/admin/core/job/", "all")
    for job, arguments in zip(jobs, ARGUMENTS, strict=True):
        for page in (f"/admin/core/job/?q={job.pk}", f"/admin/core/job/{job.pk}/change/"):
            assert_is_shown(admin_client, page, arguments)
        assert admin_client.post(f"/admin/core/job/{job.pk}/download/").status_code == 404, arguments
        assert admin_client.post(f"/admin/core/job/{job.pk}/cancel/").status_code == 302, arguments


def assert_is_shown(client: Client, page: str, arguments: Any) -> None:
    response = client.get(page)
    assert response.status_code == 200, arguments
    assert "<script>" not in response.content.decode().replace("<script src", ""), arguments


@pytest.mark.parametrize("column", ["arguments", "result"])
def test_long_json_is_refused(column: str) -> None:
    """Python can't load a number of 5000 digits, so one such row would break the list and every worker."""
    with pytest.raises(IntegrityError, match="jobs_json_is_short"):
        Job.objects.create(task="core.tasks.delete_user", **{column: {"user_id": 10**4000}})


def test_superusers_cancel_a_job_of_an_unknown_task(admin_client: Client, staff_client: Callable[..., Client]) -> None:
    job = Job.objects.create(task="core.tasks.removed")
    cancel = f"/admin/core/job/{job.pk}/cancel/"
    assert staff_client("view_job", "delete_user", "export_user").post(cancel).status_code == 403
    assert cancel in admin_client.get(f"/admin/core/job/{job.pk}/change/").content.decode()
    admin_client.post(cancel)
    job.refresh_from_db()
    assert job.status == Job.Status.CANCELLED
