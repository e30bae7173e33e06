"""Staff read names. Logs, URLs and Redis don't contain them."""

from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.http import HttpRequest
from django.test import Client

from core.auth.message_storage import EncryptedSessionStorage
from core.models import Message

pytestmark = pytest.mark.django_db


def names_of(message: Message) -> dict[str, str]:
    started, sent = message.session.created_at, message.created_at
    return {
        "user": "ann@example.org",
        "session": f"ann@example.org, {started:%Y-%m-%d %H:%M} UTC",
        "message": f"ann@example.org, {sent:%Y-%m-%d %H:%M:%S} UTC",
    }


@pytest.mark.parametrize("kind", ["user", "session", "message"])
def test_pages_name_their_row(admin_client: Client, pages: dict[str, str], message: Message, kind: str) -> None:
    name = names_of(message)[kind]
    page = admin_client.get(pages[kind]).content.decode()
    title, heading = page.split("<title>")[1].split("</title>")[0], page.split("<h2>")[1].split("</h2>")[0]
    assert name in title and heading == name
    question = admin_client.get(pages[kind].replace("/change/", "/delete/")).content.decode()
    assert f'Are you sure you want to delete the {kind} "{name}"?' in question
    assert f"<title>{name} | Delete {kind} | VoiceAssist</title>" in " ".join(question.split())
    for text in (page, question):
        assert f"{kind} {pages[kind].split('/')[-3]}" not in text  # as `str()` of the row is


@pytest.mark.parametrize("kind", ["user", "session", "message"])
def test_success_messages_name_the_row(
    admin_client: Client, pages: dict[str, str], message: Message, kind: str
) -> None:
    page = pages[kind].replace("/change/", "/delete/")
    text = admin_client.post(page, {"post": "yes"}, follow=True).content.decode()
    assert f"The {kind} “{names_of(message)[kind]}” was deleted successfully." in text


def test_success_messages_of_a_changed_user(admin_client: Client, pages: dict[str, str]) -> None:
    response = admin_client.post(pages["user"], {"email": "ann@example.org", "full_name": "Ann"}, follow=True)
    assert 'change/">ann@example.org</a>” was changed successfully.' in response.content.decode()
    text = admin_client.get(pages["user"].replace("/change/", "/password/")).content.decode()
    assert "ann@example.org</a>" in text.split("breadcrumbs")[1].split("</div>")[0]


def test_group_is_named_by_its_name(admin_client: Client) -> None:
    group = Group.objects.create(name="Reviewers")
    text = admin_client.get(f"/admin/auth/group/{group.pk}/delete/").content.decode()
    assert 'delete the group "Reviewers"?' in text


def test_messages_are_stored_encrypted(admin_client: Client, pages: dict[str, str]) -> None:
    admin_client.post(pages["user"], {"email": "ann@example.org", "full_name": "Ann"})
    stored = str(dict(admin_client.session))
    assert "encrypted_messages" in stored
    assert "ann@" not in stored and "changed" not in stored


def test_messages_can_be_read_after_a_new_secret_key(
    admin_client: Client, pages: dict[str, str], settings: Any
) -> None:
    def stored_messages() -> list[str]:
        request = HttpRequest()
        request.session = admin_client.session
        return [str(message) for message in EncryptedSessionStorage(request)]

    admin_client.post(pages["user"], {"email": "ann@example.org", "full_name": "Ann"})
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "new"
    assert "was changed successfully" in stored_messages()[0]
    settings.SECRET_KEY_FALLBACKS = []
    assert stored_messages() == []
