"""PHI is never revealed if its audit event can't be stored, however that fails."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from core.models import Message, Session
from tests.core.admin.conftest import CANARY
from tests.core.clients.postgresql.connections import separate_connection
from tests.support.dependency_servers import SUPERUSER
from tests.support.reveal import REASON

pytestmark = pytest.mark.django_db(transaction=True)  # real commits

CREATE_FUNCTION = """
    CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_ARGV[0] = 'lost' THEN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(10); END IF;
        RAISE EXCEPTION 'broken';
    END $$
"""
AT_INSERT = "CREATE TRIGGER broken BEFORE INSERT"
AT_COMMIT = "CREATE CONSTRAINT TRIGGER broken AFTER INSERT"


@pytest.fixture
def reviewer(admin_client: Client) -> Client:
    admin_client.raise_request_exception = False
    return admin_client


def reveal(client: Client, row: Message | Session, view: str = "reveal") -> Any:
    return client.post(f"/admin/core/{row._meta.model_name}/{row.pk}/{view}/", REASON)


def count_reveal_events(row: Message | Session) -> int:
    with separate_connection() as observer:
        query = "SELECT count(*) FROM audit_events WHERE action = 'reveal' AND object_id = %s"
        (count,) = observer.execute(query, [str(row.pk)]).fetchall()[0]
    return int(count)


@contextmanager
def broken_audit_trail(when: str, failure: str) -> Iterator[None]:
    """Make audit events fail at insert or at commit, by an error ("refused") or a lost connection ("lost")."""
    deferred = "DEFERRABLE INITIALLY DEFERRED" if when == AT_COMMIT else ""
    with separate_connection(user=SUPERUSER) as owner:
        owner.execute(CREATE_FUNCTION)
        owner.execute(f"{when} ON audit_events {deferred} FOR EACH ROW EXECUTE FUNCTION broken('{failure}')".encode())
        try:
            yield
        finally:
            owner.execute("DROP FUNCTION broken CASCADE")


def test_reveals_nothing_without_an_audit_event(reviewer: Client, message: Message) -> None:
    for case in product((AT_INSERT, AT_COMMIT), ("refused", "lost"), ("reveal", "read")):
        when, failure, view = case
        with broken_audit_trail(when, failure):
            response = reveal(reviewer, message, view)
            connection.close()
        assert response.status_code == (503 if failure == "lost" else 500), case
        assert CANARY not in response.content.decode(), case
    assert count_reveal_events(message) == count_reveal_events(message.session) == 0
    assert reveal(reviewer, message).status_code == 200
    assert CANARY in reveal(reviewer, message, "read").content.decode()


def test_reveals_nothing_while_the_audit_trail_is_locked(reviewer: Client, message: Message) -> None:
    responses = []

    def post() -> None:
        responses.append(reveal(reviewer, message))
        connection.close()

    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%audit_events%'"
    lock = separate_connection(user=SUPERUSER)  # the application's role may not lock the table
    with lock as lock_holder, separate_connection() as observer, lock_holder.transaction():
        lock_holder.execute("LOCK TABLE audit_events IN EXCLUSIVE MODE")
        thread = threading.Thread(target=post)
        thread.start()
        deadline = time.monotonic() + 20
        while not (blocked := observer.execute(waiting).fetchall()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert responses == []
        observer.execute("SELECT pg_terminate_backend(%s)", blocked[0])
        thread.join(20)
    assert responses[0].status_code == 503
    assert CANARY not in responses[0].content.decode()
    assert count_reveal_events(message) == 0
