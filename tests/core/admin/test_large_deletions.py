"""Deleting more than a request should: the questions, the jobs, their pages, and cancelling."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core import deletion, tasks
from core.admin.job_display import JobDisplay
from core.auth.session_expiry import LAST_SEEN_KEY
from core.jobs import execution, schedule
from core.models import AuditEvent, Job, Message, Session, User

pytestmark = pytest.mark.django_db
runs_jobs = pytest.mark.django_db(transaction=True)  # a job closes its connection

DELETE_PERMISSIONS = ("view_user", "delete_user", "view_session", "delete_session", "delete_message")


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> User:
    """Return a user with one session of four messages, one row more than a request deletes."""
    monkeypatch.setattr(deletion, "MAX_ROWS_OF_REQUEST", 4)
    return create_user("ann@example.org", messages=4)


def create_user(email: str, messages: int) -> User:
    user = User.objects.create_user(email)
    session = Session.objects.create(user=user, title="a patient's name")
    Message.objects.bulk_create(Message(session=session, role="user") for _ in range(messages))
    return user


def user_page(user: User, page: str = "change") -> str:
    return f"/admin/core/user/{user.pk}/{page}/"


@runs_jobs
def test_deletes_a_user_in_the_background(staff_client: Callable[..., Client], user: User) -> None:
    client = staff_client(*DELETE_PERMISSIONS, "view_job")
    question = client.get(user_page(user, "delete")).content.decode()
    assert "in the background" in question and "Messages: 4" in question and 'name="reason"' in question
    headers: Any = {"HTTP_X_REQUEST_ID": "trace-of-the-request", "REMOTE_ADDR": "192.0.2.7"}
    form = {"post": "yes", "reason": " Left the hospital "}
    assert client.post(user_page(user, "delete"), form, **headers)["Location"] == user_page(user)
    job = Job.objects.get(is_scheduled=False)
    staff = User.objects.get(email="staff@example.org")
    assert (job.task, job.arguments) == ("core.tasks.delete_user", {"user_id": str(user.pk)})
    assert (job.actor_id, job.address, job.reason) == (staff.pk, "192.0.2.7", "Left the hospital")
    assert Message.objects.count() == 4
    page = client.get(user_page(user)).content.decode()
    assert "Delete user:</strong> waiting for a worker" in page and "Left the hospital" in page
    assert "1 user will be deleted in the background." in page
    execution.run(job.pk)
    assert not User.objects.filter(pk=user.pk).exists() and not Message.objects.exists()
    events = AuditEvent.objects.filter(action="delete")
    assert events.count() == 6
    assert {(e.actor_id, e.address, e.trace_id) for e in events} == {(staff.pk, "192.0.2.7", "trace-of-the-request")}
    detail = client.get(f"/admin/core/job/{job.pk}/change/").content.decode()
    assert "done" in detail and "4 of 4 messages (100 %)" in detail and str(user.pk) not in detail


def test_small_deletions_are_immediate(admin_client: Client, user: User) -> None:
    Message.objects.first().delete()  # type: ignore[union-attr]
    assert 'name="reason"' not in admin_client.get(user_page(user, "delete")).content.decode()
    assert admin_client.post(user_page(user, "delete"), {"post": "yes"}).status_code == 302
    assert not User.objects.filter(pk=user.pk).exists() and not Job.objects.exists()


def test_small_bulk_deletions_are_immediate(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each user is deleted with all data, as on the page of one user, and others keep theirs."""
    monkeypatch.setattr(deletion, "MAX_ROWS_OF_REQUEST", 6)
    *selected, kept = (create_user(f"{number}@example.org", messages=1) for number in range(4))
    form = {"action": "delete_selected", "_selected_action": [str(user.pk) for user in selected], "post": "yes"}
    page = admin_client.post("/admin/core/user/", form, follow=True)
    assert "Successfully deleted 3 users." in page.content.decode()
    assert not Job.objects.exists()
    emails = User.objects.filter(email__endswith="@example.org", is_staff=False).values_list("email", flat=True)
    assert set(emails) == {kept.email, "ann@example.org"}
    assert Message.objects.filter(session__user=kept).count() == 1
    events = AuditEvent.objects.filter(action="delete").values_list("table", "actor_email")
    assert sorted(events) == sorted((table, "admin@example.com") for table in ("users", "sessions", "messages") * 3)


def test_many_sessions_are_large_too(user: User) -> None:
    Message.objects.all().delete()
    assert not deletion.is_large(Session.objects.filter(user=user))
    Session.objects.bulk_create(Session(user=user) for _ in range(4))
    assert deletion.is_large(Session.objects.filter(user=user))


def test_messages_of_others_do_not_count(user: User) -> None:
    other = Session.objects.create(user=User.objects.create_user("other@example.org"))
    assert not deletion.is_large(Session.objects.filter(pk=other.pk))


def test_the_question_reads_a_bounded_number_of_rows(user: User) -> None:
    """One row more than a request deletes is enough to know."""
    Message.objects.all()[0].delete()
    for sessions, counts in ((0, 2), (5, 1)):
        Session.objects.bulk_create(Session(user=user) for _ in range(sessions))
        with CaptureQueriesContext(connection) as queries:
            assert deletion.is_large(Session.objects.filter(user=user)) is (sessions > 0)
        assert len(queries) == counts
        assert all("LIMIT 5" in query["sql"] for query in queries)


def test_answers_as_the_question_said(admin_client: Client, user: User) -> None:
    """A deletion that was announced for the background has a job, also if it has become small since."""
    Message.objects.all().delete()
    admin_client.post(user_page(user, "delete"), {"post": "yes", "reason": ""})
    assert Job.objects.count() == 1


@pytest.mark.parametrize("reason", ["x" * 501, "a\0b"])
def test_invalid_reason_is_refused(admin_client: Client, user: User, reason: str) -> None:
    selected = {"action": "delete_selected", "_selected_action": str(user.pk)}
    for page, form in ((user_page(user, "delete"), {}), ("/admin/core/user/", selected)):
        response = admin_client.post(page, {"post": "yes", "reason": reason, **form}, follow=True)
        assert (
            "The reason is too long or contains invalid characters. Nothing was deleted." in response.content.decode()
        )
    assert not Job.objects.exists() and User.objects.filter(pk=user.pk).exists()


@runs_jobs
@pytest.mark.parametrize("model", ["user", "session"])
def test_bulk_action_has_one_job_for_each_row(admin_client: Client, user: User, model: str) -> None:
    others = [create_user(f"{number}@example.org", messages=1) for number in range(3)]
    users = [user, *others]
    rows = users if model == "user" else list(Session.objects.filter(user__in=users))
    form: dict[str, Any] = {"action": "delete_selected", "_selected_action": [str(row.pk) for row in rows]}
    assert "one job for each" in admin_client.post(f"/admin/core/{model}/", form).content.decode()
    page = admin_client.post(f"/admin/core/{model}/", {**form, "post": "yes", "reason": "r"}, follow=True)
    assert f"4 {model}s will be deleted in the background." in page.content.decode()
    assert Job.objects.filter(task=f"core.tasks.delete_{model}", reason="r").count() == 4
    page = admin_client.post(f"/admin/core/{model}/", {**form, "post": "yes", "reason": "r"}, follow=True)
    assert f"4 {model}s already being deleted." in page.content.decode()
    for job in Job.objects.all():
        execution.run(job.pk)
    assert not Session.objects.exists() and not Message.objects.exists()
    assert User.objects.filter(email__endswith="@example.org", is_staff=False).count() == (0 if model == "user" else 4)


def test_needs_the_permission_for_every_model(staff_client: Callable[..., Client], user: User) -> None:
    client = staff_client("view_user", "delete_user", "delete_session")
    assert client.post(user_page(user, "delete"), {"post": "yes", "reason": ""}).status_code == 403
    form = {"action": "delete_selected", "_selected_action": str(user.pk), "post": "yes", "reason": ""}
    assert client.post("/admin/core/user/", form).status_code == 403
    assert not Job.objects.exists()


@runs_jobs
def test_cancels_before_it_begins(staff_client: Callable[..., Client], user: User) -> None:
    client = staff_client(*DELETE_PERMISSIONS)
    client.post(user_page(user, "delete"), {"post": "yes", "reason": ""})
    job = Job.objects.get()
    cancel = f"/admin/core/job/{job.pk}/cancel/"
    assert cancel in client.get(user_page(user)).content.decode()
    assert client.get(cancel)["Location"] == user_page(user)
    job.refresh_from_db()
    assert job.status == "queued"
    assert "The job was cancelled. Nothing was changed." in client.post(cancel, follow=True).content.decode()
    execution.run(job.pk)
    job.refresh_from_db()
    assert (job.status, Message.objects.count()) == ("cancelled", 4)
    event = AuditEvent.objects.get(action="job_cancelled")
    assert (event.object_id, event.actor_email) == (str(job.pk), "staff@example.org")
    page = client.get(user_page(user)).content.decode()
    assert "cancelled before it started" in page and cancel not in page
    assert "so it can&#x27;t be cancelled" in client.post(cancel, follow=True).content.decode()
    assert AuditEvent.objects.filter(action="job_cancelled").count() == 1


@pytest.mark.parametrize(
    "change", [{"status": "running", "started_at": "2026-01-01T00:00Z"}, {"started_at": "2026-01-01T00:00Z"}]
)
def test_does_not_cancel_what_has_begun(admin_client: Client, user: User, change: dict[str, str]) -> None:
    job_id = tasks.delete_user.enqueue(str(user.pk)).id
    Job.objects.filter(pk=job_id).update(**change)
    cancel = f"/admin/core/job/{job_id}/cancel/"
    assert cancel not in admin_client.get(user_page(user)).content.decode()
    assert "so it can&#x27;t be cancelled" in admin_client.post(cancel, follow=True).content.decode()
    assert Job.objects.get(pk=job_id).status != "cancelled"


def test_cancelling_takes_the_permission_to_delete(staff_client: Callable[..., Client], user: User) -> None:
    client = staff_client("view_user", "change_user", "view_job")
    cancel = f"/admin/core/job/{tasks.delete_user.enqueue(str(user.pk)).id}/cancel/"
    assert cancel not in client.get(user_page(user)).content.decode()
    assert client.post(cancel).status_code == 403
    schedule.store_schedule()
    root = Client()
    root.force_login(User.objects.create_superuser("root@example.org"))
    for job in Job.objects.filter(is_scheduled=True):
        assert root.post(f"/admin/core/job/{job.pk}/cancel/").status_code == 403
    assert root.post(f"/admin/core/job/{user.pk}/cancel/").status_code == 404
    assert root.post("/admin/core/job/x/cancel/").status_code == 404


def test_shows_a_failure_and_allows_another_attempt(admin_client: Client, user: User) -> None:
    job_id = tasks.delete_user.enqueue(str(user.pk)).id
    Job.objects.filter(pk=job_id).update(status="failed", error="ValueError", started_at="2026-01-01T00:00Z")
    assert "failed (ValueError)" in admin_client.get(user_page(user)).content.decode()
    admin_client.post(user_page(user, "delete"), {"post": "yes"})
    assert Job.objects.filter(status="queued", task="core.tasks.delete_user").count() == 1


def test_durations_do_not_grow_while_a_job_waits(admin_client: Client, user: User) -> None:
    start = timezone.now() - timedelta(hours=2)
    job_id = tasks.delete_user.enqueue(str(user.pk)).id
    times = {"started_at": start, "updated_at": start + timedelta(seconds=5)}
    Job.objects.filter(pk=job_id).update(error="ValueError", **times)
    assert "the last attempt took 5 s." in admin_client.get(user_page(user)).content.decode()
    schedule.store_schedule()
    Job.objects.filter(is_scheduled=True).update(finished_at=start + timedelta(seconds=7), **times)
    durations = [JobDisplay(job).duration for job in Job.objects.filter(is_scheduled=True)]
    assert durations == ["7 s"] * len(schedule.SCHEDULE)
    Job.objects.filter(pk=job_id).update(status="running")
    assert "started 2 h" in admin_client.get(user_page(user)).content.decode()


@runs_jobs
def test_refreshing_the_progress_does_not_extend_the_login(admin_client: Client, user: User) -> None:
    tasks.delete_user.enqueue(str(user.pk))
    session = admin_client.session
    session[LAST_SEEN_KEY] -= 120
    session.save()
    page = admin_client.get(user_page(user), headers={"X-Automatic-Refresh": "1"}).content.decode()
    assert "data-unfinished" in page
    assert admin_client.session[LAST_SEEN_KEY] == session[LAST_SEEN_KEY]
    execution.run(Job.objects.get().pk)
    assert admin_client.get(user_page(user), headers={"X-Automatic-Refresh": "1"}).status_code == 404
    assert not list(admin_client.get("/admin/").context["messages"])
    assert admin_client.session[LAST_SEEN_KEY] > session[LAST_SEEN_KEY]
    cache.clear()


def test_jobs_page_shows_the_schedule_and_filters(admin_client: Client, user: User) -> None:
    schedule.store_schedule()
    tasks.delete_user.enqueue(str(user.pk))
    page = admin_client.get("/admin/core/job/").content.decode()
    assert "Clear web sessions" in page and "<td>1 d</td>" in page
    for query, count in (
        ("status__exact=queued", 1 + len(schedule.SCHEDULE)),
        ("task__exact=core.tasks.delete_user", 1),
        ("is_scheduled__exact=0", 1),
        (f"q={user.pk}", 1),
        (f"q={Job.objects.get(is_scheduled=False).pk}", 1),
        ("q=ann", 0),
    ):
        response = admin_client.get(f"/admin/core/job/?{query}", follow=True)
        assert response.context["cl"].result_count == count, query
        assert "contains an invalid filter" not in response.content.decode()
    for job in Job.objects.all():
        assert admin_client.get(f"/admin/core/job/{job.pk}/change/").status_code == 200
        assert admin_client.post(f"/admin/core/job/{job.pk}/change/", {"reason": "x"}).status_code == 403
        assert admin_client.post(f"/admin/core/job/{job.pk}/delete/", {"post": "yes"}).status_code == 403


def test_job_shows_only_links_that_the_reader_may_open(staff_client: Callable[..., Client], user: User) -> None:
    client = staff_client("view_job")
    job_id = tasks.delete_user.enqueue(str(user.pk)).id
    page = client.get(f"/admin/core/job/{job_id}/change/").content.decode()
    assert "a user" in page and str(user.pk) not in page
    assert client.get("/admin/core/job/").status_code == 200
    nobody = Client()
    nobody.force_login(User.objects.create_user("other@example.org", is_staff=True))
    assert nobody.get(f"/admin/core/job/{job_id}/change/").status_code == 403
