"""Functions that work in batches do all of it: each test has two and a half batches, and rows that have to stay."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import pyrage
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core import batched_deletion, deletion, exports, personal_data, tasks
from core.audit import Origin, attributed_to, record
from core.conversations import append_message
from core.models import AuditEvent, Export, Job, Message, Session, User

pytestmark = pytest.mark.django_db

BATCH = 2
NUMBER = 5  # of sessions, and of messages in each


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "_MAX_SESSIONS", BATCH)
    monkeypatch.setattr(deletion, "_MAX_MESSAGES", BATCH)
    monkeypatch.setattr(batched_deletion, "MAX_MESSAGES", BATCH)
    monkeypatch.setattr(personal_data, "_PAGE_SIZE", BATCH)


def create_user(email: str) -> User:
    """Return a user with five sessions of five messages. Two of three sessions share a time, as imported ones may."""
    user, now = User.objects.create_user(email), timezone.now()
    for number in range(NUMBER):
        session = Session.objects.create(user=user, title=str(number), created_at=now + timedelta(hours=number // 2))
        for _ in range(NUMBER):
            append_message(session.pk, role="user", content="x")
    return user


@pytest.fixture
def user() -> User:
    return create_user("ann@example.org")


@pytest.fixture
def other() -> User:
    return create_user("bob@example.org")


def test_delete_sessions(user: User, other: User) -> None:
    with CaptureQueriesContext(connection) as queries:
        deletion.delete_sessions(Session.objects.filter(user=user))
    deletions = [
        query["sql"] for query in queries if query["sql"].startswith('DELETE FROM "messages" WHERE "messages"."id"')
    ]
    assert deletions and all(f"LIMIT {BATCH}" in sql for sql in deletions)
    assert len([query for query in queries if query["sql"].startswith('DELETE FROM "sessions"')]) == 3
    assert set(Session.objects.values_list("user", flat=True)) == {other.pk}
    assert Session.objects.count() == NUMBER and Message.objects.count() == NUMBER**2
    assert User.objects.count() == 2


def test_delete_messages(user: User, other: User) -> None:
    deletion.delete_messages(Message.objects.filter(session__user=user))
    assert Message.objects.count() == Message.objects.filter(session__user=other).count() == NUMBER**2
    assert list(user.sessions.values_list("message_count", flat=True)) == [0] * NUMBER
    assert list(other.sessions.values_list("message_count", flat=True)) == [NUMBER] * NUMBER


def test_delete_user(user: User, other: User) -> None:
    deletion.delete_user(user)
    assert list(User.objects.all()) == [other]
    assert Session.objects.count() == NUMBER and Message.objects.count() == NUMBER**2


def delete_user_in_background(user: User) -> Iterator[Job]:
    return batched_deletion.delete_user(user.pk)


def delete_session_in_background(user: User) -> Iterator[Job]:
    return batched_deletion.delete_session(user.sessions.get(title="3").pk)


@pytest.mark.parametrize(
    ("delete", "sessions"), [(delete_user_in_background, NUMBER), (delete_session_in_background, 1)]
)
def test_deletion_in_background(
    user: User, other: User, delete: Callable[[User], Iterator[Job]], sessions: int
) -> None:
    left = [Message.objects.count()]
    jobs = []
    for job in delete(user):
        jobs.append(job)
        left.append(Message.objects.count())
        assert left[-2] - left[-1] <= BATCH
    job = jobs[-1]
    assert (job.done, job.total) == (NUMBER * sessions, NUMBER * sessions)
    assert job.result == {"sessions": sessions}
    assert Session.objects.filter(user=user.pk).count() == NUMBER - sessions
    assert left[-1] == Message.objects.count() == NUMBER**2 + NUMBER * (NUMBER - sessions)
    assert User.objects.filter(pk=user.pk).exists() == (sessions == 1)


def test_sessions_without_messages_are_deleted_in_batches_too(other: User) -> None:
    user = User.objects.create_user("ann@example.org")
    Session.objects.bulk_create(Session(user=user) for _ in range(NUMBER))
    left = [Session.objects.filter(user=user.pk).count() for _ in batched_deletion.delete_user(user.pk)]
    assert left == [3, 1, 0, 0]
    assert User.objects.get() == other


def test_export(user: User, other: User) -> None:
    """Each list of the export has rows of five times as many, and of no other user."""
    with attributed_to(Origin(actor_id=user.pk)):
        for session in user.sessions.all():
            record(AuditEvent.Action.REVEAL, None, user=None, target=session)
        for number in range(NUMBER):
            User.objects.filter(pk=user.pk).update(full_name=f"Ann {number}")
    key, written = pyrage.x25519.Identity.generate(), bytearray()
    counts: list[int] = []
    exports.write(user, str(key.to_public()), written.extend, counts.append)
    data = json.loads(pyrage.decrypt(bytes(written), [key]))
    sessions = Session.objects.filter(user=user).order_by("created_at", "id")
    assert [row["id"] for row in data["sessions"]] == [str(session.pk) for session in sessions]
    for row in data["sessions"]:
        messages = Message.objects.filter(session=row["id"]).order_by("created_at", "id")
        assert [message["id"] for message in row["messages"]] == [str(message.pk) for message in messages]
    events = [event["action"] for event in data["account_events"]]
    assert events == ["create", *["change"] * NUMBER]
    assert [event["action"] for event in data["disclosures"]] == ["reveal"] * NUMBER
    assert [event["object_id"] for event in data["activity"]] == [row["object_id"] for row in data["disclosures"]]
    assert sum(counts) == NUMBER**2


def test_clearing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks._delete, "__defaults__", (BATCH,))
    long_ago = timezone.now() - timedelta(days=91)
    for age in (*[long_ago] * NUMBER, timezone.now()):
        Job.objects.create(task="core.tasks.delete_user", status="succeeded", finished_at=age)
        Export.objects.create(user_id=Job.objects.all()[0].pk, recipient="age1", created_at=age)
    tasks.clear_finished_jobs.call()
    tasks.clear_exports.call()
    assert Job.objects.get().finished_at != long_ago
    assert Export.objects.get().created_at != long_ago
