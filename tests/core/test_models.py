"""The tables, the database constraints, and the behaviour of the models."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, models, transaction
from django.test import RequestFactory
from django.utils import timezone

from core.models import Message, Session, User
from core.models.fields import DepthLimitedJSONField

pytestmark = pytest.mark.django_db

CANARY = "canary of a patient"


@pytest.fixture
def user() -> User:
    return User.objects.create_user("Ann.Lee@Example.org", "correct horse", full_name="Ann Lee")


@pytest.fixture
def session(user: User) -> Session:
    return Session.objects.create(user=user, title=CANARY, context={"patient": CANARY})


@pytest.fixture
def message(session: Session) -> Message:
    return Message.objects.create(session=session, role="user", content=CANARY, client_message_id="a")


def columns(table: str) -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s", [table])
        return dict(cursor.fetchall())


def test_columns_of_each_table() -> None:
    common = {"id": "uuid", "created_at": "timestamp with time zone", "updated_at": "timestamp with time zone"}
    assert columns("users") == common | {
        "email": "character varying",
        "full_name": "character varying",
        "specialty": "character varying",
        "password": "character varying",
        "is_active": "boolean",
        "is_staff": "boolean",
        "is_superuser": "boolean",
        "is_emergency": "boolean",
        "must_change_password": "boolean",
        "logins_ended_at": "timestamp with time zone",
        "last_login": "timestamp with time zone",
    }
    assert columns("sessions") == common | {
        "user_id": "uuid",
        "title": "character varying",
        "mode": "character varying",
        "is_archived": "boolean",
        "context": "jsonb",
        "message_count": "integer",
        "ended_at": "timestamp with time zone",
    }
    assert columns("messages") == common | {
        "session_id": "uuid",
        "role": "character varying",
        "content": "text",
        "audio_url": "character varying",
        "model": "character varying",
        "tokens": "integer",
        "tool_calls": "jsonb",
        "tool_results": "jsonb",
        "metadata": "jsonb",
        "contains_phi": "boolean",
        "client_message_id": "character varying",
    }


def test_keys_are_uuid7_in_order_of_creation(session: Session) -> None:
    keys = [Message.objects.create(session=session, role="user").pk for _ in range(200)]
    assert keys == sorted(keys)
    assert {key.version for key in keys} == {7}
    assert all(type(key) is uuid.UUID for key in keys)


# Users


def test_login_by_email_ignores_case(user: User, rf: RequestFactory) -> None:
    request = rf.post("/")
    assert user.email == "ann.lee@example.org"
    for email in ("Ann.Lee@Example.org", "ann.lee@example.org", "ANN.LEE@EXAMPLE.ORG"):
        assert authenticate(request, username=email, password="correct horse") == user
    assert authenticate(request, username="ann.lee@example.org", password="wrong") is None
    assert User.objects.get(email="ANN.lee@example.org") == user
    assert user.password.startswith("argon2$")


def test_email_is_unique_ignoring_case(user: User) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create_user("ANN.LEE@example.org")
    sql = "INSERT INTO users (id, created_at, updated_at, email, full_name, specialty, password, is_active, is_staff, is_superuser) VALUES (%s, now(), now(), %s, '', '', '', true, false, false)"  # noqa: E501  # one statement
    for email in ("ann.lee@example.org", "Ann.Lee@example.org"):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql, [uuid.uuid4(), email])


def test_email_is_stored_in_lower_case_by_bulk_operations(user: User) -> None:
    User.objects.bulk_create([User(email="BULK@Example.org")])
    User.objects.filter(pk=user.pk).update(email="New@Example.org")
    assert User.objects.filter(email__in=["bulk@example.org", "NEW@example.org"]).count() == 2


def test_create_superuser() -> None:
    superuser = User.objects.create_superuser("root@example.org", "x")
    assert superuser.is_staff
    assert superuser.is_superuser
    assert superuser.is_active
    with pytest.raises(ValueError, match="email"):
        User.objects.create_user("")


# JSON


def is_valid_context(session: Session, value: Any) -> bool:
    session.context = value
    try:
        session.full_clean()
    except ValidationError as error:
        assert {field: [item.code for item in items] for field, items in error.error_dict.items()} == {
            "context": ["too_deep"]
        }
        return False
    return True


@pytest.mark.parametrize(
    "wrap",
    [lambda x: [x], lambda x: (x,), lambda x: {"a": x}, lambda x: ["]", x, 2]],
    ids=["array", "tuple", "object", "second item"],
)
def test_json_is_limited_to_100_levels(session: Session, wrap: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(100):
        value = wrap(value)
    assert is_valid_context(session, value)
    assert not is_valid_context(session, wrap(value))


@pytest.mark.parametrize("model", [Session, Message])
def test_every_json_field_is_limited(model: type[models.Model]) -> None:
    fields = [field for field in model._meta.fields if isinstance(field, models.JSONField)]
    assert fields and all(isinstance(field, DepthLimitedJSONField) for field in fields)


# Constraints, tested by SQL to bypass Django's validation


@pytest.mark.parametrize(
    ("table", "assignment"),
    [
        ("messages", "role = 'doctor'"),
        ("messages", "role = ''"),
        ("messages", "tokens = -1"),
        ("sessions", "mode = 'video'"),
        ("sessions", "message_count = -1"),
        ("sessions", "ended_at = created_at - interval '1 microsecond'"),
    ],
)
def test_database_refuses_invalid_value(message: Message, table: str, assignment: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {assignment}")


@pytest.mark.parametrize(("model", "field"), [(Message, "role"), (Session, "mode")])
def test_database_accepts_every_choice(message: Message, model: type[models.Model], field: str) -> None:
    column: Any = model._meta.get_field(field)
    for value, _ in column.choices:
        model._default_manager.update(**{field: value})


def test_choices_match_the_constraints(message: Message) -> None:
    assert Message.Role.values == ["user", "assistant", "system", "tool"]
    assert Session.Mode.values == ["text", "voice", "case_workspace"]


def test_client_message_id_is_unique_per_session(message: Message, user: User) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Message.objects.create(session=message.session, role="user", client_message_id="a")
    other = Session.objects.create(user=user)
    Message.objects.create(session=other, role="user", client_message_id="a")
    for _ in range(2):
        Message.objects.create(session=other, role="user")


def test_session_may_end_at_its_creation(session: Session) -> None:
    session.ended_at = session.created_at + timedelta(0)
    session.save()


def test_deleting_a_user_cascades(message: Message, user: User) -> None:
    user.delete()
    assert not Session.objects.exists()
    assert not Message.objects.exists()


def test_defaults(message: Message) -> None:
    message.refresh_from_db()
    assert message.contains_phi is True
    assert message.metadata == {}
    assert message.session.mode == "text"
    assert Session.objects.create(user=message.session.user).context == {}
    assert timezone.now() - message.created_at < timedelta(minutes=1)


def test_str_and_repr_contain_only_the_key(message: Message, user: User) -> None:
    for row in (message, message.session, user):
        for text in (str(row), repr(row), f"{row}", str([row])):
            assert str(row.pk) in text
            assert CANARY not in text
            assert "ann" not in text.lower()
            assert "lee" not in text.lower()
