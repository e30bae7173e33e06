"""Asking for an export of a user's data in the admin, and downloading it."""

import json
import time
from collections.abc import Callable

import pyrage
import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from core.auth.second_factor import VERIFIED_AT_KEY
from core.jobs import execution, queue
from core.models import AuditEvent, Authenticator, Export, Job, Message, User
from core.models.exports import MAX_EXPORT_AGE
from core.models.second_factor import encrypt, new_secret
from tests.core.admin.conftest import CANARY

pytestmark = pytest.mark.django_db
runs_jobs = pytest.mark.django_db(transaction=True)  # a job closes its connection

KEY = pyrage.x25519.Identity.generate()
RECIPIENT = str(KEY.to_public())
PERMISSIONS = ("view_user", "view_phi", "export_user", "view_job")


def export_page(message: Message) -> str:
    return f"/admin/core/user/{message.session.user_id}/export/"


@runs_jobs
def test_exports_and_downloads(message: Message, staff_client: Callable[..., Client]) -> None:
    redis = queue.broker().client
    keys_before = set(redis.scan_iter())  # other tests use the same canary
    client = staff_client(*PERMISSIONS)
    user = message.session.user
    user_page = f"/admin/core/user/{user.pk}/change/"
    assert export_page(message) in client.get(user_page).content.decode()
    response = client.post(export_page(message), {"recipient": f" {RECIPIENT}\n", "reason": "asked by letter"})
    assert response["Location"] == user_page
    event = AuditEvent.objects.get(action="export")
    assert (event.object_id, event.actor_email) == (str(user.pk), "staff@example.org")
    assert event.changes == {"recipient": [None, RECIPIENT], "subject": [None, str(user.pk)]}
    job, export = Job.objects.get(), Export.objects.get()
    assert job.arguments == {"user_id": str(user.pk), "export_id": str(export.pk)}
    assert (job.reason, job.actor_email) == ("asked by letter", "staff@example.org")
    download = f"/admin/core/job/{job.pk}/download/"
    assert download not in client.get(user_page).content.decode()
    assert client.post(download).status_code == 404
    execution.run(job.pk)
    assert download in client.get(user_page).content.decode()
    assert client.get(download)["Location"] == f"/admin/core/job/{job.pk}/change/"
    assert not AuditEvent.objects.filter(action="export_downloaded").exists()
    response = client.post(download)
    assert AuditEvent.objects.get(action="export_downloaded").object_id == str(user.pk)
    content = response.getvalue()
    assert int(response["Content-Length"]) == len(content) and "attachment" in response["Content-Disposition"]
    assert CANARY.encode() not in content
    data = json.loads(pyrage.decrypt(content, [KEY]))
    assert data["sessions"][0]["messages"][0]["content"] == CANARY
    new_keys = set(redis.scan_iter()) - keys_before
    assert not [key for key in new_keys if CANARY.encode() in key + (redis.dump(key) or b"")]


@pytest.mark.parametrize("missing", ["view_phi", "export_user"])
def test_needs_both_permissions(message: Message, staff_client: Callable[..., Client], missing: str) -> None:
    client = staff_client(*(name for name in PERMISSIONS if name != missing))
    assert (
        export_page(message) not in client.get(f"/admin/core/user/{message.session.user_id}/change/").content.decode()
    )
    assert client.get(export_page(message)).status_code == 403
    assert client.post(export_page(message), {"recipient": RECIPIENT}).status_code == 403
    assert not Export.objects.exists()


@runs_jobs
def test_download_needs_the_permission_and_ends_after_seven_days(
    message: Message, staff_client: Callable[..., Client], admin_client: Client
) -> None:
    admin_client.post(export_page(message), {"recipient": RECIPIENT})
    job = Job.objects.get()
    execution.run(job.pk)
    download = f"/admin/core/job/{job.pk}/download/"
    client = staff_client("view_user", "view_phi", "view_job")
    assert download not in client.get(f"/admin/core/job/{job.pk}/change/").content.decode()
    assert client.post(download).status_code == 403
    Export.objects.update(created_at=timezone.now() - MAX_EXPORT_AGE)
    assert download not in admin_client.get(f"/admin/core/job/{job.pk}/change/").content.decode()
    assert admin_client.post(download).status_code == 404
    assert not AuditEvent.objects.filter(action="export_downloaded").exists()


def test_asks_for_a_code_if_the_last_one_is_old(message: Message, staff_client: Callable[..., Client]) -> None:
    client = staff_client(*PERMISSIONS)
    user = User.objects.get(email="staff@example.org")
    Authenticator.new(user, encrypt(new_secret(), user.pk)).save()
    response = client.post(export_page(message), {"recipient": RECIPIENT})
    assert response["Location"].startswith("/admin/second-factor/verify/")
    assert not Export.objects.exists()
    session = client.session
    session[VERIFIED_AT_KEY] = int(time.time())
    session.save()
    client.post(export_page(message), {"recipient": RECIPIENT})
    assert Export.objects.count() == 1


@pytest.mark.parametrize("text", ["", "age1x", pytest.param(str(KEY), id="secret key"), "a\0b"])
def test_invalid_key_is_not_shown_again(message: Message, admin_client: Client, text: str) -> None:
    response = admin_client.post(export_page(message), {"recipient": text})
    assert response.status_code == 200 and "errorlist" in response.content.decode()
    assert not text or text not in response.content.decode().replace("age1…", "")
    assert not Export.objects.exists() and not Job.objects.exists()


def test_missing_user(admin_client: Client) -> None:
    for key in ("x", "0198c000-0000-7000-8000-000000000000"):
        assert admin_client.get(f"/admin/core/user/{key}/export/").status_code == 404


def test_cancelling_takes_the_permission_to_export(message: Message, staff_client: Callable[..., Client]) -> None:
    client = staff_client("view_user", "delete_user", "view_phi", "view_job")
    root = Client()
    root.force_login(User.objects.create_superuser("root@example.org"))
    root.post(export_page(message), {"recipient": RECIPIENT})
    cancel = f"/admin/core/job/{Job.objects.get().pk}/cancel/"
    assert client.post(cancel).status_code == 403
    assert root.post(cancel).status_code == 302
    assert Job.objects.get().status == "cancelled"


@pytest.mark.parametrize("is_large", [False, True])
def test_user_is_not_deleted_before_the_export_is_finished(
    message: Message, admin_client: Client, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    monkeypatch.setattr("core.deletion.MAX_ROWS_OF_REQUEST", 0 if is_large else 10)
    user = message.session.user
    admin_client.post(export_page(message), {"recipient": RECIPIENT})
    selected = {"action": "delete_selected", "_selected_action": str(user.pk)}
    for page, form in ((f"/admin/core/user/{user.pk}/delete/", {}), ("/admin/core/user/", selected)):
        response = admin_client.post(page, {"post": "yes", **form})
        assert response.status_code == 200 and "which is not finished" in response.content.decode()
        assert User.objects.filter(pk=user.pk).exists() and Job.objects.count() == 1
    with pytest.raises(CommandError, match="An export of the user is not finished"):
        call_command("delete_user", user.email, yes=True)
    Job.objects.update(status="succeeded")
    admin_client.post(f"/admin/core/user/{user.pk}/delete/", {"post": "yes"})
    assert Job.objects.filter(task="core.tasks.delete_user").exists() is is_large
    assert User.objects.filter(pk=user.pk).exists() is is_large
