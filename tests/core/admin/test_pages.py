"""The admin's pages, the links between them, and access to them. Every page masks PHI."""

import re
from collections.abc import Callable

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from core.models import AuditEvent, Message, Session, User
from tests.core.admin.conftest import CANARY

pytestmark = pytest.mark.django_db


def test_every_page_opens_and_masks_phi(admin_client: Client, pages: dict[str, str], message: Message) -> None:
    more = [
        f"/admin/core/user/{message.session.user_id}/delete/",
        f"/admin/core/session/{message.session_id}/delete/",
        "/admin/core/auditevent/",
        f"/admin/core/message/{message.pk}/delete/",
        "/admin/core/user/add/",
        "/admin/",
    ]
    for page in [*pages.values(), *more]:
        response = admin_client.get(page)
        assert response.status_code == 200, page
        assert CANARY not in response.content.decode(), page


@pytest.mark.parametrize(("shorter", "longer"), [("no", "yes"), ("HIV", "asthma")])
def test_masks_do_not_distinguish_short_answers(
    admin_client: Client, pages: dict[str, str], message: Message, shorter: str, longer: str
) -> None:
    def masks_of(answer: str) -> list[str]:
        Message.objects.update(content=answer, tool_results={"diagnosis": answer}, metadata=[answer])
        Session.objects.update(title=answer, context={"diagnosis": answer})
        text = "".join(admin_client.get(pages[page]).content.decode() for page in ("message", "session"))
        return re.findall(r"●+ \(\w+\)", text)

    assert masks_of(shorter) == masks_of(longer) == ["●●●●●● (short)"] * 7


def test_pages_link_users_sessions_and_messages(admin_client: Client, pages: dict[str, str]) -> None:
    def assert_links(page: str, target: str) -> None:
        text = admin_client.get(page).content.decode()
        assert f'href="{target}"' in text, (page, target)
        assert admin_client.get(target).status_code == 200

    user_id, session_id = pages["user"].split("/")[-3], pages["session"].split("/")[-3]
    sessions = f"/admin/core/session/?user__id__exact={user_id}"
    messages = f"/admin/core/message/?session__id__exact={session_id}"
    assert_links(pages["users"], sessions)
    assert_links(pages["user"], sessions)
    assert_links(sessions, pages["user"])
    assert_links(sessions, messages)
    assert_links(pages["session"], messages)
    assert_links(pages["session"], pages["user"])
    assert_links(messages, pages["session"])
    assert_links(pages["message"], pages["session"])


def test_page_of_a_session_counts_and_lists_its_messages_in_words(admin_client: Client, message: Message) -> None:
    Session.objects.update(message_count=1)
    text = admin_client.get(f"/admin/core/session/{message.session_id}/change/").content.decode()
    assert ">1 message</a>" in text
    assert '<table class="cards"><thead><tr><th scope="col">Sent</th><th scope="col">PHI flag</th>' in text
    assert "<td>User</td>" in text


def test_pages_link_only_what_the_reader_may_open(staff_client: Callable[..., Client], message: Message) -> None:
    text = staff_client("view_session").get(f"/admin/core/session/{message.session_id}/change/").content.decode()
    assert "ann@example.org" in text and "0 messages" in text
    assert not re.findall(r'href="/admin/core/(?:user|message|auditevent)/', text)


def test_history_is_the_audit_trail(admin_client: Client, message: Message) -> None:
    for row in (message, message.session, message.session.user):
        response = admin_client.get(f"/admin/core/{row._meta.model_name}/{row.pk}/history/")
        assert response["Location"] == f"/admin/core/auditevent/?object_id__exact={row.pk}"


def test_nothing_can_be_saved_as_new(admin_client: Client, message: Message) -> None:
    form = {"email": "another@example.org", "_saveasnew": "1"}
    assert admin_client.post(f"/admin/core/user/{message.session.user_id}/change/", form).status_code == 400
    assert sorted(User.objects.values_list("email", flat=True)) == ["admin@example.com", "ann@example.org"]


@pytest.mark.parametrize("key", ["typed-text", "0198c000-0000-7000-8000-000000000000"])
def test_missing_object_is_reported_without_quoting_the_url(admin_client: Client, key: str) -> None:
    """Fails if Django renames `_get_obj_does_not_exist_redirect`, because its own message quotes the id."""
    for page in (f"/admin/core/message/{key}/change/", f"/admin/core/message/{key}/delete/"):
        text = admin_client.get(page, follow=True).content.decode()
        assert "This message does not exist. It may have been deleted." in text
        assert key not in text


def test_logs_in_by_email_in_any_case(client: Client) -> None:
    User.objects.create_superuser("Root@Example.org", "a long password")
    form = {"username": "ROOT@example.ORG", "password": "a long password", "next": "/admin/"}
    assert client.post("/admin/login/", form)["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_requires_staff(client: Client, pages: dict[str, str]) -> None:
    client.force_login(User.objects.get(email="ann@example.org"))
    for page in pages.values():
        assert client.get(page)["Location"].startswith("/admin/login/")


def test_autocomplete_is_disabled(admin_client: Client) -> None:
    query = {"app_label": "core", "model_name": "message", "field_name": "session", "term": ""}
    assert admin_client.get("/admin/autocomplete/", query).status_code == 404


def test_only_the_audit_trail_records_changes(admin_client: Client, message: Message) -> None:
    """Django's admin log could be changed, and would be a second record."""
    user = message.session.user
    admin_client.post(f"/admin/core/user/{user.pk}/change/", {"email": "ann@example.org", "full_name": "N"})
    admin_client.post("/admin/auth/group/add/", {"name": "reviewers"})
    admin_client.post(f"/admin/core/user/{user.pk}/delete/", {"post": "yes"})
    assert AuditEvent.objects.filter(actor_id__isnull=False, action="delete").exists()
    assert not LogEntry.objects.exists()
