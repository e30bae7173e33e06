"""The admin as staff use it: find, look, go on. PHI is on no page."""

import pytest
from django.test import Client

from core.models import Message, Session, User

pytestmark = pytest.mark.django_db

CANARY = "canary-of-a-patient"
PHI = {
    "content": CANARY,
    "audio_url": f"https://audio/{CANARY}",
    "tool_calls": [{"name": CANARY}],
    "tool_results": {"result": CANARY},
    "metadata": {"device": CANARY},
}


@pytest.fixture
def message() -> Message:
    user = User.objects.create_user("ann@example.org", full_name="Ann Lee", specialty="cardiology")
    session = Session.objects.create(user=user, title=CANARY, context={"patient": CANARY})
    return Message.objects.create(session=session, role="user", client_message_id="client-1", **PHI)


@pytest.fixture
def pages(message: Message) -> dict[str, str]:
    session, user = message.session, message.session.user
    return {
        "users": "/admin/core/user/",
        "user": f"/admin/core/user/{user.pk}/change/",
        "sessions": "/admin/core/session/",
        "session": f"/admin/core/session/{session.pk}/change/",
        "messages": "/admin/core/message/",
        "message": f"/admin/core/message/{message.pk}/change/",
    }


def test_every_page_opens_and_none_shows_phi(admin_client: Client, pages: dict[str, str], message: Message) -> None:
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


def test_masks_tell_how_much_there_is(admin_client: Client, pages: dict[str, str]) -> None:
    assert f"({len(CANARY)} characters)" in admin_client.get(pages["message"]).content.decode()
    assert f"({len(CANARY)} characters)" in admin_client.get(pages["session"]).content.decode()


def test_links_lead_from_user_to_sessions_to_messages_and_back(admin_client: Client, pages: dict[str, str]) -> None:
    def links(page: str, target: str) -> None:
        text = admin_client.get(page).content.decode()
        assert f'href="{target}"' in text, (page, target)
        assert admin_client.get(target).status_code == 200

    user_id, session_id = pages["user"].split("/")[-3], pages["session"].split("/")[-3]
    sessions = f"/admin/core/session/?user__id__exact={user_id}"
    messages = f"/admin/core/message/?session__id__exact={session_id}"
    links(pages["users"], sessions)
    links(pages["user"], sessions)
    links(sessions, pages["user"])
    links(sessions, messages)
    links(pages["session"], messages)
    links(pages["session"], pages["user"])
    links(messages, pages["session"])
    links(pages["message"], pages["session"])


@pytest.mark.parametrize(
    ("page", "term", "found"),
    [
        ("users", "ANN@example", 1),
        ("users", "ann l", 1),
        ("users", "nobody", 0),
        ("sessions", "ANN@example.org", 1),
        ("sessions", "{session}", 1),
        ("sessions", "{user}", 1),
        ("sessions", CANARY, 0),
        ("messages", "{message}", 1),
        ("messages", " {session} ", 1),
        ("messages", "client-1", 1),
        ("messages", CANARY, 0),
        ("messages", "not-a-uuid", 0),
    ],
)
def test_search(
    admin_client: Client, pages: dict[str, str], message: Message, page: str, term: str, found: int
) -> None:
    term = term.format(message=message.pk, session=message.session_id, user=message.session.user_id)
    response = admin_client.get(pages[page], {"q": term})
    assert response.context["cl"].result_count == found


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("users", "is_staff__exact=1"),
        ("sessions", "mode__exact=voice"),
        ("sessions", "is_archived__exact=0"),
        ("messages", "role__exact=tool"),
        ("messages", "contains_phi__exact=1"),
        ("messages", "created_at__gte=2020-01-01T00%3A00%3A00Z"),
    ],
)
def test_filters(admin_client: Client, pages: dict[str, str], page: str, query: str) -> None:
    assert admin_client.get(f"{pages[page]}?{query}").status_code == 200


def test_sessions_and_messages_are_written_by_the_application_alone(
    admin_client: Client, pages: dict[str, str], message: Message
) -> None:
    assert admin_client.get("/admin/core/message/add/").status_code == 403
    assert admin_client.get("/admin/core/session/add/").status_code == 403
    assert admin_client.post(pages["message"], {"role": "tool"}).status_code == 403
    message.refresh_from_db()
    assert message.role == "user"


def test_a_user_is_made_and_changed(admin_client: Client) -> None:
    form = {
        "email": "New@Example.org",
        "usable_password": "true",
        "password1": "hunter 2 hunter",
        "password2": "hunter 2 hunter",
    }
    response = admin_client.post("/admin/core/user/add/", form)
    assert response.status_code == 302, response.context["errors"]
    user = User.objects.get(email="new@example.org")
    assert user.check_password("hunter 2 hunter")
    response = admin_client.post(f"/admin/core/user/{user.pk}/change/", {"email": "new@example.org", "full_name": "N"})
    assert response.status_code == 302
    user.refresh_from_db()
    assert (user.full_name, user.is_active) == ("N", False)
    again = admin_client.post("/admin/core/user/add/", {**form, "email": "NEW@example.org"})
    assert "A user with this email exists." in again.content.decode()


def test_login_by_email(client: Client) -> None:
    User.objects.create_superuser("Root@Example.org", "a long password")
    form = {"username": "ROOT@example.ORG", "password": "a long password", "next": "/admin/"}
    assert client.post("/admin/login/", form)["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_nobody_gets_in_without_being_staff(client: Client, pages: dict[str, str]) -> None:
    client.force_login(User.objects.get(email="ann@example.org"))
    for page in pages.values():
        assert client.get(page)["Location"].startswith("/admin/login/")
