"""The periods of the lists: links, a custom range, and a time ± 15 minutes. All in UTC."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.utils import timezone

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
