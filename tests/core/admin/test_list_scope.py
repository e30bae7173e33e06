"""Lists that a link leads to say whose rows they show, and pages lead back to the list as it was."""

import re
from collections.abc import Callable
from html import unescape
from urllib.parse import urlencode

import pytest
from django.test import Client

from core.models import AuditEvent, Message
from tests.support.reveal import REASON

pytestmark = pytest.mark.django_db

UNKNOWN = "0198c000-0000-7000-8000-000000000000"


def text_of(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200, url
    return unescape(response.content.decode())


def heading(text: str) -> str:
    (heading,) = re.findall(r"<h1>(.*?)</h1>", text)
    assert f"<title>{heading} |" in text
    return str(heading)


def breadcrumbs(text: str) -> list[tuple[str, str]]:
    """Return the label and the URL, or "", of each breadcrumb after Home."""
    (html,) = re.findall(r'<div class="breadcrumbs">(.*?)</div>', text, re.DOTALL)
    items = [item.strip() for item in html.split("›")]
    urls = [match[1] if (match := re.search(r'href="([^"]*)"', item)) else "" for item in items]
    return list(zip([re.sub(r"<[^>]*>", "", item).strip() for item in items], urls, strict=True))[1:]


def test_title_says_whose_list_it_is(admin_client: Client, message: Message) -> None:
    session, user = message.session, message.session.user
    of_session = f"ann@example.org, {session.created_at:%Y-%m-%d %H:%M} UTC"
    of_message = f"ann@example.org, {message.created_at:%Y-%m-%d %H:%M:%S} UTC"
    AuditEvent.objects.create(action="reveal", table="messages", trace_id="trace-1")
    for url, title in (
        (f"session/?user__id__exact={user.pk}", "Sessions of ann@example.org"),
        (f"session/?user__id__exact={UNKNOWN}", "Sessions of a user that does not exist any more"),
        (f"session/?user__id__exact={session.pk}", "Sessions of a user that does not exist any more"),
        (f"message/?session__id__exact={session.pk}", f"Messages of {of_session}"),
        (f"message/?session__id__exact={UNKNOWN}", "Messages of a session that does not exist any more"),
        (f"auditevent/?object_id__exact={user.pk}", "Audit events about ann@example.org"),
        (f"auditevent/?object_id__exact={session.pk}", f"Audit events about {of_session}"),
        (f"auditevent/?object_id__exact={message.pk}", f"Audit events about {of_message}"),
        (f"auditevent/?object_id__exact={UNKNOWN}", "Audit events about one object"),
        ("auditevent/?object_id__exact=5", "Audit events about one object"),
        (f"auditevent/?actor_id__exact={user.pk}", "Audit events by ann@example.org"),
        (f"auditevent/?subject_id__exact={user.pk}", "Audit events about the data of ann@example.org"),
        (f"auditevent/?session_id__exact={session.pk}", f"Audit events about the conversation of {of_session}"),
        ("auditevent/?trace_id__exact=trace-1", "Audit events of one request"),
    ):
        assert heading(text_of(admin_client, f"/admin/core/{url}")) == title


def test_reader_of_audit_events_who_may_not_view_users_learns_no_email(
    staff_client: Callable[..., Client], message: Message
) -> None:
    client, user = staff_client("view_auditevent"), message.session.user
    titles = {
        f"object_id__exact={user.pk}": "Audit events about one object",
        f"object_id__exact={message.pk}": "Audit events about one object",
        f"subject_id__exact={user.pk}": "Audit events about the data of a user",
        f"session_id__exact={message.session_id}": "Audit events about the conversation of a session",
    }
    for query, title in titles.items():
        text = text_of(client, f"/admin/core/auditevent/?{query}")
        assert heading(text) == title
        assert user.email not in text
    found = client.post("/admin/core/auditevent/", {"q": "ann"}, follow=True).content.decode()
    assert user.email not in found


def test_reader_of_messages_who_may_not_view_users_sees_whose_they_are(
    staff_client: Callable[..., Client], message: Message
) -> None:
    """The rows of the list contain the email too."""
    text = text_of(staff_client("view_message"), f"/admin/core/message/?session__id__exact={message.session_id}")
    assert heading(text).startswith("Messages of ann@example.org")


def test_conversation_begins_at_the_time_of_the_filter(admin_client: Client, message: Message) -> None:
    url = f"/admin/core/message/?session__id__exact={message.session_id}"
    form = f"/admin/core/session/{message.session_id}/change/"
    assert f'<a href="{form}#access">Read this conversation' in text_of(admin_client, url)
    text = text_of(admin_client, f"{url}&created_at__gte=2026-01-15 11:34:00%2B00:00")
    assert f'<a href="{form}?start=2026-01-15T11%3A34#access">Read this conversation' in text


@pytest.mark.parametrize(
    ("permissions", "offers_conversation"),
    [
        (["view_message", "view_session"], False),
        (["view_message", "view_phi"], False),
        (["view_message", "view_session", "view_phi"], True),
    ],
)
def test_conversation_is_offered_to_whom_may_read_it(
    staff_client: Callable[..., Client], message: Message, permissions: list[str], offers_conversation: bool
) -> None:
    text = text_of(staff_client(*permissions), f"/admin/core/message/?session__id__exact={message.session_id}")
    assert ("Read this conversation" in text) is offers_conversation


def test_list_can_be_widened_and_keeps_its_other_filters(admin_client: Client, message: Message) -> None:
    text = text_of(admin_client, f"/admin/core/message/?session__id__exact={message.session_id}&role__exact=user")
    assert '<a href="?role__exact=user">Show all messages</a>' in text
    assert "Show all" not in text_of(admin_client, "/admin/core/message/?role__exact=user")


def test_breadcrumbs_lead_from_the_user_to_the_message(admin_client: Client, message: Message) -> None:
    session, user = message.session, message.session.user
    sessions, messages = f"?user__id__exact={user.pk}", f"?session__id__exact={session.pk}"
    user_path = [("Users", "/admin/core/user/"), ("ann@example.org", f"/admin/core/user/{user.pk}/change/")]
    at = "%Y-%m-%d %H:%M:%S UTC"
    session_path = [
        *user_path,
        ("Sessions", f"/admin/core/session/{sessions}"),
        (f"{session.created_at:{at}}", f"/admin/core/session/{session.pk}/change/"),
    ]
    message_path = [
        *session_path,
        ("Messages", f"/admin/core/message/{messages}"),
        (f"{message.created_at:{at}}", f"/admin/core/message/{message.pk}/change/"),
    ]

    def without_last_link(path: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [*path[:-1], (path[-1][0], "")]

    def shown(url: str) -> list[tuple[str, str]]:
        return breadcrumbs(text_of(admin_client, f"/admin/core/{url}"))

    def posted(url: str) -> list[tuple[str, str]]:
        return breadcrumbs(unescape(admin_client.post(f"/admin/core/{url}", REASON).content.decode()))

    assert shown(f"session/{sessions}") == [*user_path, ("Sessions", "")]
    assert shown(f"message/{messages}") == [*session_path, ("Messages", "")]
    assert shown(f"session/{session.pk}/change/") == without_last_link(session_path)
    assert shown(f"message/{message.pk}/change/") == without_last_link(message_path)
    assert posted(f"session/{session.pk}/read/") == [*session_path, ("Conversation", "")]
    assert posted(f"message/{message.pk}/read/") == [*message_path, ("Conversation", "")]
    assert posted(f"message/{message.pk}/reveal/") == [*message_path, ("PHI", "")]


def test_breadcrumbs_do_not_link_pages_that_the_reader_may_not_open(
    staff_client: Callable[..., Client], message: Message
) -> None:
    client = staff_client("view_message")
    crumbs = breadcrumbs(text_of(client, f"/admin/core/message/{message.pk}/change/"))
    messages = f"/admin/core/message/?session__id__exact={message.session_id}"
    assert [url for _, url in crumbs] == ["", "", "", "", messages, ""]


def follow_links_back(client: Client, page: str) -> None:
    """Reveal the row of this page, and go back to the list by the links of each page."""

    def link(text: str, label: str) -> str:
        (url,) = re.findall(rf'<a href="([^"]*)"[^>]*>{label}</a>', text)
        return str(url)

    def form_action(text: str) -> str:
        return str(re.findall(r'<form method="post" action="([^"]*/reveal/[^"]*)"', text)[0])

    text = text_of(client, page)
    for _ in range(2):  # the second time from the page that the first reveal leads back to
        revealed = unescape(client.post(form_action(text), REASON).content.decode())
        text = text_of(client, link(revealed, "Back to the message"))
    assert heading(text_of(client, link(text, "Close"))).startswith("Messages of ann@example.org")


def test_reveal_leads_back_to_the_list_as_it_was(admin_client: Client, message: Message) -> None:
    query = f"role__exact=user&session__id__exact={message.session_id}"
    listed = text_of(admin_client, f"/admin/core/message/?{query}")
    (page,) = re.findall(rf'href="([^"]*{message.pk}/change/[^"]*)"', listed)
    assert "_changelist_filters" in page
    follow_links_back(admin_client, page)
    reveal = page.replace("/change/", "/reveal/")
    assert f'href="{page}"' in unescape(admin_client.post(reveal).content.decode())  # the reason is missing
    assert admin_client.get(reveal)["Location"] == page  # after a login


@pytest.mark.parametrize("filters", ["//evil.example", "https://evil.example/?a=b", "javascript:alert(1)", "e=//x"])
def test_filters_in_the_url_lead_to_no_other_site(admin_client: Client, message: Message, filters: str) -> None:
    query = urlencode({"_changelist_filters": filters})
    page = f"/admin/core/message/{message.pk}"
    for response in (
        admin_client.get(f"{page}/change/?{query}"),
        admin_client.post(f"{page}/reveal/?{query}"),
        admin_client.post(f"{page}/reveal/?{query}", REASON),
        admin_client.post(f"{page}/read/?{query}", REASON),
    ):
        urls = re.findall(r'(?:href|action)="([^"]*)"', response.content.decode())
        assert [url for url in urls if not re.match(r"/(?!/)|[#?]", url)] == []
