"""The periods of the lists: links, a custom range, and a time ± 15 minutes. All in UTC."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from core.cursor_pagination import cursor_of
from core.models import Message

pytestmark = pytest.mark.django_db

PAGE = "/admin/core/message/"
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def messages(message: Message) -> list[Message]:
    """Return messages of noon, and 14, 16 and 90 minutes later."""
    times = [NOON + timedelta(minutes=minutes) for minutes in (0, 14, 16, 90)]
    return [Message.objects.create(session=message.session, role="user", created_at=time) for time in times]


def listed(client: Client, query: str) -> tuple[Any, list[datetime]]:
    cl = client.get(f"{PAGE}?{query}").context["cl"]
    return cl, sorted(row.created_at for row in cl.result_list)


def test_around(admin_client: Client, messages: list[Message]) -> None:
    for query in ("2026-01-15T12:00", "2026-01-15T12:00Z", "2026-01-15T13:00%2B01:00"):
        cl, times = listed(admin_client, f"created_at__around={query}&role__exact=user")
        assert times == [message.created_at for message in messages[:2]], query
    (spec,) = (spec for spec in cl.filter_specs if spec.title == "created at")
    assert (spec.around, spec.since, spec.until) == ("2026-01-15T12:00", "", "")
    assert spec.other_parameters == [("role__exact", "user")]
    # Another period replaces it.
    links = [choice["query_string"] for choice in spec.choices(cl)]
    assert not any("around" in link for link in links)


def test_form_names_its_zone(admin_client: Client, messages: list[Message]) -> None:
    text = admin_client.get(PAGE).content.decode()
    for label in (
        "From (UTC)",
        "Until (UTC)",
        "Around (UTC)",
        "± 15 minutes",
        'value="Apply"',
        "Last hour",
        "Yesterday",
    ):
        assert label in text, label


def test_links_to_periods(admin_client: Client, messages: list[Message]) -> None:
    now = timezone.now()
    cl, _ = listed(admin_client, "")
    (spec,) = (spec for spec in cl.filter_specs if spec.title == "created at")
    links = {choice["display"]: parse_qs(urlsplit(choice["query_string"]).query) for choice in spec.choices(cl)}
    assert list(links)[:4] == ["Any date", "Last hour", "Today", "Yesterday"]
    (hour_ago,) = links["Last hour"]["created_at__gte"]
    assert now - timedelta(minutes=62) < datetime.fromisoformat(hour_ago) <= now - timedelta(minutes=59)
    (since,), (until,) = (links["Yesterday"][f"created_at__{part}"] for part in ("gte", "lt"))
    assert links["Today"]["created_at__gte"] == [until]
    assert datetime.fromisoformat(until) - datetime.fromisoformat(since) == timedelta(days=1)
    query = next(choice["query_string"] for choice in spec.choices(cl) if choice["display"] == "Yesterday")
    selected = [
        choice["display"]
        for spec in listed(admin_client, query[1:])[0].filter_specs
        if spec.title == "created at"
        for choice in spec.choices(cl)
        if choice["selected"]
    ]
    assert selected == ["Yesterday"]


def test_periods_end_and_begin_at_full_minutes_and_days(
    admin_client: Client, messages: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("core.admin.filters.now", "django.contrib.admin.filters.timezone.now"):
        monkeypatch.setattr(module, lambda: datetime(2026, 1, 15, 12, 34, 56, 789, tzinfo=UTC))
    cl, _ = listed(admin_client, "")
    (spec,) = (spec for spec in cl.filter_specs if spec.title == "created at")
    links = [(choice["display"], parse_qs(urlsplit(choice["query_string"]).query)) for choice in spec.choices(cl)]
    assert [label for label, _ in links] == [
        "Any date", "Last hour", "Today", "Yesterday", "Past 7 days", "This month", "This year",
    ]  # fmt: skip
    assert dict(links)["Last hour"] == {"created_at__gte": ["2026-01-15 11:34:00+00:00"]}
    assert dict(links)["Yesterday"] == {
        "created_at__gte": ["2026-01-14 00:00:00+00:00"],
        "created_at__lt": ["2026-01-15 00:00:00+00:00"],
    }


def test_around_includes_its_beginning_and_not_its_end(admin_client: Client, messages: list[Message]) -> None:
    for at, expected in (("12:15", [0, 1, 2]), ("12:16", [1, 2]), ("11:59", [0]), ("11:45", [])):
        _, times = listed(admin_client, f"created_at__around=2026-01-15T{at}&role__exact=user")
        assert times == sorted({messages[number].created_at for number in expected}), at


@pytest.mark.parametrize(
    ("query", "since", "until", "expected"),
    [
        ("created_at__gte=2026-01-15T12:14", "2026-01-15T12:14", "", [1, 2, 3]),
        ("created_at__gte=2026-01-01&created_at__lt=2026-01-15T12:14Z", "2026-01-01T00:00", "2026-01-15T12:14", [0]),
        ("created_at__gte=2026-01-15T13:16%2B01:00&created_at__lt=", "2026-01-15T12:16", "", [2, 3]),
    ],
    ids=["open end", "date", "zone"],
)
def test_form_shows_the_range(
    admin_client: Client, messages: list[Message], query: str, since: str, until: str, expected: list[int]
) -> None:
    Message.objects.exclude(pk__in=[message.pk for message in messages]).delete()
    cl, times = listed(admin_client, query)
    assert times == [messages[number].created_at for number in expected]
    (spec,) = (spec for spec in cl.filter_specs if spec.title == "created at")
    assert (spec.since, spec.until, spec.around) == (since, until, "")


def test_form_keeps_other_filters_and_starts_at_the_first_page(admin_client: Client, messages: list[Message]) -> None:
    first = listed(admin_client, "")[0].result_list[0]
    cursor = cursor_of(first)
    for page in ("older_than", "newer_than"):
        cl, _ = listed(admin_client, f"role__exact=user&created_at__lt=2030-01-01&{page}={cursor}&e=1")
        (spec,) = (spec for spec in cl.filter_specs if spec.title == "created at")
        assert spec.other_parameters == [("role__exact", "user")]
