"""Whom an audit event names, from where and in which request, in all cases."""

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.http import HttpRequest
from django.test import RequestFactory

from core.audit import Origin, attributed_to, audit_context, current_origin, record
from core.conversations import append_message
from core.models import AuditEvent, Session, User

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ann@example.org")


@pytest.fixture
def request_of_user(rf: RequestFactory, user: User) -> HttpRequest:
    request = rf.post("/", REMOTE_ADDR="192.0.2.7")
    request.user = user
    return request


def recorded(request: HttpRequest | None, user: object) -> AuditEvent:
    record(AuditEvent.Action.LOGIN, request, user=user)
    return AuditEvent.objects.latest("created_at", "id")


def actor_of(event: AuditEvent) -> tuple[object, ...]:
    return (event.actor_id, event.actor_email, event.address)


def test_event_of_a_request(request_of_user: HttpRequest, user: User) -> None:
    event = recorded(request_of_user, user)
    assert actor_of(event) == (user.pk, "ann@example.org", "192.0.2.7")
    assert event.trace_id
    assert (event.table, event.object_id, event.changes) == ("", "", {})


def test_event_without_a_request_has_no_trace_id(user: User) -> None:
    event = recorded(None, user)
    assert actor_of(event) == (user.pk, "ann@example.org", None)
    assert event.trace_id == ""


def test_event_without_anything_is_empty() -> None:
    event = recorded(None, None)
    assert (*actor_of(event), event.trace_id) == (None, "", None, "")


@pytest.mark.parametrize("nobody", [None, AnonymousUser()], ids=["none", "anonymous"])
def test_event_of_a_request_without_a_user(request_of_user: HttpRequest, nobody: object) -> None:
    event = recorded(request_of_user, nobody)
    assert actor_of(event) == (None, "", "192.0.2.7")
    assert event.trace_id


def test_request_through_a_unix_socket_has_no_address(rf: RequestFactory, user: User) -> None:
    assert recorded(rf.post("/", REMOTE_ADDR=""), user).address is None


def test_changes_and_jobs_have_the_origin_of_their_transaction(request_of_user: HttpRequest, user: User) -> None:
    other = User.objects.create_user("bob@example.org")
    assert current_origin() == Origin(None, "", None, "", "")
    with audit_context(request_of_user, other, reason="asked for"):
        origin = current_origin()
        Session.objects.create(user=user)
    changed = AuditEvent.objects.latest("created_at", "id")
    assert actor_of(changed) == (other.pk, "bob@example.org", "192.0.2.7")
    assert origin == Origin(other.pk, "bob@example.org", "192.0.2.7", changed.trace_id, "asked for")
    with pytest.raises(ZeroDivisionError), attributed_to(origin):
        raise ZeroDivisionError
    assert current_origin() == Origin()


def test_event_of_a_job_has_the_origin_without_the_reason(user: User) -> None:
    with attributed_to(Origin(user.pk, "ann@example.org", "192.0.2.8", "of-the-request", "asked for")):
        event = recorded(None, None)
    assert (*actor_of(event), event.trace_id) == (user.pk, "ann@example.org", "192.0.2.8", "of-the-request")
    assert "asked for" not in str(event.changes)


def test_origin_is_set_in_a_transaction(request_of_user: HttpRequest) -> None:
    """Outside of one, the setting would end with its own statement."""
    with audit_context(request_of_user), connection.cursor() as cursor:
        assert len(connection.savepoint_ids) == 1
        cursor.execute("SELECT current_setting('voiceassist.audit', true)")
        assert '"actor_email": "ann@example.org"' in str(cursor.fetchone())


def test_disclosure_names_the_conversation_among_others(user: User) -> None:
    sessions = [Session.objects.create(user=User.objects.create_user(f"{n}@example.org")) for n in range(3)]
    messages = [append_message(session.pk, role="user") for session in sessions]
    for target in (sessions[1], messages[1]):
        record(AuditEvent.Action.REVEAL, None, user=user, target=target)
        event = AuditEvent.objects.latest("created_at", "id")
        assert (event.subject_id, event.session_id) == (sessions[1].user_id, sessions[1].pk)


def test_disclosure_of_no_row_names_nobody(user: User) -> None:
    record(AuditEvent.Action.EXPORT, None, user=user, changes={"recipient": [None, "archive"]})
    event = AuditEvent.objects.latest("created_at", "id")
    assert (event.subject_id, event.session_id, event.changes) == (None, None, {"recipient": [None, "archive"]})
