"""The pages of the steps that may follow the password, and what they accept."""

from base64 import b32encode
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from core.models import Authenticator, User
from core.models.second_factor import encrypt, new_secret
from tests.support.second_factor import CONTINUE, RECOVERY_CODE, SECRET, code_of

pytestmark = pytest.mark.django_db

PASSWORD, NEW_PASSWORD = "correct horse battery", "another passphrase"
FORM = {"username": "ann@example.org", "password": PASSWORD, "next": "/admin/core/user/"}


@pytest.fixture
def user() -> User:
    return User.objects.create_superuser("ann@example.org", PASSWORD)


def page(client: Client) -> str:
    response = client.get(CONTINUE)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    return str(response.content.decode())


def answer(client: Client, step: str, **values: Any) -> Any:
    return client.post(CONTINUE, {"step": step, **values})


def test_new_password(client: Client, user: User) -> None:
    User.objects.update(must_change_password=True)
    assert client.post("/admin/login/", FORM)["Location"] == CONTINUE
    assert "<h1>Choose a new password</h1>" in page(client)
    for step in ("code", "enrol", ""):  # the form of another step
        assert answer(client, step, new_password1=NEW_PASSWORD, new_password2=NEW_PASSWORD)["Location"] == CONTINUE
    refused = answer(client, "password", new_password1=NEW_PASSWORD, new_password2="typo")
    assert "<h1>Choose a new password</h1>" in refused.content.decode()
    assert "errorlist" in refused.content.decode()
    assert client.get("/admin/").status_code == 302
    assert (
        answer(client, "password", new_password1=NEW_PASSWORD, new_password2=NEW_PASSWORD)["Location"]
        == "/admin/core/user/"
    )
    user.refresh_from_db()
    assert user.check_password(NEW_PASSWORD) and not user.must_change_password
    assert client.get("/admin/").status_code == 200
    assert client.get(CONTINUE)["Location"].startswith("/admin/login/")


def test_code_and_enrolment(client: Client, user: User, settings: Settings) -> None:
    settings.ADMIN_MFA = "required"
    client.post("/admin/login/", FORM)
    text = page(client)
    assert "<h1>Set up a second factor</h1>" in text
    assert "<svg" in text or "<img" in text  # the QR code
    refused = answer(client, "enrol", code="000000").content.decode()
    assert "<h1>Set up a second factor</h1>" in refused and "errorlist" in refused
    assert not Authenticator.objects.exists()
    (secret,) = SECRET.findall(page(client))
    assert "new_second_factor" in client.session
    done = answer(client, "enrol", code=code_of(secret)).content.decode()
    assert "<h1>Recovery codes</h1>" in done and len(RECOVERY_CODE.findall(done)) >= 8
    assert "new_second_factor" not in client.session
    assert Authenticator.objects.get().user == user
    assert answer(client, "")["Location"] == "/admin/core/user/"
    assert client.get("/admin/").status_code == 200


def test_code(client: Client, user: User) -> None:
    secret = new_secret()
    Authenticator.new(user, encrypt(secret, user.pk)).save()
    client.post("/admin/login/", FORM)
    assert "<h1>Second factor</h1>" in page(client)
    refused = answer(client, "code", code="no code").content.decode()
    assert "<h1>Second factor</h1>" in refused and "errorlist" in refused
    assert client.get("/admin/").status_code == 302
    assert answer(client, "code", code=code_of(b32encode(secret).decode()))["Location"] == "/admin/core/user/"
    assert client.get("/admin/").status_code == 200


def test_nobody_continues_what_was_not_begun(client: Client, user: User) -> None:
    for response in (
        client.get(CONTINUE),
        answer(client, "code", code="1"),
        answer(client, "password", new_password1="x"),
    ):
        assert response["Location"] == "/admin/login/?next=/admin/"
