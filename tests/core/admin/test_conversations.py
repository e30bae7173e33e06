"""Actions on sessions and messages, which staff can view and delete but not write."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from core.conversations import append_message
from core.models import Message, Session

pytestmark = pytest.mark.django_db


def test_sessions_and_messages_are_read_only(admin_client: Client, pages: dict[str, str], message: Message) -> None:
    assert admin_client.get("/admin/core/message/add/").status_code == 403
    assert admin_client.get("/admin/core/session/add/").status_code == 403
    assert admin_client.post(pages["message"], {"role": "tool"}).status_code == 403
    message.refresh_from_db()
    assert message.role == "user"


def test_ends_and_archives_sessions(admin_client: Client, message: Message) -> None:
    session = message.session
    for action, confirmation in (("end", "1 session ended."), ("archive", "1 session archived.")):
        form = {"action": action, "_selected_action": [str(session.pk)]}
        assert confirmation in admin_client.post("/admin/core/session/", form, follow=True).content.decode()
    session.refresh_from_db()
    assert session.ended_at and session.is_archived


def test_actions_change_every_selected_session(admin_client: Client, message: Message) -> None:
    *selected, other = (Session.objects.create(user=message.session.user) for _ in range(4))
    for action, confirmation in (("end", "3 sessions ended."), ("archive", "3 sessions archived.")):
        form = {"action": action, "_selected_action": [str(session.pk) for session in selected]}
        assert confirmation in admin_client.post("/admin/core/session/", form, follow=True).content.decode()
    changed = Session.objects.filter(ended_at__isnull=False, is_archived=True)
    assert set(changed) == set(selected)
    other.refresh_from_db()
    assert (other.ended_at, other.is_archived) == (None, False)


@pytest.mark.parametrize("action", ["end", "archive"])
def test_actions_lock_the_oldest_session_first(admin_client: Client, message: Message, action: str) -> None:
    """Deletions do so too, and two orders would deadlock."""
    form = {"action": action, "_selected_action": [str(message.session_id)]}
    with CaptureQueriesContext(connection) as queries:
        admin_client.post("/admin/core/session/", form)
    (locking,) = [sql for query in queries if 'OF "sessions"' in (sql := query["sql"]) and "FOR UPDATE" in sql]
    assert 'ORDER BY "sessions"."created_at" ASC, "sessions"."id" ASC' in locking


def test_action_applies_to_selected_rows_only(admin_client: Client, message: Message) -> None:
    unselected = Session.objects.create(user=message.session.user)
    form = {"action": "delete_selected", "_selected_action": [str(message.session_id)], "select_across": "1"}
    append_message(unselected.pk, role="user")
    question = admin_client.post("/admin/core/session/", form).content.decode()
    assert "Sessions: 1<" in question and "Messages: 1<" in question
    admin_client.post("/admin/core/session/", {**form, "post": "yes"})
    assert list(Session.objects.all()) == [unselected]


def test_action_ignores_what_is_no_key(admin_client: Client, message: Message) -> None:
    form = {"action": "archive", "_selected_action": ["x", str(message.session_id), "5"]}
    assert "1 session archived." in admin_client.post("/admin/core/session/", form, follow=True).content.decode()


def test_deleting_messages_updates_the_message_count(admin_client: Client, message: Message) -> None:
    session = Session.objects.create(user=message.session.user)
    sent = [append_message(session.pk, role="user", content=str(number)) for number in range(5)]
    form = {"action": "delete_selected", "_selected_action": [str(m.pk) for m in sent[:2]], "post": "yes"}
    admin_client.post("/admin/core/message/", form)
    admin_client.post(f"/admin/core/message/{sent[2].pk}/delete/", {"post": "yes"})
    session.refresh_from_db()
    assert (session.message_count, session.messages.count()) == (2, 2)
    # An imported message that was never counted can be deleted too.
    admin_client.post(f"/admin/core/message/{message.pk}/delete/", {"post": "yes"})
    assert not Message.objects.filter(pk=message.pk).exists()
