"""However the record of who looks can fail to be stored, nothing is shown. test_phi_reveal.py has the rest."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.test import Client

from core.models import Message, Session, User

pytestmark = pytest.mark.django_db(transaction=True)  # a commit is what these are about

CANARY = "canary-of-a-patient"
BROKEN = """
    CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_ARGV[0] = 'lost' THEN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(10); END IF;
        RAISE EXCEPTION 'broken';
    END $$
"""
NOW = "CREATE TRIGGER broken BEFORE INSERT"
AT_THE_COMMIT = "CREATE CONSTRAINT TRIGGER broken AFTER INSERT"


@pytest.fixture
def message() -> Message:
    session = Session.objects.create(user=User.objects.create_user("ann@example.org"), title=CANARY)
    return Message.objects.create(session=session, role="user", content=CANARY, metadata={"patient": CANARY})


@pytest.fixture
def reviewer(admin_client: Client) -> Client:
    admin_client.raise_request_exception = False
    return admin_client


def reveal(client: Client, row: Message | Session, method: str = "post") -> Any:
    return getattr(client, method)(f"/admin/core/{row._meta.model_name}/{row.pk}/reveal/")


def beside() -> psycopg.Connection:
    """A connection that sees only what is committed."""
    parameters = connection.get_connection_params()
    names = ("host", "port", "user", "password", "dbname")
    return psycopg.connect(**{name: parameters[name] for name in names}, autocommit=True)


def recorded(row: Message | Session) -> int:
    with beside() as another:
        question = "SELECT count(*) FROM audit_events WHERE action = 'reveal' AND object_id = %s"
        (count,) = another.execute(question, [str(row.pk)]).fetchall()[0]
    return int(count)


@contextmanager
def broken(when: str, how: str) -> Iterator[None]:
    """The audit trail takes no record, or the connection is lost: at the insertion, or at the commit."""
    deferred = "DEFERRABLE INITIALLY DEFERRED" if when == AT_THE_COMMIT else ""
    with beside() as another:
        another.execute(BROKEN)
        another.execute(f"{when} ON audit_events {deferred} FOR EACH ROW EXECUTE FUNCTION broken('{how}')".encode())
        try:
            yield
        finally:
            another.execute("DROP FUNCTION broken CASCADE")


def test_nothing_is_shown_without_a_record(reviewer: Client, message: Message) -> None:
    for when in (NOW, AT_THE_COMMIT):
        for how in ("refused", "lost"):
            with broken(when, how):
                response = reveal(reviewer, message)
                connection.close()
            assert response.status_code == (503 if how == "lost" else 500), (when, how)
            assert CANARY not in response.content.decode(), (when, how)
    assert recorded(message) == 0
    assert reveal(reviewer, message).status_code == 200


def test_nothing_is_shown_while_the_trail_is_locked(reviewer: Client, message: Message) -> None:
    answers = []

    def post() -> None:
        answers.append(reveal(reviewer, message))
        connection.close()

    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%audit_events%'"
    with beside() as holder, beside() as another, holder.transaction():
        holder.execute("LOCK TABLE audit_events IN EXCLUSIVE MODE")
        looking = threading.Thread(target=post)
        looking.start()
        end = time.monotonic() + 20
        while not (found := another.execute(waiting).fetchall()):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert answers == []
        another.execute("SELECT pg_terminate_backend(%s)", found[0])
        looking.join(20)
    assert answers[0].status_code == 503
    assert CANARY not in answers[0].content.decode()
    assert recorded(message) == 0
