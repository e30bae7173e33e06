"""Demo data: the same for the same numbers, as if conversations had written it, all or none."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
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
from tests.support.plugin import Servers

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = {"users": 7, "sessions": 120, "messages": 3000}

pytestmark = pytest.mark.django_db


def seed(**options: Any) -> str:
    output = io.StringIO()
    call_command("seed_demo", **{**NUMBERS, **options}, stdout=output)
    return output.getvalue()


def rows() -> list[list[tuple[Any, ...]]]:
    return [list(model._default_manager.order_by("pk").values_list()) for model in (User, Session, Message)]


def test_the_numbers_are_kept() -> None:
    assert seed().startswith("Added 7 users, 120 sessions and 3,000 messages")
    assert [len(each) for each in rows()] == [7, 120, 3000]
    assert sum(Session.objects.values_list("message_count", flat=True)) == 3000


@pytest.mark.parametrize(
    "numbers", [(0, 0, 0), (1, 0, 0), (3, 2, 0), (1, 1, 1), (1, 1, 2500), (2, 1500, 1), (1, 2100, 5000), (1, 99, 98)]
)
def test_any_numbers(numbers: tuple[int, int, int]) -> None:
    seed(**dict(zip(NUMBERS, numbers, strict=True)))
    assert tuple(len(each) for each in rows()) == numbers


def test_the_same_numbers_and_seed_make_the_same_rows() -> None:
    def once(seed_number: int) -> list[list[tuple[Any, ...]]]:
        point = transaction.savepoint()
        seed(seed=seed_number)
        made = rows()
        transaction.savepoint_rollback(point)
        return made

    first = once(1)
    assert once(1) == first
    other = once(2)
    for table, of_another_seed in zip(first, other, strict=True):
        assert not {row[0] for row in table} & {row[0] for row in of_another_seed}


def test_rows_are_as_the_functions_that_write_them_leave_them() -> None:
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
            assert row.pk.int >> 80 == int(row.created_at.timestamp() * 1000), "its key tells its time"


def test_it_shows_every_kind_of_thing() -> None:
    seed()
    assert set(Session.objects.values_list("mode", flat=True)) == {"text", "voice", "case_workspace"}
    assert set(Message.objects.values_list("role", flat=True)) == {"user", "assistant", "tool"}
    assert set(Message.objects.values_list("contains_phi", flat=True)) == {True, False}
    messages = Message.objects
    called, found = Q(tool_calls__isnull=False), Q(tool_results__isnull=False)
    for there in (called, ~called, found, ~found, Q(tokens__gt=0), ~Q(audio_url=""), Q(client_message_id=None)):
        assert messages.filter(there).exists(), there
    for there in (Q(ended_at=None), ~Q(ended_at=None), Q(is_archived=True), Q(is_archived=False)):
        assert Session.objects.filter(there).exists(), there


def test_nobody_is_real_and_nobody_can_log_in() -> None:
    seed()
    for user in User.objects.all():
        assert user.email.endswith(".example.org")
        assert not user.has_usable_password() and not (user.is_staff or user.is_superuser)


def test_a_long_session_goes_on(admin_client: Client) -> None:
    """What the application does with a conversation, it does with one of these."""
    seed(messages=20_000)
    session = Session.objects.order_by("-message_count")[0]
    assert session.message_count > 200
    Session.objects.filter(pk=session.pk).update(ended_at=None)
    before = session.message_count
    message = conversations.append_message(session.pk, role="user", content="x")
    assert conversations.read_messages(session.pk).messages[0] == message
    session.refresh_from_db()
    assert (session.message_count, session.updated_at) == (before + 1, message.created_at)
    page = admin_client.get(f"/admin/core/session/{session.pk}/change/")
    assert f"{before + 1:,} messages" in page.content.decode()


def test_it_is_audited_and_counted_for_the_planner() -> None:
    seed()
    assert AuditEvent.objects.filter(table="sessions", action="create").count() == 120
    with connection.cursor() as cursor:
        cursor.execute("SELECT reltuples FROM pg_class WHERE relname = 'messages'")
        assert cursor.fetchone() == (3000,)


def test_twice_is_refused_and_another_seed_adds() -> None:
    seed()
    with pytest.raises(CommandError, match="there already: nothing added"), transaction.atomic():
        seed(users=9)
    assert [len(each) for each in rows()] == [7, 120, 3000]
    seed(seed=2)
    assert [len(each) for each in rows()] == [14, 240, 6000]


def test_production_wants_force(settings: Any) -> None:
    settings.PRODUCTION = True
    with pytest.raises(CommandError, match="--force"):
        seed()
    assert not User.objects.exists()
    seed(force=True)
    assert User.objects.count() == 7


def test_steps_add_up_to_the_rows() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        assert sum(write(cursor, users=7, sessions=3, messages=4500, seed=1)) == 4510


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "seed_demo", *words], cwd=ROOT, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    "words",
    [["--users=-1"], ["--users=many"], ["--messages=1e6"], ["--seed=1000000001"], ["--users=0"], ["--sessions=0"]],
)
def test_wrong_numbers_are_refused(words: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("seed_demo", *words)
    assert not User.objects.exists()


@pytest.mark.parametrize("word", ["--users=-1", "--users=0"])
def test_wrong_usage_is_told_and_exits_2(word: str) -> None:
    done = run(word)
    assert (done.returncode, done.stdout) == (2, "")
    assert "user" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def elsewhere(servers: Servers, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A migrated database of its own, that commands may commit to."""
    name = "demo_" + request.node.name.partition("[")[0][-40:]
    servers.postgres.execute(f"CREATE DATABASE {name}")
    request.addfinalizer(lambda: servers.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)"))
    monkeypatch.setenv("DATABASE_URL", servers.postgres.url.replace("/tests", f"/{name}"))
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, check=True)


def test_on_a_terminal_there_is_a_bar_and_in_a_pipe_none(elsewhere: None) -> None:
    piped = run("--messages", "20000", "--sessions", "100")
    assert piped.returncode == 0, piped.stderr
    assert piped.stderr == ""
    assert len(piped.stdout.splitlines()) == 1

    ours, theirs = pty.openpty()
    command = [sys.executable, "manage.py", "seed_demo", "--seed", "2", "--messages", "20000"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ):
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    assert "━".encode() in shown and b"%" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says it like this when the other end is closed
        return b""


def test_ctrl_c_leaves_nothing(elsewhere: None) -> None:
    command = [sys.executable, "manage.py", "seed_demo", "--messages", "5000000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for_copy()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (130, "", "")
    with psycopg.connect(os.environ["DATABASE_URL"]) as there:
        assert there.execute("SELECT count(*) FROM users").fetchone() == (0,)


def _wait_for_copy() -> None:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as there:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            query = (
                "SELECT count(*) FROM pg_stat_progress_copy WHERE relid = 'messages'::regclass AND tuples_processed > 0"
            )
            if there.execute(query).fetchone() != (0,):
                return
            time.sleep(0.02)
    raise AssertionError("it copies nothing")
