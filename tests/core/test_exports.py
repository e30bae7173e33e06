"""Exports of a user's data: what they contain, and that nothing readable is stored anywhere."""

import io
import json
import math
from collections.abc import Iterator
from typing import Any

import pyrage
import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models import QuerySet
from django.db.models.functions import Now

from core import batched_deletion, exports, personal_data, tasks
from core.audit import Origin, attributed_to, record
from core.clients.postgresql.time_limit import request_time_left
from core.jobs import execution, progress
from core.models import AuditEvent, Authenticator, Export, ExportChunk, Job, Message, RecoveryCodes, Session, User
from core.models.second_factor import encrypt, new_secret

pytestmark = pytest.mark.django_db(transaction=True)

KEY = pyrage.x25519.Identity.generate()
RECIPIENT = str(KEY.to_public())
CANARY = "canary-of-a-patient"
CONTEXT = [1, None, 'ä\\"\n']


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> User:
    """Return a user with all kinds of data, and read two rows at a time."""
    monkeypatch.setattr(personal_data, "_PAGE_SIZE", 2)
    user = User.objects.create_user("ann@example.org", "a long password", full_name="Ann Lee")
    for title in "ab":
        session = Session.objects.create(user=user, title=f"{CANARY} {title}", context={"patient": [1, None, 'ä\\"\n']})
        Message.objects.bulk_create(
            Message(session=session, role="user", content=f"{CANARY} {number}", tool_calls=[{"n": 1.5}], tokens=number)
            for number in range(5)
        )
    Authenticator.new(user, encrypt(new_secret(), user.pk)).save()
    RecoveryCodes.issue(user)
    return user


def exported(user: User) -> tuple[Any, bytes]:
    output = io.BytesIO()
    exports.write(user, RECIPIENT, output.write, lambda count: None)
    return decrypted(output.getvalue()), output.getvalue()


def decrypted(data: bytes) -> Any:
    return json.loads(pyrage.decrypt(data, [KEY]))


def test_contains_everything_but_secrets(user: User) -> None:
    data, ciphertext = exported(user)
    assert CANARY.encode() not in ciphertext and b"ann@example.org" not in ciphertext
    assert data["profile"]["email"] == "ann@example.org" and data["profile"]["full_name"] == "Ann Lee"
    assert data["format"] == "voiceassist-export"
    assert [session["title"] for session in data["sessions"]] == [f"{CANARY} a", f"{CANARY} b"]
    for session in data["sessions"]:
        assert session["context"] == {"patient": [1, None, 'ä\\"\n']}
        assert [message["content"] for message in session["messages"]] == [f"{CANARY} {n}" for n in range(5)]
        assert session["messages"][3]["tool_calls"] == [{"n": 1.5}]
    assert data["second_factor"]["name"] == "authenticator app" and data["recovery_codes"]["created_at"]
    text = json.dumps(data)
    stored = User.objects.get()
    secrets = [stored.password, Authenticator.objects.get().key, *RecoveryCodes.objects.get().digests]
    assert not [secret for secret in secrets if secret in text]


def test_exports_every_column_that_is_not_secret(user: User) -> None:
    data, _ = exported(user)
    session = data["sessions"][0]
    for model, row in ((User, data["profile"]), (Session, session), (Message, session["messages"][0])):
        columns = {field.attname for field in model._meta.concrete_fields} - set(model.SECRET)
        assert set(row) - {"messages"} == columns


def test_an_account_without_data() -> None:
    data, _ = exported(User.objects.create_user("empty@example.org"))
    assert (data["sessions"], data["second_factor"], data["groups"], data["activity"]) == ([], None, [], [])


def test_values_that_python_cannot_load_are_exported_exactly(user: User) -> None:
    deep, large = "[" * 5000 + "]" * 5000, "1" * 5000
    with connection.cursor() as cursor:
        cursor.execute("UPDATE sessions SET context = %s", [f'{{"deep": {deep}, "large": {large}}}'])
    output = io.BytesIO()
    exports.write(user, RECIPIENT, output.write, lambda count: None)
    text = pyrage.decrypt(output.getvalue(), [KEY]).decode()
    assert text.count(deep) == 2 and text.count(large) == 2


def test_audit_events_do_not_identify_others(user: User) -> None:
    staff = User.objects.create_user("staff@example.org")
    with attributed_to(Origin(staff.pk, staff.email, "192.0.2.1", "trace-of-staff")):
        User.objects.filter(pk=user.pk).update(specialty="surgery")
        message = Message.objects.filter(session__user=user)[0]
        reason = {"reason": [None, "Name of another person"]}
        record(AuditEvent.Action.REVEAL, None, user=None, target=message, changes=reason)
    with attributed_to(Origin(user.pk, user.email, "192.0.2.2", "trace-of-ann")):
        User.objects.filter(pk=staff.pk).update(full_name="Name of another person")
        User.objects.filter(pk=user.pk).update(full_name="Ann Li")
    data, _ = exported(user)
    by_others, by_ann = (
        [event for event in data["account_events"] if event["by_yourself"] is is_own] for is_own in (False, True)
    )
    assert by_others[-1]["changes"] == {"specialty": ["", "surgery"]}
    assert by_ann[-1]["changes"] == {"full_name": ["Ann Lee", "Ann Li"]}
    (disclosure,) = data["disclosures"]
    assert (disclosure["object_id"], disclosure["by_yourself"]) == (str(message.pk), False)
    (activity,) = data["activity"]
    assert (activity["object_id"], activity["address"]) == (str(staff.pk), "192.0.2.2")
    for unwanted in (staff.email, "192.0.2.1", "trace-of-staff", "Name of another person"):
        assert unwanted not in json.dumps(data)


@pytest.mark.parametrize(
    "text",
    ["", "age1", RECIPIENT[:-1], RECIPIENT + "q", "ssh-ed25519 AAAA", str(KEY)],
    ids=["empty", "prefix", "too short", "too long", "SSH", "secret key"],
)
def test_invalid_keys_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(ValidationError) as error:
        exports.parse_recipient(text)
    assert len(text) < 5 or text not in str(error.value)
    assert ("private key" in str(error.value)) is (text == str(KEY))


def enqueue(user: User) -> tuple[Export, Job]:
    export = Export.objects.create(user_id=user.pk, recipient=RECIPIENT)
    return export, Job.objects.get(pk=tasks.export_user.enqueue(str(user.pk), str(export.pk)).id)


def run(job: Job) -> Job:
    execution.run(job.pk)
    job.refresh_from_db()
    return job


def content(export: Export) -> bytes:
    return b"".join(exports.chunks_of(export))


def test_job_stores_encrypted_chunks(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "CHUNK_SIZE", 500)
    Message.objects.update(content=f"{CANARY} " * 10_000)
    export, job = enqueue(user)
    assert exports.download(job) is None
    assert (run(job).status, job.done, job.total) == ("succeeded", 10, 10)
    export.refresh_from_db()
    assert export.chunks.count() > 5
    assert export.size == len(content(export))
    assert CANARY.encode() not in content(export)
    assert len(decrypted(content(export))["sessions"]) == 2
    assert exports.download(job) == export


def test_each_query_of_a_download_has_a_time_limit(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sends the file after the middleware that limits requests has returned."""
    monkeypatch.setattr(exports, "CHUNK_SIZE", 500)
    export, job = enqueue(user)
    run(job)
    limits = []

    def record_limit(execute: Any, *args: Any) -> Any:
        limits.append(request_time_left())
        return execute(*args)

    with connection.execute_wrapper(record_limit):
        chunks = list(exports.chunks_of(export))
    assert limits == [settings.DATABASE_TIMEOUT] * (1 + len(chunks))
    assert request_time_left() == math.inf


def test_job_starts_again_after_an_interruption(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "CHUNK_SIZE", 500)
    Message.objects.update(content=f"{CANARY} " * 10_000)
    export, job = enqueue(user)
    original: Any = ExportChunk.objects.create

    def stop_after_the_third(**values: Any) -> ExportChunk:
        if values["number"] == 2:
            progress.is_stopping.set()
        chunk: ExportChunk = original(**values)
        return chunk

    monkeypatch.setattr(ExportChunk.objects, "create", stop_after_the_third)
    try:
        assert (run(job).status, job.error) == ("queued", "")
    finally:
        progress.is_stopping.clear()
    assert export.chunks.count() == 3 and exports.download(job) is None
    monkeypatch.undo()
    assert run(job).status == "succeeded"
    export.refresh_from_db()
    assert export.size == len(content(export)) and len(decrypted(content(export))["sessions"]) == 2


def test_job_that_always_fails_in_the_middle_ends(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "CHUNK_SIZE", 500)
    Message.objects.update(content=f"{CANARY} " * 10_000)
    _, job = enqueue(user)
    original: Any = ExportChunk.objects.create

    def fail_at_the_third(**values: Any) -> ExportChunk:
        if values["number"] == 2:
            raise ValueError
        chunk: ExportChunk = original(**values)
        return chunk

    monkeypatch.setattr(ExportChunk.objects, "create", fail_at_the_third)
    for _ in range(execution.MAX_ATTEMPTS):
        Job.objects.update(run_after=Now())
        assert run(job).status in ("queued", "failed")
    Job.objects.update(run_after=Now())
    assert run(job).status == "failed"


def test_clearing_deletes_one_export_per_transaction(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export may have gigabytes, and each statement has to stay within DATABASE_TIMEOUT."""
    for _ in range(3):
        enqueue(user)
    Export.objects.update(created_at="2026-01-01T00:00Z")
    original, deleted = QuerySet.delete, []

    def count(rows: Any) -> Any:
        result = original(rows)
        deleted.append(result[1].get("core.Export", 0))
        return result

    monkeypatch.setattr(QuerySet, "delete", count)
    tasks.clear_exports.call()
    assert deleted == [1, 1, 1, 0]


def test_errors_are_not_hidden_by_pyrage(user: User) -> None:
    def fail(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        exports.write(user, RECIPIENT, fail, lambda count: None)

    def parts() -> Iterator[personal_data.Part]:
        yield "{", 0
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(personal_data, "document", lambda user: parts())
        exports.write(user, RECIPIENT, lambda data: None, lambda count: None)


def test_outlives_the_user_and_is_removed_after_seven_days(user: User) -> None:
    export, job = enqueue(user)
    run(job)
    list(batched_deletion.delete_user(user.pk))
    assert exports.download(job) == export
    tasks.clear_exports.call()
    assert Export.objects.exists()
    Export.objects.update(created_at="2026-01-01T00:00Z")
    assert exports.download(job) is None
    tasks.clear_exports.call()
    assert not Export.objects.exists() and not ExportChunk.objects.exists()
    assert AuditEvent.objects.filter(table="exports", action="delete", object_id=str(export.pk)).exists()


def test_nothing_to_do(user: User) -> None:
    export, job = enqueue(user)
    export.delete()
    assert run(job).status == "succeeded"


def delete_messages(user: User) -> None:
    Message.objects.all()[0].delete()


def test_job_fails_if_the_user_is_deleted_before(user: User) -> None:
    _, job = enqueue(user)
    user.delete()
    assert (run(job).status, job.error) == ("queued", "Incomplete")


@pytest.mark.parametrize("delete", [User.delete, delete_messages])
def test_job_fails_if_data_are_deleted_meanwhile(user: User, monkeypatch: pytest.MonkeyPatch, delete: Any) -> None:
    """Otherwise somebody would receive an export that lacks something, and nobody would know."""
    _, job = enqueue(user)
    original = personal_data.document

    def delete_first(user: User) -> Iterator[personal_data.Part]:
        delete(User.objects.get(pk=user.pk))
        return original(user)

    monkeypatch.setattr(personal_data, "document", delete_first)
    assert (run(job).status, job.error) == ("queued", "Incomplete")
    assert exports.download(job) is None
