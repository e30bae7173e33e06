"""`manage.py delete_user` and `manage.py export_user`."""

import io
import json
import stat
from pathlib import Path
from typing import Any

import pyrage
import pytest
from django.core.management import CommandError, call_command

from core import batched_deletion, deletion, personal_data
from core.models import AuditEvent, Message, Session, User

pytestmark = pytest.mark.django_db(transaction=True)

EMAIL, CANARY = "ann@example.org", "canary-of-a-patient"
KEY = pyrage.x25519.Identity.generate()
RECIPIENT = str(KEY.to_public())


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> User:
    monkeypatch.setattr(batched_deletion, "MAX_MESSAGES", 2)
    user = User.objects.create_user(EMAIL)
    session = Session.objects.create(user=user, title=CANARY)
    Message.objects.bulk_create(Message(session=session, role="user", content=CANARY) for _ in range(5))
    return user


def run(*arguments: Any, answer: str = "", **options: Any) -> str:
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(answer))
        call_command(*arguments, stdout=output, stderr=output, **options)
    return output.getvalue()


@pytest.mark.parametrize("answer", [f"{EMAIL}\n", "Ann@Example.org\n"])
def test_deletes_after_the_email_is_repeated(user: User, answer: str) -> None:
    output = run("delete_user", "ANN@example.org", "--reason", "asked by letter", answer=answer)
    assert "1 sessions and 5 messages" in output
    assert not User.objects.exists() and not Message.objects.exists()
    (trace_id,) = set(AuditEvent.objects.filter(action="delete").values_list("trace_id", flat=True))
    assert trace_id and trace_id in output
    started = AuditEvent.objects.get(action="deletion_started")
    assert (started.trace_id, started.changes["reason"]) == (trace_id, [None, "asked by letter"])


@pytest.mark.parametrize("answer", ["", "\n", "yes\n", "bob@example.org\n"])
def test_deletes_nothing_without_it(user: User, answer: str) -> None:
    with pytest.raises(CommandError, match="Nothing was deleted"):
        run("delete_user", EMAIL, answer=answer)
    user.refresh_from_db()
    assert user.is_active and Message.objects.count() == 5


def test_continues_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = deletion.delete_batch, []

    def interrupt_at_the_third_call(*args: Any) -> tuple[int, int]:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(deletion, "delete_batch", interrupt_at_the_third_call)
    with pytest.raises(SystemExit):
        run("delete_user", EMAIL, "--yes")
    assert Message.objects.count() == 1
    run("delete_user", EMAIL, "--yes")
    assert not User.objects.exists()
    assert AuditEvent.objects.filter(action="delete", table="messages").count() == 5


def test_wrong_arguments(tmp_path: Path) -> None:
    target = tmp_path / "export"
    for arguments, message in (
        (("delete_user", "nobody@example.org"), "No user has this email"),
        (("delete_user", EMAIL, "--reason", "x" * 501), "at most 500 characters"),
        (("export_user", "nobody@example.org", "--recipient", RECIPIENT, "--output", target), "No user has this email"),
        (("export_user", EMAIL, "--recipient", "age1x", "--output", target), "Invalid key"),
        (("export_user", EMAIL, "--recipient", RECIPIENT, "--output", tmp_path), "exists. Choose another file."),
        (("export_user", EMAIL, "--recipient", RECIPIENT, "--output", tmp_path / "no" / "x"), "No such file"),
    ):
        with pytest.raises(CommandError, match=message):
            run(*map(str, arguments))
    assert not AuditEvent.objects.filter(action="export").exists()
    assert not list(tmp_path.iterdir()) and Message.objects.count() == 5


def test_exports_an_encrypted_file(user: User, tmp_path: Path) -> None:
    target = tmp_path / "export.age"
    output = run("export_user", EMAIL, "--recipient", RECIPIENT, "--output", str(target))
    assert "5 messages" in output and "encrypted" in output
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["export.age"]
    assert CANARY.encode() not in target.read_bytes()
    data = json.loads(pyrage.decrypt(target.read_bytes(), [KEY]))
    assert [message["content"] for message in data["sessions"][0]["messages"]] == [CANARY] * 5
    event = AuditEvent.objects.get(action="export")
    assert event.object_id == str(user.pk)
    assert event.changes == {"recipient": [None, RECIPIENT], "subject": [None, str(user.pk)]}


def test_a_failed_export_is_recorded_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = []

    def fail(user: User) -> Any:
        recorded.append(AuditEvent.objects.filter(action="export").count())
        yield f'{{"{CANARY}', 0
        raise KeyboardInterrupt

    monkeypatch.setattr(personal_data, "document", fail)
    with pytest.raises(SystemExit):
        run("export_user", EMAIL, "--recipient", RECIPIENT, "--output", str(tmp_path / "export.age"))
    assert recorded == [1] and not list(tmp_path.iterdir())


def test_an_export_of_data_that_are_deleted_meanwhile_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = personal_data.document

    def delete_first(user: User) -> Any:
        Message.objects.all()[0].delete()
        return original(user)

    monkeypatch.setattr(personal_data, "document", delete_first)
    with pytest.raises(CommandError, match="were deleted meanwhile"):
        run("export_user", EMAIL, "--recipient", RECIPIENT, "--output", str(tmp_path / "export.age"))
    assert not list(tmp_path.iterdir())
