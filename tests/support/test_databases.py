"""What a test with real transactions commits is deleted, and nothing else changes."""

import pytest
from django.contrib.auth.models import Permission
from django.db import connection

from core.audit_policy import APPEND_ONLY, AUDITED
from core.models import AuditEvent, Message, Session, User


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("test", ["first", "second"])
def test_committed_rows_are_deleted_after_a_test(test: str) -> None:
    for model in (User, Session, Message):
        assert not model._default_manager.exists(), model
    assert not AuditEvent.objects.filter(table="users").exists()
    assert Permission.objects.filter(codename="view_phi").exists()
    with connection.cursor() as cursor:
        cursor.execute("SELECT tgenabled FROM pg_trigger WHERE tgname = 'audit_is_not_passed'")
        assert cursor.fetchall() == [("A",)] * len([*AUDITED, *APPEND_ONLY])
    session = Session.objects.create(user=User.objects.create(email="ann@example.org"))
    Message.objects.create(session=session, role="user")
