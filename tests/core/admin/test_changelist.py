"""Search, filters and URL parameters of the lists. tests/core/admin/test_large_tables.py tests their queries."""

from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core.models import Backup, Message, Session, User
from tests.core.admin.conftest import CANARY

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("page", "term", "matches"),
    [
        ("users", "ANN@example", 1),
        ("users", "ann l", 1),
        ("users", "lee", 1),
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
    admin_client: Client, pages: dict[str, str], message: Message, page: str, term: str, matches: int
) -> None:
    term = term.format(message=message.pk, session=message.session_id, user=message.session.user_id)
    response = admin_client.get(pages[page], {"q": term}, follow=True)
    assert response.context["cl"].result_count == matches


@pytest.mark.parametrize("page", ["users", "sessions", "messages"])
@pytest.mark.parametrize("term", ["%", "_", "\0", "a\0b@example.org", "\U0001f600" * 40, "x" * 3000, "'; --", "\\"])
def test_special_characters_match_nothing(admin_client: Client, pages: dict[str, str], page: str, term: str) -> None:
    response = admin_client.get(pages[page], {"q": term}, follow=True)
    assert response.status_code == 200
    assert response.context["cl"].result_count == 0


def test_unsupported_search_is_explained(admin_client: Client, pages: dict[str, str]) -> None:
    text = admin_client.get(pages["messages"], {"q": "headache"}, follow=True).content.decode()
    assert "No message matches. Search by ID of a message or session, or client message ID." in text
    assert "searched by user" not in text
    user_id = pages["user"].split("/")[-3]
    for term in ("ann@example.org", user_id, "Lee"):
        text = admin_client.get(pages["messages"], {"q": term}, follow=True).content.decode()
        assert "Messages can&#x27;t be searched by user." in text
        assert f'href="/admin/core/session/?user__id__exact={user_id}"' in text


FILTERED = {
    "users": {
        "is_staff__exact=1": ["admin"],
        "is_staff__exact=0": ["ann", "bob"],
        "is_superuser__exact=0&is_active__exact=0": ["bob"],
        "created_at__lt=2026-01-01T00%3A00%3A00Z": ["bob"],
    },
    "sessions": {
        "mode__exact=voice": ["ann"],
        "mode__exact=text&is_archived__exact=1": ["bob"],
        "is_archived__exact=0": ["ann"],
        "user__id__exact={ann}": ["ann"],
        "user__id__exact={ann}&is_archived__exact=1": [],
        "created_at__year=2025&created_at__month=12": ["bob"],
        "created_at__year=2025&created_at__month=12&created_at__day=30": [],
    },
    "messages": {
        "role__exact=tool": ["bob"],
        "contains_phi__exact=1": ["ann"],
        "role__exact=tool&contains_phi__exact=1": [],
        "session__id__exact={session}": ["ann"],
        "created_at__gte=2026-01-01T00%3A00%3A00Z": ["ann"],
        "created_at__lt=2026-01-01T00%3A00%3A00Z&role__exact=tool": ["bob"],
        "created_at__around=2025-12-31T12:10": ["bob"],
    },
}


@pytest.mark.parametrize(("page", "query"), [(page, query) for page, queries in FILTERED.items() for query in queries])
def test_filters(admin_client: Client, pages: dict[str, str], message: Message, page: str, query: str) -> None:
    """Bob has one of each at the end of 2025, Ann one of each now."""
    last_year = datetime(2025, 12, 31, 12, tzinfo=UTC)
    ann, session = message.session.user, message.session
    bob = User.objects.create_user("bob@example.org", is_active=False, created_at=last_year)
    old = Session.objects.create(user=bob, is_archived=True, created_at=last_year)
    Session.objects.filter(pk=session.pk).update(mode="voice")
    Message.objects.create(session=old, role="tool", contains_phi=False, created_at=last_year)
    response = admin_client.get(f"{pages[page]}?{query.format(ann=ann.pk, session=session.pk)}")
    rows = response.context["cl"].result_list
    users = [row if page == "users" else row.user if page == "sessions" else row.session.user for row in rows]
    assert sorted(user.email.partition("@")[0] for user in users) == FILTERED[page][query]


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
def test_rejects_lookups_on_masked_or_unindexed_columns(
    admin_client: Client, pages: dict[str, str], page: str, query: str
) -> None:
    """A prefix filter on a masked column would reveal its value letter by letter, without an audit event."""
    with CaptureQueriesContext(connection) as queries:
        response = admin_client.get(f"{pages[page]}?{query}")
    refused = (400, None) if "_to_field" in query else (302, f"{pages[page]}?e=1")
    assert (response.status_code, response.get("Location")) == refused
    assert not [query for query in queries.captured_queries if f'"{page}"."created_at" DESC' in query["sql"]]


@pytest.mark.parametrize(
    "query",
    [
        "created_at__year=9999",
        "created_at__year=9999&created_at__month=12",
        "created_at__year=0",
        "created_at__year=x",
        "created_at__month=3",
        "created_at__year=2026&created_at__day=3",
        "created_at__year=2026&created_at__year=2025",
        "created_at__gte=x",
        "created_at__around=x",
        "created_at__around=0001-01-01",
        "role__exact=zzz",
        "contains_phi__exact=7",
        "foo=1",
        "created_at__gte=0001-01-01T00:00:00%2B14:00",
        "role__exact=user&role__exact=tool",
        "session__id__exact=x",
        "session__id__exact=0198c000-0000-7000-8000-000000000000&q=0198c000-0000-7000-8000-000000000000",
        "older_than=x",
        "newer_than=AAAA",
        "older_than=%F0%9F%98%80",
    ],
)
def test_invalid_filter_is_reported(admin_client: Client, pages: dict[str, str], query: str) -> None:
    response = admin_client.get(f"{pages['messages']}?{query}", follow=True)
    assert response.redirect_chain == [(f"{pages['messages']}?e=1", 302)]
    assert "That link contains an invalid filter, so the full list is shown." in response.content.decode()


@pytest.mark.parametrize(
    "query", ["o=3", "o=-1.2", "all=", "p=99999", "p=x", "_facets=1", "_popup=1", "created_at__gte="]
)
def test_unsupported_django_parameters_are_ignored(admin_client: Client, pages: dict[str, str], query: str) -> None:
    response = admin_client.get(f"{pages['messages']}?{query}")
    assert response.context["cl"].result_count == 1


def test_short_lists_have_numbered_pages_and_offer_no_counts(admin_client: Client) -> None:
    times = {"started_at": timezone.now(), "finished_at": timezone.now()}
    for number in range(101):  # Django shows 100 rows on a page
        Backup.objects.create(kind="base", name=str(number), size=1, product_version="1.0", **times)
    text = admin_client.get("/admin/core/backup/").content.decode()
    assert 'href="?p=2"' in text
    assert "101 backups" in text and "on this page" not in text
    assert "Show counts" not in text  # display.js takes this link for an active filter
