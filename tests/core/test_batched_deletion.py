"""Deleting users and sessions in many transactions, as jobs and outside of them."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection, connections
from django.test import Client

from core import batched_deletion, deletion, tasks
from core.api.exceptions import ApiError
from core.audit import Origin, attributed_to
from core.conversations import append_message
from core.jobs import execution
from core.models import AuditEvent, Job, Message, Session, User

pytestmark = pytest.mark.django_db(transaction=True)

MESSAGES = 5  # per session
ORIGIN = Origin(actor_email="staff@example.org", address="192.0.2.1", trace_id="trace-of-the-request", reason="left")


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> User:
    """Return a user with two sessions of five messages, and delete two messages per transaction."""
    monkeypatch.setattr(batched_deletion, "MAX_MESSAGES", 2)
    user = User.objects.create_user("ann@example.org", "a long password")
    for title in "ab":
        session = Session.objects.create(user=user, title=title)
        for number in range(MESSAGES):
            append_message(session.pk, role="user", content=str(number))
    return user


def enqueue(task: Any, *arguments: Any) -> Job:
    with attributed_to(ORIGIN):
        return Job.objects.get(pk=task.enqueue(*arguments).id)


def run(job: Job) -> Job:
    execution.run(job.pk)
    job.refresh_from_db()
    return job


def events(*actions: str) -> "Counter[tuple[str, str, str]]":
    """Return how many events there are of each table, row and action."""
    return Counter(AuditEvent.objects.filter(action__in=actions).values_list("table", "object_id", "action"))


def expected_deletions(user: User) -> "Counter[tuple[str, str, str]]":
    rows = [user, *Session.objects.filter(user=user), *Message.objects.filter(session__user=user)]
    return Counter((row._meta.db_table, str(row.pk), "delete") for row in rows)


def test_job_deletes_a_user_and_records_each_row_once(user: User) -> None:
    expected = expected_deletions(user)
    job = run(enqueue(tasks.delete_user, user.pk))
    assert (job.status, job.done, job.total, job.result) == ("succeeded", 2 * MESSAGES, 2 * MESSAGES, {"sessions": 2})
    assert not User.objects.exists() and not Session.objects.exists() and not Message.objects.exists()
    assert events("delete") == expected
    for event in AuditEvent.objects.filter(action__in=("delete", "deletion_started", "change")):
        origin = (event.actor_email, event.address, event.trace_id)
        assert origin == (ORIGIN.actor_email, ORIGIN.address, ORIGIN.trace_id), event.action
    started = AuditEvent.objects.get(action="deletion_started")
    assert (started.object_id, started.changes) == (str(user.pk), {"reason": [None, "left"]})


def test_job_deletes_a_session_only(user: User) -> None:
    session = Session.objects.get(title="a")
    job = run(enqueue(tasks.delete_session, session.pk))
    assert (job.status, job.done, job.total) == ("succeeded", MESSAGES, MESSAGES)
    assert [row.title for row in Session.objects.all()] == ["b"]
    assert Message.objects.count() == MESSAGES
    user.refresh_from_db()
    assert user.is_active


def test_deletes_outside_of_a_job_with_the_origin_of_the_caller(user: User) -> None:
    expected = expected_deletions(user)
    progress = [job.done for job in batched_deletion.delete_user(user.pk, Origin(trace_id="of-the-command"))]
    assert progress == sorted(progress) and progress[-1] == 2 * MESSAGES
    assert events("delete") == expected
    deletions = AuditEvent.objects.filter(action__in=("delete", "deletion_started"))
    assert {(event.actor_email, event.trace_id) for event in deletions} == {("", "of-the-command")}
    assert AuditEvent.objects.get(action="deletion_started").changes == {}  # there is no reason


@pytest.mark.parametrize("task", [tasks.delete_user, tasks.delete_session], ids=lambda task: str(task.name))
def test_nothing_to_delete(user: User, task: Any) -> None:
    job = enqueue(task, Session.objects.first().pk if task is tasks.delete_session else user.pk)  # type: ignore[union-attr]
    Message.objects.all().delete()
    Session.objects.all().delete()
    user.delete()
    assert (run(job).status, job.done) == ("succeeded", 0)
    assert not AuditEvent.objects.filter(action="deletion_started").exists()


def started_deletion(user: User) -> Iterator[Job]:
    deletion = batched_deletion.delete_user(user.pk)
    next(deletion)
    return deletion


def test_user_is_logged_out_and_cannot_append_once_it_begins(user: User) -> None:
    client = Client()
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client.force_login(User.objects.get())
    assert client.get("/admin/").status_code == 200
    deletion = started_deletion(user)
    cache.clear()
    assert client.get("/admin/").status_code == 302
    form = {"username": user.email, "password": "a long password"}
    assert "Wrong email or password" in client.post("/admin/login/", form).content.decode()
    for session in Session.objects.all():
        with pytest.raises(ApiError, match="deactivated"):
            append_message(session.pk, role="user", content="late")
    list(deletion)
    assert not User.objects.exists()


def test_user_is_deactivated_once(user: User) -> None:
    created_at = user.updated_at
    deletion = started_deletion(user)
    user.refresh_from_db()
    deactivated_at = user.updated_at
    assert not user.is_active and deactivated_at > created_at
    next(deletion)
    user.refresh_from_db()
    assert user.updated_at == deactivated_at
    User.objects.create_user("bob@example.org")
    list(deletion)
    assert User.objects.get().is_active


def test_session_accepts_no_message_once_its_deletion_begins() -> None:
    session = Session.objects.get(title="a")
    deletion = batched_deletion.delete_session(session.pk)
    next(deletion)
    with pytest.raises(ApiError, match="ended"):
        append_message(session.pk, role="user", content="late")
    list(deletion)
    with pytest.raises(ApiError, match="not found"):
        append_message(session.pk, role="user", content="late")


def test_deletes_what_is_added_meanwhile_and_deactivates_again(user: User) -> None:
    deletion = started_deletion(user)
    User.objects.filter(pk=user.pk).update(is_active=True)
    added = Session.objects.create(user=user, title="c")
    append_message(added.pk, role="user", content="late")
    next(deletion)
    user.refresh_from_db()
    assert not user.is_active
    list(deletion)
    assert not User.objects.exists() and not Message.objects.exists()


def test_two_deletions_at_once(user: User) -> None:
    def delete() -> None:
        try:
            list(batched_deletion.delete_user(user.pk))
        finally:
            connections.close_all()

    expected = expected_deletions(user)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(delete) for _ in range(2)]:
            future.result(30)
    assert events("delete") == expected


def test_continues_after_a_failure(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failing transaction is rolled back with its progress, and the next attempt does the rest."""
    expected = expected_deletions(user)
    job = enqueue(tasks.delete_user, user.pk)
    original, calls = deletion.delete_batch, []

    def fail_at_the_third_call(*args: Any) -> tuple[int, int]:
        deleted = original(*args)
        calls.append(deleted)
        if len(calls) in (1, 3):
            raise ValueError("a patient's name")
        return deleted

    monkeypatch.setattr(deletion, "delete_batch", fail_at_the_third_call)
    for done, is_begun in ((0, False), (2, True)):
        assert (run(job).status, job.done, job.total is not None) == ("queued", done, is_begun)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE jobs SET run_after = now()")
    assert (run(job).status, job.done, job.error) == ("succeeded", 2 * MESSAGES, "")
    assert events("delete", "deletion_started") == expected + Counter([("users", str(user.pk), "deletion_started")])
