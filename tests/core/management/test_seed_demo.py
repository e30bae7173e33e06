"""`manage.py seed_demo`: reproducible, consistent rows, all or none."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models import Q
from django.test import Client

from core import conversations
from core.demo.generator import write
from core.models import AuditEvent, Message, Session, User
from tests.support import forked_python
from tests.support.databases import migrated_database
from tests.support.dependency_servers import as_application
from tests.support.forked_python import ForkedPython
from tests.support.plugin import Servers
from tests.support.polling import SLOWNESS, succeeds_within

ROOT = Path(__file__).resolve().parents[3]
COUNTS = {"users": 7, "sessions": 120, "messages": 3000}

pytestmark = pytest.mark.django_db


def seed(**options: Any) -> str:
    output = io.StringIO()
    call_command("seed_demo", **{**COUNTS, **options}, stdout=output)
    return output.getvalue()


def rows() -> list[list[tuple[Any, ...]]]:
    return [list(model._default_manager.order_by("pk").values_list()) for model in (User, Session, Message)]


def test_adds_the_requested_number_of_rows() -> None:
    assert seed().startswith("Added 7 users, 120 sessions and 3,000 messages")
    assert [len(table) for table in rows()] == [7, 120, 3000]
    assert sum(Session.objects.values_list("message_count", flat=True)) == 3000


@pytest.mark.parametrize(
    "counts", [(0, 0, 0), (1, 0, 0), (3, 2, 0), (1, 1, 1), (1, 1, 2500), (2, 1500, 1), (1, 2100, 5000), (1, 99, 98)]
)
def test_unusual_counts(counts: tuple[int, int, int]) -> None:
    seed(**dict(zip(COUNTS, counts, strict=True)))
    assert tuple(len(table) for table in rows()) == counts


def test_same_counts_and_seed_generate_same_rows() -> None:
    def generate(seed_number: int) -> list[list[tuple[Any, ...]]]:
        savepoint = transaction.savepoint()
        seed(seed=seed_number)
        generated = rows()
        transaction.savepoint_rollback(savepoint)
        return generated

    first = generate(1)
    assert generate(1) == first
    other = generate(2)
    for table, other_table in zip(first, other, strict=True):
        assert not {row[0] for row in table} & {row[0] for row in other_table}


def test_rows_are_consistent() -> None:
    seed(sessions=60, messages=1000)
    for session in Session.objects.select_related("user"):
        messages = list(session.messages.order_by("created_at", "id"))
        times = [message.created_at for message in messages]
        assert session.message_count == len(messages)
        assert times == sorted(set(times))
        assert session.user.created_at < session.created_at
        last = times[-1] if times else session.created_at
        assert session.created_at <= min([last, *times])
        assert session.updated_at == (session.ended_at or last) >= last
    for message in Message.objects.all():
        message.clean_fields()
        assert message.updated_at == message.created_at
        assert (message.role == "user") == (message.client_message_id is not None)
    for model in (User, Session, Message):
        for row in model._default_manager.only("pk", "created_at"):
            assert row.pk.version == 7 and row.pk.variant == "specified in RFC 4122"
            assert row.pk.int >> 80 == int(row.created_at.timestamp() * 1000), "the key contains the time"


def test_covers_every_kind_of_row() -> None:
    seed()
    assert set(Session.objects.values_list("mode", flat=True)) == {"text", "voice", "case_workspace"}
    assert set(Message.objects.values_list("role", flat=True)) == {"user", "assistant", "tool"}
    assert set(Message.objects.values_list("contains_phi", flat=True)) == {True, False}
    messages = Message.objects
    has_calls, has_results = Q(tool_calls__isnull=False), Q(tool_results__isnull=False)
    has_audio, without_client_id = ~Q(audio_url=""), Q(client_message_id=None)
    for condition in (has_calls, ~has_calls, has_results, ~has_results, Q(tokens__gt=0), has_audio, without_client_id):
        assert messages.filter(condition).exists(), condition
    for condition in (Q(ended_at=None), ~Q(ended_at=None), Q(is_archived=True), Q(is_archived=False)):
        assert Session.objects.filter(condition).exists(), condition


def test_users_are_synthetic_and_cannot_log_in() -> None:
    seed()
    for user in User.objects.all():
        assert user.email.endswith(".example.org")
        assert not user.has_usable_password() and not (user.is_staff or user.is_superuser)


def test_long_session_can_be_continued(admin_client: Client) -> None:
    """The application and the admin can work with a generated conversation."""
    seed(messages=20_000)
    session = Session.objects.order_by("-message_count")[0]
    assert session.message_count > 200
    Session.objects.filter(pk=session.pk).update(ended_at=None)
    count = session.message_count
    message = conversations.append_message(session.pk, role="user", content="x")
    assert conversations.read_messages(session.pk).messages[0] == message
    session.refresh_from_db()
    assert (session.message_count, session.updated_at) == (count + 1, message.created_at)
    page = admin_client.get(f"/admin/core/session/{session.pk}/change/")
    assert f"{count + 1:,} messages" in page.content.decode()


@pytest.mark.database_superuser
def test_rows_are_audited_and_analyzed() -> None:
    seed()
    assert AuditEvent.objects.filter(table="sessions", action="create").count() == 120
    with connection.cursor() as cursor:
        cursor.execute("SELECT reltuples FROM pg_class WHERE relname = 'messages'")
        assert cursor.fetchone() == (3000,)


def test_rejects_seed_that_exists() -> None:
    seed()
    with pytest.raises(CommandError, match="already exists; nothing added"), transaction.atomic():
        seed(users=9)
    assert [len(table) for table in rows()] == [7, 120, 3000]
    seed(seed=2)
    assert [len(table) for table in rows()] == [14, 240, 6000]


def test_production_requires_force(settings: Any) -> None:
    settings.PRODUCTION = True
    with pytest.raises(CommandError, match="--force"):
        seed()
    assert not User.objects.exists()
    seed(force=True)
    assert User.objects.count() == 7


def test_reported_steps_add_up_to_the_rows() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        assert sum(write(cursor, users=7, sessions=3, messages=4500, seed=1)) == 4510


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forked_python.run(["manage.py", "seed_demo", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [["--users=-1"], ["--users=many"], ["--messages=1e6"], ["--seed=1000000001"], ["--users=0"], ["--sessions=0"]],
)
def test_rejects_wrong_counts(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("seed_demo", *arguments)
    assert not User.objects.exists()


@pytest.mark.parametrize("argument", ["--users=-1", "--users=many", "--users=0"])
def test_wrong_usage_exits_with_2(argument: str) -> None:
    completed = run(argument)
    assert (completed.returncode, completed.stdout) == (2, "")
    assert re.search("must be a whole number from 0|Add at least one user", completed.stderr)
    assert "Traceback" not in completed.stderr


@pytest.fixture
def separate_database(servers: Servers, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Create a migrated database that the test's commands can commit to, and set DATABASE_URL."""
    name = "demo_" + request.node.name.partition("[")[0][-40:]
    url = migrated_database(servers.postgres, name)
    request.addfinalizer(lambda: servers.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)"))
    monkeypatch.setenv("DATABASE_URL", as_application(url))


def test_shows_progress_on_terminal_only(separate_database: None) -> None:
    piped = run("--messages", "3000", "--sessions", "100")
    assert piped.returncode == 0, piped.stderr
    assert piped.stderr == ""
    assert len(piped.stdout.splitlines()) == 1

    master, slave = pty.openpty()
    # So many that a fast machine needs longer than the interval of the progress, 0.1 s.
    command = ["manage.py", "seed_demo", "--seed", "2", "--messages", "20000", "--sessions", "100"]
    with ForkedPython(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"}):
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
    assert b" of 20,200 rows" in shown
    assert shown.endswith(b" \r"), "the line is cleared"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux reports that the other side is closed
        return b""


def test_ctrl_c_rolls_back(separate_database: None) -> None:
    command = [sys.executable, "manage.py", "seed_demo", "--messages", "5000000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert succeeds_within(20, is_copying_messages)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30 * SLOWNESS)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (130, "", "")
    with psycopg.connect(os.environ["DATABASE_URL"]) as database:
        assert database.execute("SELECT count(*) FROM users").fetchone() == (0,)


def is_copying_messages() -> bool:
    query = "SELECT count(*) FROM pg_stat_progress_copy WHERE relid = 'messages'::regclass AND tuples_processed > 0"
    with psycopg.connect(os.environ["DATABASE_URL"]) as database:
        return database.execute(query).fetchone() != (0,)
