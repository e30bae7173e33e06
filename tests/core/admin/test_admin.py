"""The admin as staff use it: find, look, go on. PHI is on no page."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from core.conversations import append_message
from core.deletion import delete_user
from core.models import AuditEvent, Message, Session, User

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


# What an address can be made to do


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("messages", f"content__icontains={CANARY}"),
        ("messages", "content__startswith=c"),
        ("messages", "metadata__device=x"),
        ("messages", "session__title__startswith=c"),
        ("messages", "session__user__email=ann@example.org"),
        ("messages", "tokens__gt=5"),
        ("messages", "role__gte=a"),
        ("messages", "role__exact=%00"),
        ("messages", "_to_field=content"),
        ("sessions", "title__startswith=c"),
        ("sessions", "context__patient__startswith=c"),
        ("sessions", "user__password__startswith=argon2"),
        ("users", "password__startswith=argon2"),
        ("users", "groups__permissions__codename=view_phi"),
    ],
)
def test_no_address_filters_by_what_is_masked_or_has_no_index(
    admin_client: Client, pages: dict[str, str], page: str, query: str
) -> None:
    """Filtering by a masked column, letter by letter, would read it without a record."""
    with CaptureQueriesContext(connection) as queries:
        assert admin_client.get(f"{pages[page]}?{query}").status_code == 400
    assert not [query for query in queries.captured_queries if f'"{page}"."created_at" DESC' in query["sql"]]


@pytest.mark.parametrize(
    "query",
    [
        "created_at__year=9999",
        "created_at__year=9999&created_at__month=12",
        "created_at__year=0",
        "created_at__year=x",
        "created_at__month=3",
        "created_at__year=2026&created_at__year=2025",
        "created_at__gte=x",
        "created_at__gte=0001-01-01T00:00:00%2B14:00",
        "role__exact=user&role__exact=tool",
        "session__id__exact=x",
        "session__id__exact=0198c000-0000-7000-8000-000000000000&q=0198c000-0000-7000-8000-000000000000",
        "older_than=x",
        "newer_than=AAAA",
        "older_than=%F0%9F%98%80",
    ],
)
def test_an_address_that_means_nothing_is_told_so(admin_client: Client, pages: dict[str, str], query: str) -> None:
    response = admin_client.get(f"{pages['messages']}?{query}", follow=True)
    assert response.redirect_chain == [(f"{pages['messages']}?e=1", 302)]
    assert "This is the whole list." in response.content.decode()


@pytest.mark.parametrize(
    "query", ["o=3", "o=-1.2", "all=", "p=99999", "p=x", "_facets=1", "_popup=1", "created_at__gte="]
)
def test_what_django_offers_and_this_does_not_is_ignored(
    admin_client: Client, pages: dict[str, str], query: str
) -> None:
    response = admin_client.get(f"{pages['messages']}?{query}")
    assert response.context["cl"].result_count == 1


@pytest.mark.parametrize("page", ["users", "sessions", "messages"])
@pytest.mark.parametrize("term", ["%", "_", "\0", "a\0b@example.org", "\U0001f600" * 40, "x" * 3000, "'; --", "\\"])
def test_strange_terms_find_nothing(admin_client: Client, pages: dict[str, str], page: str, term: str) -> None:
    response = admin_client.get(pages[page], {"q": term})
    assert response.status_code == 200
    assert response.context["cl"].result_count == 0 or "Null characters are not allowed" in response.content.decode()


def test_what_would_be_a_scan_is_said_not_to_be_done(admin_client: Client, pages: dict[str, str]) -> None:
    assert "the whole table read: not done" in admin_client.get(pages["messages"], {"q": "headache"}).content.decode()
    for term in ("ann@example.org", pages["user"].split("/")[-3]):
        told = admin_client.get(pages["messages"], {"q": term}).content.decode()
        assert "This is a user" in told
        assert f'href="/admin/core/session/?user__id__exact={pages["user"].split("/")[-3]}"' in told


def test_nothing_completes_as_one_types(admin_client: Client) -> None:
    ask = {"app_label": "core", "model_name": "message", "field_name": "session", "term": ""}
    assert admin_client.get("/admin/autocomplete/", ask).status_code == 404


# What staff may


def staff(*permissions: str) -> Client:
    user = User.objects.create_user("staff@example.org", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_who_may_change_users_can_not_give_themselves_more(message: Message) -> None:
    client = staff("view_user", "change_user", "delete_user", "delete_session", "delete_message")
    me, root = User.objects.get(email="staff@example.org"), User.objects.create_superuser("root@example.org", "secret")
    ann = message.session.user
    doors = {"is_staff": "on", "is_superuser": "on", "user_permissions": [Permission.objects.all()[0].pk]}
    form: dict[str, Any] = {"email": "ann@example.org", "full_name": "Changed", "is_active": "on", **doors}
    assert client.post(f"/admin/core/user/{ann.pk}/change/", form).status_code == 302
    ann.refresh_from_db()
    assert ann.full_name == "Changed"
    assert not ann.is_staff and not ann.is_superuser and not ann.user_permissions.exists()
    for other in (me, root):
        assert client.get(f"/admin/core/user/{other.pk}/change/").status_code == 200
        assert client.post(f"/admin/core/user/{other.pk}/change/", {**form, "email": other.email}).status_code == 403
        assert client.post(f"/admin/core/user/{other.pk}/password/", {"password1": "x"}).status_code == 403
        assert client.post(f"/admin/core/user/{other.pk}/delete/", {"post": "yes"}).status_code == 403
    both = {"action": "delete_selected", "_selected_action": [str(root.pk), str(ann.pk)], "post": "yes"}
    client.post("/admin/core/user/", both)
    assert User.objects.filter(pk__in=[root.pk, ann.pk, me.pk]).count() == 3


@pytest.mark.parametrize("permissions", [("view_user",), ("view_user", "change_user")])
def test_a_passwords_hash_is_on_no_page(message: Message, permissions: tuple[str, ...]) -> None:
    ann = message.session.user
    ann.set_password("a long password")
    ann.save()
    page = staff(*permissions).get(f"/admin/core/user/{ann.pk}/change/").content.decode()
    assert "argon2" not in page
    for part in ann.password.split("$")[-2:]:
        assert part[:6] not in page


def test_deleting_needs_the_permission_for_all_that_goes(message: Message) -> None:
    client, page = (
        staff("view_user", "delete_user", "delete_session"),
        f"/admin/core/user/{message.session.user_id}/delete/",
    )
    assert "permission to delete" in client.get(page).content.decode()
    assert client.post(page, {"post": "yes"}).status_code == 403
    assert Message.objects.exists()


# Actions


def test_sessions_are_ended_and_archived_by_hand(admin_client: Client, message: Message) -> None:
    session = message.session
    for action, told in (("end", "Sessions ended: 1."), ("archive", "Sessions archived: 1.")):
        form = {"action": action, "_selected_action": [str(session.pk)]}
        assert told in admin_client.post("/admin/core/session/", form, follow=True).content.decode()
    session.refresh_from_db()
    assert session.ended_at and session.is_archived


def test_an_action_is_for_the_rows_that_were_ticked(admin_client: Client, message: Message) -> None:
    other = Session.objects.create(user=message.session.user)
    form = {"action": "delete_selected", "_selected_action": [str(message.session_id)], "select_across": "1"}
    assert "Messages: 1<" in admin_client.post("/admin/core/session/", form).content.decode()
    admin_client.post("/admin/core/session/", {**form, "post": "yes"})
    assert list(Session.objects.all()) == [other]


def test_deleting_messages_keeps_the_count(admin_client: Client, message: Message) -> None:
    session = Session.objects.create(user=message.session.user)
    sent = [append_message(session.pk, role="user", content=str(number)) for number in range(5)]
    form = {"action": "delete_selected", "_selected_action": [str(m.pk) for m in sent[:2]], "post": "yes"}
    admin_client.post("/admin/core/message/", form)
    admin_client.post(f"/admin/core/message/{sent[2].pk}/delete/", {"post": "yes"})
    session.refresh_from_db()
    assert (session.message_count, session.messages.count()) == (2, 2)
    # One that was imported and not counted goes too.
    admin_client.post(f"/admin/core/message/{message.pk}/delete/", {"post": "yes"})
    assert not Message.objects.filter(pk=message.pk).exists()


def test_who_deletes_a_user_that_is_gone_has_nothing_to_do(message: Message) -> None:
    user = message.session.user
    again = User.objects.get(pk=user.pk)
    delete_user(user)
    delete_user(again)


def test_a_group_goes_without_its_members_being_loaded(admin_client: Client) -> None:
    group = Group.objects.create(name="reviewers")
    group.user_set.set([User.objects.create_user(f"{number}@example.org") for number in range(30)])
    page = f"/admin/auth/group/{group.pk}/delete/"
    text = admin_client.get(page).content.decode()
    assert "User_groups object" not in text
    with CaptureQueriesContext(connection) as queries:
        assert admin_client.post(page, {"post": "yes"}).status_code == 302
    assert len(queries) < 20
    assert AuditEvent.objects.filter(action="delete", table="users_groups").count() == 30


def test_there_is_one_record_of_what_was_done(admin_client: Client, message: Message) -> None:
    """Django's own log could be changed, and would grow beside the trail."""
    user = message.session.user
    admin_client.post(f"/admin/core/user/{user.pk}/change/", {"email": "ann@example.org", "full_name": "N"})
    admin_client.post("/admin/auth/group/add/", {"name": "reviewers"})
    admin_client.post(f"/admin/core/user/{user.pk}/delete/", {"post": "yes"})
    assert AuditEvent.objects.filter(actor_id__isnull=False, action="delete").exists()
    assert not LogEntry.objects.exists()
