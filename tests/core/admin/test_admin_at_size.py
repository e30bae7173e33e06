"""The admin over tables that are large for what a page may read: no page counts, sorts or scans one."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from core import deletion
from core.admin import base, changelist
from core.models import AuditEvent, Message, Session, User

pytestmark = pytest.mark.django_db

# 30 users, 1,000 sessions, 10,000 messages, 10,000 audit events; the first user has a tenth of the sessions.
DATA = """
ALTER TABLE users DISABLE TRIGGER audit;
ALTER TABLE sessions DISABLE TRIGGER audit;
INSERT INTO users (id, created_at, updated_at, password, email, full_name, specialty, is_active, is_staff, is_superuser)
    SELECT md5('u' || i)::uuid, t, t, '', 'user' || i || '@example.org', 'Ann ' || i, '', true, false, false
    FROM generate_series(1, 30) i, LATERAL (SELECT '2026-01-01'::timestamptz + i * interval '1 hour' AS t) x;
INSERT INTO sessions (id, created_at, updated_at, user_id, title, mode, is_archived, context, message_count)
    SELECT md5('s' || i)::uuid, t, t, md5('u' || CASE WHEN i % 10 = 0 THEN 1 ELSE 2 + i % 29 END)::uuid,
        '', 'text', false, '{}', 10
    FROM generate_series(1, 1000) i, LATERAL (SELECT '2026-01-01'::timestamptz + i * interval '1 hour' AS t) x;
INSERT INTO messages (id, created_at, updated_at, session_id, role, content, audio_url, model, metadata, contains_phi,
        client_message_id)
    SELECT md5('m' || i)::uuid, t, t, md5('s' || 1 + i / 10)::uuid, 'user', 'x', '', '', '{}', true, 'c-' || i % 2500
    FROM generate_series(0, 9999) i, LATERAL (SELECT '2026-01-01'::timestamptz + i * interval '6 minutes' AS t) x;
INSERT INTO audit_events (id, created_at, action, "table", object_id, actor_id, actor_email, address, trace_id, changes)
    SELECT md5('a' || i)::uuid, t, 'change', 'sessions', md5('s' || i % 20)::uuid, md5('u' || i % 20)::uuid,
        'user' || i % 20 || '@example.org', ('192.0.2.' || i % 20)::inet, 'trace-' || i % 20, '{}'
    FROM generate_series(1, 10000) i, LATERAL (SELECT '2026-01-01'::timestamptz + i * interval '6 minutes' AS t) x;
SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE users ENABLE TRIGGER audit;
ALTER TABLE sessions ENABLE TRIGGER audit;
ANALYZE users, sessions, messages, audit_events;
SET LOCAL enable_seqscan = off  -- tables of this size are rather scanned; of those that matter, none
"""
LOOKED_AT = 300  # rows in the place of 10,000
MOST = 2 * LOOKED_AT  # rows that a step of a plan may touch: those that are looked at, a page, a search's

TIMES = "created_at__gte=2026-02-01T00:00:00Z&created_at__lt=2026-03-01T00:00:00Z"
LISTS = {
    "user": ("", "is_staff__exact=1", "q=user1@example.org", "q=user1", "q=ann 2", "q=nobody", "q={user}", TIMES),
    "session": (
        "",
        "mode__exact=voice",
        "is_archived__exact=1&mode__exact=voice",
        "q={session}",
        "q={user}",
        "q=user1@example.org",
        "user__id__exact={user}",
        "user__id__exact={user}&mode__exact=voice",
        f"user__id__exact={{user}}&{TIMES}",
        f"q=user1@example.org&mode__exact=voice&{TIMES}",
        "created_at__year=2026&created_at__month=2",
    ),
    "message": (
        "",
        "role__exact=tool",
        "contains_phi__exact=0",
        f"role__exact=tool&{TIMES}",
        "q={message}",
        "q={session}",
        "q=c-77",
        "q=user1@example.org",
        "q=nothing",
        "session__id__exact={session}",
        f"session__id__exact={{session}}&role__exact=tool&{TIMES}",
        "created_at__year=2026&created_at__month=2&created_at__day=3",
        TIMES,
    ),
    "auditevent": (
        "",
        "action__exact=reveal",
        "action__exact=change",
        f"action__exact=change&{TIMES}",
        "q={session}",
        "q={user}",
        "q=user1@example.org",
        "q=gone@example.org",
        "q=192.0.2.1",
        "q=trace-1",
        "q=nothing",
        f"q=user1@example.org&action__exact=reveal&{TIMES}",
        "actor_id__exact={user}&action__exact=reveal",
        "object_id__exact={session}",
        "trace_id__exact=trace-1",
    ),
}


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelist, "MAX_SCANNED_ROWS", LOOKED_AT)
    monkeypatch.setattr(base, "MAX_MATCHES", 100)
    with connection.cursor() as cursor:
        cursor.execute(DATA)


def steps(plan: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Yields how many rows each step of a plan touched, and what it did."""
    touched = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck", "Rows Removed by Join Filter")
    rows = sum(plan.get(key, 0) for key in touched) * plan["Actual Loops"]
    yield int(rows), " ".join(str(plan.get(key, "")) for key in ("Node Type", "Relation Name", "Index Name"))
    for below in plan.get("Plans", ()):
        yield from steps(below)


def asked(client: Client, page: str) -> list[str]:
    """Returns the page's queries."""
    with CaptureQueriesContext(
        connection,
    ) as queries:
        response = client.get(page)
    assert response.status_code == 200, page
    return [query["sql"] for query in queries.captured_queries if query["sql"].startswith("SELECT")]


def test_no_list_reads_more_than_its_page(admin_client: Client) -> None:
    user = User.objects.get(email="user1@example.org")
    session = Session.objects.filter(user=user).latest("created_at")
    keys = {"user": user.pk, "session": session.pk, "message": Message.objects.filter(session=session)[0].pk}
    offenders = []
    for model, queries in LISTS.items():
        for query in queries:
            page = f"/admin/core/{model}/?{query.format(**keys)}"
            response = admin_client.get(page)
            pages = [page, *(f"/admin/core/{model}/{address}" for _, address in response.context["cl"].links[:1])]
            for page in pages:
                statements = asked(admin_client, page)
                assert len(statements) <= 9, (page, statements)
                for sql in statements:
                    with connection.cursor() as cursor:
                        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
                        plan = cursor.fetchone()[0]
                    plan = json.loads(plan) if isinstance(plan, str) else plan
                    worst, what = max(steps(plan[0]["Plan"]))
                    if worst > MOST or "COUNT(" in sql:
                        offenders.append((page, worst, what, sql))
    assert not offenders, "\n".join(map(str, offenders))


@pytest.mark.parametrize(
    ("query", "by_time"),
    [
        ("", True),
        (TIMES, True),
        ("q=trace-1", False),
        ("trace_id__exact=trace-1", False),
        ("action__exact=create", False),
    ],
)
def test_only_a_list_of_all_events_goes_by_the_index_on_time(admin_client: Client, query: str, by_time: bool) -> None:
    """By it the planner would walk through the trail to find what a request did long ago, if that was much."""
    zero = "'00000000000000000000000000000000'::uuid"
    statements = asked(admin_client, f"/admin/core/auditevent/?{query}")
    (rows,) = (sql for sql in statements if "LIMIT 51" in sql)
    assert (f'"audit_events"."id" > {zero}' in rows) is by_time


def test_object_pages_ask_little(admin_client: Client) -> None:
    session = Session.objects.latest("created_at")
    event = AuditEvent.objects.filter(object_id=str(session.pk)).first() or AuditEvent.objects.latest("created_at")
    for row in (session.user, session, Message.objects.filter(session=session)[0], event):
        page = f"/admin/core/{row._meta.model_name}/{row.pk}/change/"
        statements = asked(admin_client, page)
        assert len(statements) <= 7, (page, statements)
        with connection.cursor() as cursor:
            for sql in statements:
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
                assert max(steps(cursor.fetchone()[0][0]["Plan"]))[0] <= MOST


def test_a_filter_without_an_index_says_how_far_it_looked_and_goes_on(admin_client: Client) -> None:
    far = Message.objects.order_by("-created_at", "-id")[4 * LOOKED_AT + 5]
    Message.objects.filter(pk=far.pk).update(role="tool")
    page = "/admin/core/message/?role__exact=tool"
    for _ in range(4):
        response = admin_client.get(page)
        cl = response.context["cl"]
        assert (cl.result_count, bool(cl.looked_back_to)) == (0, True)
        assert "no index" in response.content.decode()
        page = "/admin/core/message/" + dict(cl.links)["Older ›"]
    assert [row.pk for row in admin_client.get(page).context["cl"].result_list] == [far.pk]


def test_a_search_that_would_find_too_many_says_so(admin_client: Client) -> None:
    one_of_each = Message.objects.order_by("session_id").distinct("session_id").values_list("pk", flat=True)
    Message.objects.filter(pk__in=list(one_of_each[:200])).update(client_message_id="same")
    response = admin_client.get("/admin/core/message/?q=same")
    assert "More than 100 match" in response.content.decode()


def test_deleting_a_user_with_everything(
    admin_client: Client, admin_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of all: counted before; deleted by a few statements a batch; every row on the record."""
    monkeypatch.setattr(deletion, "_MAX_SESSIONS", 50)
    monkeypatch.setattr(deletion, "_MAX_MESSAGES", 100)
    user = User.objects.get(email="user1@example.org")
    mine = Session.objects.filter(user=user).count()
    page = f"/admin/core/user/{user.pk}/delete/"
    text = admin_client.get(page).content.decode()
    for said in ("Users: 1<", f"Sessions: {mine:,}<", f"Messages: {10 * mine:,}<", "user1@example.org"):
        assert said in text
    with CaptureQueriesContext(connection) as queries:
        response = admin_client.post(page, {"post": "yes"}, REMOTE_ADDR="192.0.2.7")
    assert response.status_code == 302
    assert len(queries) < 10 * (mine // 50 + 5)
    assert not Session.objects.filter(user_id=user.pk).exists()
    assert Message.objects.count() == 10_000 - 10 * mine
    events = AuditEvent.objects.filter(
        action="delete", actor_id=admin_user.pk, address="192.0.2.7", trace_id=response["X-Request-ID"]
    )
    told = {table: events.filter(table=table).count() for table in ("users", "sessions", "messages")}
    assert told == {"users": 1, "sessions": mine, "messages": 10 * mine}
