"""The page that shows a conversation: its messages, their pages, the audit records, and who may open it."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from core.admin import transcripts
from core.models import AuditEvent, Message, Session
from tests.core.admin.conftest import CANARY
from tests.support.reveal import REASON, RECORDED_REASON

pytestmark = pytest.mark.django_db

START = datetime(2026, 11, 25, 14, 0, tzinfo=UTC)


@pytest.fixture
def session(message: Message) -> Session:
    """Return the session of `message`, with 12 messages, of which each two share a time, one minute apart."""
    message.delete()
    session = message.session
    for number in range(12):
        row = Message.objects.create(session=session, role="user", content=f"[text {number}]")
        Message.objects.filter(pk=row.pk).update(created_at=START + timedelta(minutes=number // 2))
    other = Session.objects.create(user=session.user)
    Message.objects.create(session=other, role="user", content="[of another session]")
    return session


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "PAGE_SIZE", 5)


def read(client: Client, row: Any, **position: str) -> Any:
    return client.post(reverse(f"admin:core_{row._meta.model_name}_read", args=[row.pk]), REASON | position)


def numbers(response: Any) -> list[int]:
    assert response.status_code == 200
    return [int(entry.content.text[6:-1]) for entry in response.context["entries"]]


def events() -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action="reveal").order_by("created_at", "id"))


def recorded() -> list[dict[str, Any]]:
    names = ("reason", "from", "until")
    return [{name: event.changes[name] for name in names if name in event.changes} for event in events()]


def test_pages_show_every_message_once_in_both_directions(admin_client: Client, session: Session) -> None:
    response = read(admin_client, session)
    forward = [numbers(response)]
    assert response.context["earlier"] is None
    while cursor := response.context["later"]:
        response = read(admin_client, session, after=cursor)
        forward.append(numbers(response))
    assert forward == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    backward = []
    while cursor := response.context["earlier"]:
        response = read(admin_client, session, before=cursor)
        backward.append(numbers(response))
    assert backward == [[5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]
    assert numbers(read(admin_client, session, after=response.context["later"])) == [5, 6, 7, 8, 9]
    assert "[of another session]" not in response.content.decode()


def test_last_page_may_be_full(admin_client: Client, session: Session) -> None:
    Message.objects.filter(content__in=("[text 10]", "[text 11]")).delete()
    first = read(admin_client, session)
    last = read(admin_client, session, after=first.context["later"])
    assert (numbers(last), last.context["later"]) == ([5, 6, 7, 8, 9], None)
    back = read(admin_client, session, before=last.context["earlier"])
    assert (numbers(back), back.context["earlier"]) == ([0, 1, 2, 3, 4], None)


def test_page_has_fifty_messages(admin_client: Client, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    Message.objects.bulk_create(Message(session=session, role="user", content="[text 12]") for _ in range(39))
    response = read(admin_client, session)
    assert len(numbers(response)) == 50
    assert numbers(read(admin_client, session, after=response.context["later"])) == [12]


def test_session_that_is_deleted_meanwhile_is_not_found(
    admin_client: Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = transcripts.read_page

    def read_and_delete(*args: Any) -> Any:
        page = original(*args)
        session.delete()
        return page

    monkeypatch.setattr(transcripts, "read_page", read_and_delete)
    admin_client.raise_request_exception = False
    assert read(admin_client, session).status_code == 404
    assert events() == []


def test_each_page_is_recorded_with_its_range_and_the_reason(
    admin_client: Client, session: Session, admin_user: Any
) -> None:
    first = read(admin_client, session)
    read(admin_client, session, after=first.context["later"])
    assert [(event.table, event.object_id, event.actor_id) for event in events()] == [
        ("sessions", str(session.pk), admin_user.pk)
    ] * 2
    assert recorded() == [
        {
            "reason": [None, RECORDED_REASON],
            "from": [None, f"2026-11-25T14:0{begin}:00+00:00"],
            "until": [None, f"2026-11-25T14:0{end}:00+00:00"],
        }
        for begin, end in ((0, 2), (2, 4))
    ]
    # The form of the next page repeats the reason. It is not in a URL.
    text = first.content.decode()
    assert 'name="reason" value="support"' in text
    assert 'name="details" value="ticket 4711"' in text


def test_begins_at_a_message(admin_client: Client, session: Session) -> None:
    message = Message.objects.get(content="[text 7]")
    response = read(admin_client, message)
    assert numbers(response) == [7, 8, 9, 10, 11]
    assert numbers(read(admin_client, message, before=response.context["earlier"])) == [2, 3, 4, 5, 6]
    assert {(event.table, event.object_id) for event in events()} == {("sessions", str(session.pk))}


def test_begins_exactly_at_a_message(admin_client: Client, session: Session) -> None:
    """Not at the one before, although that has the same time and the key before."""
    message = Message.objects.get(content="[text 7]")
    key = UUID(int=message.pk.int - 1)
    Message.objects.create(id=key, session=session, role="user", content="[text 99]", created_at=message.created_at)
    assert numbers(read(admin_client, message)) == [7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2026-11-25T14:03", [6, 7, 8, 9, 10]),
        ("2026-11-25T14:03:00", [6, 7, 8, 9, 10]),
        ("2020-01-01T00:00", [0, 1, 2, 3, 4]),
        ("2030-01-01T00:00", [7, 8, 9, 10, 11]),
    ],
    ids=["within", "with seconds", "before", "after"],
)
def test_begins_at_a_time(admin_client: Client, session: Session, start: str, expected: list[int]) -> None:
    """The last page is shown for a time after the last message."""
    assert numbers(read(admin_client, session, start=start)) == expected


def test_message_list_of_a_time_links_to_the_form_for_it(admin_client: Client, session: Session) -> None:
    filters = f"session__id__exact={session.pk}&created_at__gte=2026-11-25T14%3A03%3A00Z"
    url = f"/admin/core/session/{session.pk}/change/?start=2026-11-25T14%3A03"
    assert f'href="{url}#access"' in admin_client.get(f"/admin/core/message/?{filters}").content.decode()
    (field,) = re.findall('<input[^>]*name="start"[^>]*>', admin_client.get(url).content.decode())
    assert 'value="2026-11-25T14:03"' in field
    assert 'type="datetime-local"' in field


@pytest.mark.parametrize("field", ["before", "after"])
@pytest.mark.parametrize("cursor", ["x", "é" * 32, "f" + "_" * 31], ids=["short", "not ASCII", "year 250,000"])
def test_invalid_position_reveals_nothing(admin_client: Client, session: Session, field: str, cursor: str) -> None:
    assert read(admin_client, session, **{field: cursor}).status_code == 400
    assert events() == []


@pytest.mark.parametrize("start", ["yesterday", "10/11/26"])
def test_invalid_or_ambiguous_time_reveals_nothing(admin_client: Client, session: Session, start: str) -> None:
    page = read(admin_client, session, start=start).content.decode()
    assert "Enter a valid date/time." in page
    assert "[text" not in page
    assert events() == []


def test_shows_speaker_flag_and_folded_values_and_leaves_out_empty_ones(admin_client: Client, message: Message) -> None:
    message.session.messages.update(role="assistant", contains_phi=False, model="gpt-x", tokens=0)
    Message.objects.create(session=message.session, role="tool", content="", tool_results={"a": [1]})
    response = read(admin_client, message.session)
    text = response.content.decode()
    for expected in ("Assistant", "no PHI", "gpt-x", "0 tokens", CANARY, "Tool results"):
        assert expected in text
    first, second = response.context["entries"]
    assert [value.label for value in first.others] == ["audio URL", "tool calls", "tool results", "metadata"]
    assert second.content is None
    assert [value.text for value in second.others] == ['{\n  "a": [\n    1\n  ]\n}']
    assert [value.label for value in response.context["about"]] == ["title", "context"]
    assert "(empty)" not in text
    Session.objects.update(title="", context={})
    assert read(admin_client, message.session).context["about"] == []
    assert "no-store" in response["Cache-Control"]
    # The link to a message leads back to the messages of this session.
    assert f"_changelist_filters=session__id__exact%3D{message.session_id}" in text


def test_conversation_without_messages_is_recorded_too(admin_client: Client, message: Message) -> None:
    Message.objects.all().delete()
    response = read(admin_client, message.session)
    assert "This conversation has no messages." in response.content.decode()
    assert CANARY in response.content.decode()  # the title
    assert recorded() == [{"reason": [None, RECORDED_REASON]}]


def test_long_values_are_cut(admin_client: Client, message: Message) -> None:
    with connection.cursor() as cursor:
        deep = "[" * 500 + "1" * 10_000 + "]" * 500
        content = "é" * 2_000_000
        cursor.execute("UPDATE messages SET content = %s, metadata = %s::jsonb", [content, deep])
        cursor.execute("UPDATE sessions SET context = %s::jsonb", [deep])
    Message.objects.bulk_create(
        Message(session=message.session, role="tool", tool_calls=[[[]]] * 3_000) for _ in range(4)
    )
    response = read(admin_client, message.session)
    text = response.content.decode()
    assert text.count("Only the first 10000 characters are shown here.") == 2 + 4 + 1
    assert "é" * 10_000 in text
    assert len(text) < 200_000
    assert read(admin_client, message).status_code == 200


def test_indented_json_is_bounded(admin_client: Client, message: Message) -> None:
    """JSON of many short values at a great depth would become 100 times as long."""
    deep = "[" * 99 + ", ".join(["1"] * 2_500) + "]" * 99
    with connection.cursor() as cursor:
        cursor.execute("UPDATE messages SET metadata = %s::jsonb", [deep])
    page = read(admin_client, message.session).content
    assert deep.encode() in page  # not cut
    assert len(page) < 100_000


@pytest.mark.parametrize("missing", ["view_phi", "view_session", "view_message"])
@pytest.mark.parametrize("kind", ["session", "message"])
def test_requires_all_permissions(
    staff_client: Callable[..., Client], message: Message, kind: str, missing: str
) -> None:
    client = staff_client(*({"view_phi", "view_session", "view_message", "view_user"} - {missing}))
    response = read(client, message if kind == "message" else message.session)
    assert response.status_code == 403
    assert CANARY not in response.content.decode()
    assert events() == []
    assert AuditEvent.objects.filter(action="reveal_refused").count() == 1
    other = {"session": "message", "message": "session"}[kind] if missing == f"view_{kind}" else kind
    key = message.pk if other == "message" else message.session_id
    page = client.get(f"/admin/core/{other}/{key}/change/").content.decode()
    assert "Read conversation" not in page


def test_page_takes_the_same_number_of_queries_for_every_conversation(admin_client: Client, session: Session) -> None:
    """tests/core/admin/test_large_tables.py tests how many rows they read."""

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert read(admin_client, session, start="2026-11-25T14:02").status_code == 200
        return len(queries)

    few = count()
    Message.objects.bulk_create(Message(session=session, role="user", content="[text 99]") for _ in range(300))
    assert count() == few
