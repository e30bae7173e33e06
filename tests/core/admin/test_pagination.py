"""The links between the pages of a list, and the rows of each page in their order."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client

from core.admin import changelist
from core.models import Message

pytestmark = pytest.mark.django_db

LIST = "/admin/core/message/"
NUMBER = 8
START = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def numbers(message: Message, monkeypatch: pytest.MonkeyPatch) -> dict[Any, int]:
    """Add messages of which each two share a time, and show three per page. Return their numbers, oldest first."""
    monkeypatch.setattr(admin.site.get_model_admin(Message), "list_per_page", 3)
    times = [START + timedelta(minutes=number // 2) for number in range(NUMBER)]
    rows = [Message.objects.create(session=message.session, role="user", created_at=time) for time in times]
    message.delete()
    return {row.pk: number for number, row in enumerate(rows)}


class Walk:
    """Follows the links of a list."""

    def __init__(self, client: Client, numbers: dict[Any, int], query: str = "") -> None:
        self.client, self.numbers = client, numbers
        self.open(f"?{query}")

    def open(self, query: str) -> None:
        self.response = self.client.get(LIST + query)
        self.cl = self.response.context["cl"]
        self.links = dict(self.cl.page_links)

    def follow(self, label: str) -> Iterator[list[int]]:
        """Yield the rows of each page to which links with this label lead, one after the other."""
        while label in self.links:
            self.open(self.links[label])
            yield self.rows

    @property
    def rows(self) -> list[int]:
        return [self.numbers[row.pk] for row in self.cl.result_list]


@pytest.mark.parametrize("query", ["", "role__exact=user", "session__id__exact={session}", "q={session}"])
def test_links_lead_to_every_row_once_in_order(admin_client: Client, numbers: dict[Any, int], query: str) -> None:
    walk = Walk(admin_client, numbers, query.format(session=Message.objects.all()[0].session_id))
    assert walk.rows == [7, 6, 5]
    assert list(walk.links) == ["Older ›", "Oldest »"]
    assert not walk.cl.is_complete
    assert list(walk.follow("Older ›")) == [[4, 3, 2], [1, 0]]
    assert list(walk.links) == ["« Newest", "‹ Newer"]
    assert not walk.cl.is_complete  # it is the last page, and not the only one
    assert list(walk.follow("‹ Newer")) == [[4, 3, 2], [7, 6, 5]]
    assert list(walk.links) == ["Older ›", "Oldest »"]
    assert next(walk.follow("Oldest »")) == [2, 1, 0]
    assert not walk.cl.is_complete
    assert list(walk.links) == ["« Newest", "‹ Newer"]
    assert next(walk.follow("‹ Newer")) == [5, 4, 3]
    assert list(walk.links) == ["« Newest", "‹ Newer", "Older ›", "Oldest »"]
    newest = walk.links["« Newest"]
    assert next(walk.follow("Older ›")) == [2, 1, 0]
    walk.open(newest)
    assert walk.rows == [7, 6, 5]
    assert "_than" not in newest


def test_other_links_lead_to_the_first_page(admin_client: Client, numbers: dict[Any, int]) -> None:
    """A cursor of this list may be anywhere in another one."""
    session = Message.objects.all()[0].session_id
    walk = Walk(admin_client, numbers, f"role__exact=user&session__id__exact={session}")
    for page in ("Older ›", "Oldest »"):
        walk.open(walk.links[page])
        urls = [choice["query_string"] for spec in walk.cl.filter_specs for choice in spec.choices(walk.cl)]
        assert urls and not [url for url in (*urls, walk.cl.search_url, walk.cl.unscoped_url) if "_than" in url]
        assert walk.cl.search_url == walk.cl.unscoped_url == "?role__exact=user"
    walk.open(f"?q={session}&role__exact=user")
    assert walk.cl.search_url == "?role__exact=user"


def test_sidebar_shows_filters_that_no_index_supports(admin_client: Client, numbers: dict[Any, int]) -> None:
    shown = [
        [spec.title for spec in Walk(admin_client, numbers, query).cl.filter_specs]
        for query in ("", "role__exact=user")
    ]
    assert shown[0] == shown[1] and "role" in shown[0]


def test_page_offers_actions_and_no_pages_of_django(admin_client: Client, numbers: dict[Any, int]) -> None:
    text = Walk(admin_client, numbers).response.content.decode()
    assert '<select name="action"' in text
    assert not [link for link in ("?all=", "?p=", "Show all", "Show counts", "?o=") if link in text]


@pytest.mark.database_superuser  # to change what PostgreSQL has estimated
@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (-1, ""),  # the table was never analyzed
        (0, ""),
        (1, ", about 1 in total (estimated)"),
        (1_234_567, ", about 1,234,567 in total (estimated)"),
    ],
)
def test_whole_list_states_the_estimated_number_of_rows(
    admin_client: Client, numbers: dict[Any, int], estimate: int, words: str
) -> None:
    session = Message.objects.all()[0].session_id
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pg_class SET reltuples = %s WHERE oid = 'messages'::regclass", [estimate])
    text = " ".join(Walk(admin_client, numbers).response.content.decode().split())
    assert f"3 messages on this page{words} </p>" in text
    for query in ("role__exact=user", f"session__id__exact={session}", f"q={session}"):
        text = " ".join(Walk(admin_client, numbers, query).response.content.decode().split())
        assert "3 messages on this page </p>" in text, query


@pytest.mark.parametrize("query", ["created_at__lt=2026-01-16", "session__id__exact={session}", "q={session}"])
def test_filter_with_an_index_scans_all_rows(
    admin_client: Client, numbers: dict[Any, int], monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(changelist, "MAX_SCANNED_ROWS", 1)
    walk = Walk(admin_client, numbers, query.format(session=Message.objects.all()[0].session_id))
    assert (walk.rows, walk.cl.scanned_to) == ([7, 6, 5], None)


def test_page_has_fifty_rows(admin_client: Client, numbers: dict[Any, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    session = Message.objects.all()[0].session
    Message.objects.bulk_create(Message(session=session, role="user") for _ in range(43))
    response = admin_client.get(LIST)
    assert (response.context["cl"].result_count, len(response.context["cl"].result_list)) == (50, 50)
    assert "50 messages" in response.content.decode()
    assert (
        len(admin_client.get(LIST + dict(response.context["cl"].page_links)["Older ›"]).context["cl"].result_list) == 1
    )


def test_whole_list_has_no_links(admin_client: Client, numbers: dict[Any, int]) -> None:
    Message.objects.filter(pk__in=[key for key, number in numbers.items() if number > 2]).delete()
    walk = Walk(admin_client, numbers)
    assert (walk.rows, walk.links, walk.cl.is_complete) == ([2, 1, 0], {}, True)


def test_page_beyond_the_last_row_leads_back(admin_client: Client, numbers: dict[Any, int]) -> None:
    walk = Walk(admin_client, numbers)
    older = walk.links["Older ›"]
    Message.objects.filter(pk__in=[key for key, number in numbers.items() if number < 5]).delete()
    walk.open(older)
    assert walk.rows == []
    assert list(walk.links) == ["« Newest", "‹ Newer"]
    assert next(walk.follow("‹ Newer")) == [7, 6]  # newer than the last row of the first page


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(("distance", "is_found"), [(3, True), (4, True), (5, False)], ids=["n - 1", "n", "n + 1"])
def test_filter_without_an_index_scans_so_many_rows(
    admin_client: Client,
    numbers: dict[Any, int],
    monkeypatch: pytest.MonkeyPatch,
    distance: int,
    is_found: bool,
    newest_first: bool,
) -> None:
    """The row that matches is this many rows from the beginning. The next page continues exactly behind the scan."""
    monkeypatch.setattr(changelist, "MAX_SCANNED_ROWS", 4)
    number = NUMBER - distance if newest_first else distance - 1
    (key,) = (key for key, value in numbers.items() if value == number)
    Message.objects.filter(pk=key).update(role="tool")
    walk = Walk(admin_client, numbers, "role__exact=tool")
    if not newest_first:
        walk.open(walk.links["Oldest »"])
    first_page = [number] if is_found else []
    last = START + timedelta(minutes=2 if newest_first else 1)  # of the rows 4 and 3
    assert (walk.rows, walk.cl.scanned_to, walk.cl.is_complete) == (first_page, last, False)
    words = "Searched the latest 4 messages, back to" if newest_first else "Searched 4 messages, up to"
    assert words in " ".join(walk.response.content.decode().split())
    second_page = next(walk.follow("Older ›" if newest_first else "‹ Newer"))
    assert second_page == ([] if is_found else [number])


def test_scan_of_all_rows_is_complete(
    admin_client: Client, numbers: dict[Any, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan of exactly so many rows may not be complete, and one of fewer is."""
    for limit, is_complete in ((NUMBER, False), (NUMBER + 1, True)):
        monkeypatch.setattr(changelist, "MAX_SCANNED_ROWS", limit)
        walk = Walk(admin_client, numbers, "role__exact=tool")
        assert (walk.rows, walk.cl.is_complete) == ([], is_complete)
        assert (walk.cl.scanned_to is None) is is_complete
