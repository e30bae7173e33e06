"""Lists without rows say what to do next, and offer neither actions nor a count of nothing."""

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from core.cursor_pagination import encode_cursor
from core.models import Message, Session

pytestmark = pytest.mark.django_db


def text_of(client: Client, page: str) -> str:
    text = " ".join(client.get(page, follow=True).content.decode().split())
    assert 'name="action"' not in text
    assert "0 of 0" not in text and "0 messages" not in text
    return text


def test_without_rows(admin_client: Client) -> None:
    Group.objects.all().delete()
    assert "There are no messages yet. </p>" in text_of(admin_client, "/admin/core/message/")
    assert "There are no backups yet. </p>" in text_of(admin_client, "/admin/core/backup/")
    link = '<a href="/admin/auth/group/add/">Add group</a>'
    assert f"There are no groups yet. {link} </p>" in text_of(admin_client, "/admin/auth/group/")


@pytest.mark.parametrize(
    "query", ["?role__exact=tool", "?q=nothing", "?created_at__year=1999", "?q=x&role__exact=tool"]
)
def test_without_matches(admin_client: Client, message: Message, query: str) -> None:
    link = '<a href="?">Show all messages</a>'
    assert f"No messages match. {link} </p>" in text_of(admin_client, f"/admin/core/message/{query}")
    assert 'name="action"' in admin_client.get("/admin/core/message/?").content.decode()


def test_link_to_a_row_without_others(admin_client: Client, message: Message) -> None:
    empty = Session.objects.create(user=message.session.user)
    assert "No messages match." in text_of(admin_client, f"/admin/core/message/?session__id__exact={empty.pk}")


def test_page_without_rows(admin_client: Client, message: Message) -> None:
    """The rows have been deleted since the link to the page was shown."""
    page = f"/admin/core/message/?older_than={encode_cursor(message.created_at, message.pk)}"
    assert "There are no messages on this page. </p>" in text_of(admin_client, page)
    assert "Newest" in text_of(admin_client, page)


@pytest.mark.parametrize("page", ["/admin/core/user/", "/admin/auth/group/"])
def test_search_box_has_a_visible_label(admin_client: Client, page: str) -> None:
    assert f'<label for="searchbar">Search {page.split("/")[-2]}s</label>' in admin_client.get(page).content.decode()
