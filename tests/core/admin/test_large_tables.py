"""The admin's queries on tables much larger than a page: no page counts, sorts or scans a table."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import pytest_django
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from core import deletion
from core.admin import base, changelist
from core.models import AuditEvent, Message, Session, User
from tests.support.databases import migrated_database
from tests.support.plugin import Servers
from tests.support.reveal import REASON

pytestmark = [pytest.mark.django_db, pytest.mark.database_superuser]  # runs ANALYZE

# 30 users, 1,000 sessions, 10,000 messages, audit events and jobs; the first user has a tenth of the sessions.
DATA = """
ALTER TABLE users DISABLE TRIGGER audit;
ALTER TABLE jobs DISABLE TRIGGER audit;
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
INSERT INTO jobs (id, created_at, updated_at, task, arguments, is_scheduled, status, run_after, attempts, done, result,
        error, actor_email, trace_id, reason)
    SELECT md5('j' || i)::uuid, t, t, 'core.tasks.delete_user', json_build_object('user_id', md5('u' || i)::uuid),
        false, 'succeeded', t, 1, 1, '{}', '', '', '', ''
    FROM generate_series(1, 10000) i, LATERAL (SELECT '2026-01-01'::timestamptz + i * interval '6 minutes' AS t) x;
SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE users ENABLE TRIGGER audit;
ALTER TABLE sessions ENABLE TRIGGER audit;
ALTER TABLE jobs ENABLE TRIGGER audit;
ANALYZE users, sessions, messages, audit_events, jobs
"""
MAX_SCANNED_ROWS = 300  # instead of 10,000
MAX_ROWS_PER_STEP = 2 * MAX_SCANNED_ROWS  # of a query plan: the scanned rows, one page and a search's matches

TIMES = "created_at__gte=2026-02-01T00:00:00Z&created_at__lt=2026-03-01T00:00:00Z"
LISTS = {
    "user": (
        "",
        "is_staff__exact=1",
        "q=user1@example.org",
        "q=user1",
        "q=ann 2",
        "q=example",
        "q=nobody",
        "q={user}",
        TIMES,
    ),
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
        "subject_id__exact={user}",
        f"subject_id__exact={{user}}&action__exact=reveal&{TIMES}",
        "session_id__exact={session}",
        "object_id__exact={session}",
        "trace_id__exact=trace-1",
    ),
    "job": (
        "",
        "status__exact=failed",
        "task__exact=core.tasks.export_user",
        "is_scheduled__exact=1",
        "q={user}",
        "q={session}",
        f"status__exact=failed&{TIMES}",
    ),
}


@pytest.fixture(autouse=True, scope="module")
def large_tables(
    servers: Servers, django_db_setup: None, django_db_blocker: pytest_django.DjangoDbBlocker
) -> Iterator[None]:
    """Connect Django to a database with the data, which each test finds as it was, because it is rolled back."""
    url, name = migrated_database(servers.postgres, "large"), connection.settings_dict["NAME"]
    with psycopg.connect(url) as database:
        database.execute(DATA)
    with django_db_blocker.unblock():
        connection.close()
        connection.settings_dict["NAME"] = "large"
        yield
        connection.close()
        connection.settings_dict["NAME"] = name
    servers.postgres.execute("DROP DATABASE large WITH (FORCE)")


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelist, "MAX_SCANNED_ROWS", MAX_SCANNED_ROWS)
    monkeypatch.setattr(base, "MAX_MATCHES", 100)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # the planner prefers scans for tables of this size


def plan_steps(plan: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield the number of rows that each step of a query plan read, and the step's description."""
    counters = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck", "Rows Removed by Join Filter")
    rows = sum(plan.get(key, 0) for key in counters) * plan["Actual Loops"]
    yield int(rows), " ".join(str(plan.get(key, "")) for key in ("Node Type", "Relation Name", "Index Name"))
    for child in plan.get("Plans", ()):
        yield from plan_steps(child)


def open_page(client: Client, page: str) -> tuple[Any, list[str]]:
    """Return the response and the queries that it needed."""
    with CaptureQueriesContext(connection) as queries:
        response = client.get(page)
    assert response.status_code == 200, page
    return response, [query["sql"] for query in queries.captured_queries if query["sql"].startswith("SELECT")]


def queries_of(client: Client, page: str) -> list[str]:
    return open_page(client, page)[1]


def searched(client: Client, page: str) -> str:
    """Return the URL of the page's results. A search that is not for an id redirects to a URL without the term."""
    response = client.get(page) if "q=" in page else None
    return str(response["Location"]) if response and response.status_code == 302 else page


def test_lists_read_a_bounded_number_of_rows(admin_client: Client) -> None:
    user = User.objects.get(email="user1@example.org")
    session = Session.objects.filter(user=user).latest("created_at")
    keys = {"user": user.pk, "session": session.pk, "message": Message.objects.filter(session=session)[0].pk}
    violations = []
    admin_client.get("/admin/core/user/")  # fills the cache of content types
    for model, queries in LISTS.items():
        for query in queries:
            page = searched(admin_client, f"/admin/core/{model}/?{query.format(**keys)}")
            response, queries_of_page = open_page(admin_client, page)
            other_pages = [f"/admin/core/{model}/{url}" for _, url in response.context["cl"].page_links[:1]]
            queries_of_pages = {page: queries_of_page} | {page: queries_of(admin_client, page) for page in other_pages}
            for page, statements in queries_of_pages.items():
                assert len(statements) <= 11, (page, statements)
                for sql in statements:
                    with connection.cursor() as cursor:
                        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
                        plan = cursor.fetchone()[0]
                    plan = json.loads(plan) if isinstance(plan, str) else plan
                    rows, step = max(plan_steps(plan[0]["Plan"]))
                    if rows > MAX_ROWS_PER_STEP or "COUNT(" in sql:
                        violations.append((page, rows, step, sql))
    assert not violations, "\n".join(map(str, violations))


@pytest.mark.parametrize(
    ("query", "uses_time_index"),
    [
        ("", True),
        (TIMES, True),
        ("q=trace-1", False),
        ("trace_id__exact=trace-1", False),
        ("action__exact=create", False),
    ],
)
def test_only_unfiltered_audit_events_use_the_time_index(
    admin_client: Client, query: str, uses_time_index: bool
) -> None:
    """For an actor or a request with many old events, the planner would otherwise scan the trail by time."""
    zero = "'00000000000000000000000000000000'::uuid"
    statements = queries_of(admin_client, searched(admin_client, f"/admin/core/auditevent/?{query}"))
    (page_query,) = (sql for sql in statements if "LIMIT 51" in sql)
    assert (f'"audit_events"."id" > {zero}' in page_query) is uses_time_index


def test_object_pages_read_a_bounded_number_of_rows(admin_client: Client) -> None:
    session = Session.objects.latest("created_at")
    event = AuditEvent.objects.filter(object_id=str(session.pk)).first() or AuditEvent.objects.latest("created_at")
    for row in (session.user, session, Message.objects.filter(session=session)[0], event):
        page = f"/admin/core/{row._meta.model_name}/{row.pk}/change/"
        queries_of(admin_client, page)  # fills the cache of content types
        statements = queries_of(admin_client, page)
        assert len(statements) <= 9, (page, statements)
        with connection.cursor() as cursor:
            for sql in statements:
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
                assert max(plan_steps(cursor.fetchone()[0][0]["Plan"]))[0] <= MAX_ROWS_PER_STEP


def test_page_of_a_long_conversation_reads_a_bounded_number_of_rows(admin_client: Client) -> None:
    session = Session.objects.latest("created_at")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE messages SET session_id = %s, client_message_id = NULL WHERE created_at < '2026-01-03'",
            [session.pk],
        )
        cursor.execute("ANALYZE messages")
    assert Message.objects.filter(session=session).count() > 400
    page = f"/admin/core/session/{session.pk}/read/"
    for start in ("", "2026-01-02T00:00", "2030-01-01T00:00"):
        with CaptureQueriesContext(connection) as queries:
            response = admin_client.post(page, {**REASON, "start": start})
        assert len(response.context["entries"]) == 50
        statements = [query["sql"] for query in queries.captured_queries if query["sql"].startswith("SELECT")]
        with connection.cursor() as cursor:
            for sql in statements:
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
                assert max(plan_steps(cursor.fetchone()[0][0]["Plan"]))[0] <= 51, sql


def test_scan_of_an_unindexed_filter_stops_and_continues(admin_client: Client) -> None:
    match = Message.objects.order_by("-created_at", "-id")[4 * MAX_SCANNED_ROWS + 5]
    Message.objects.filter(pk=match.pk).update(role="tool")
    page = "/admin/core/message/?role__exact=tool"
    for number in range(4):
        response = admin_client.get(page)
        cl = response.context["cl"]
        assert (cl.result_count, bool(cl.scanned_to)) == (0, True)
        text = " ".join(response.content.decode().split())
        assert f"Searched {'' if number else 'the latest '}{MAX_SCANNED_ROWS:,} messages, back to <time" in text
        assert "Use “Older” to keep searching." in text and "No messages found so far." in text
        page = "/admin/core/message/" + dict(cl.page_links)["Older ›"]
    assert [row.pk for row in admin_client.get(page).context["cl"].result_list] == [match.pk]


def test_reports_that_search_matches_are_limited(admin_client: Client) -> None:
    one_per_session = Message.objects.order_by("session_id").distinct("session_id").values_list("pk", flat=True)
    Message.objects.filter(pk__in=list(one_per_session[:200])).update(client_message_id="same")
    response = admin_client.get("/admin/core/message/?q=same", follow=True)
    assert "More than 100 match;" in response.content.decode()


def test_deletes_a_user_with_all_conversations(
    admin_client: Client, admin_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The confirmation page counts the rows, each batch takes a few queries, and every row has an audit event."""
    monkeypatch.setattr(deletion, "_MAX_SESSIONS", 50)
    monkeypatch.setattr(deletion, "_MAX_MESSAGES", 100)
    user = User.objects.get(email="user1@example.org")
    session_count = Session.objects.filter(user=user).count()
    page = f"/admin/core/user/{user.pk}/delete/"
    text = admin_client.get(page).content.decode()
    for expected in (
        "Users: 1<",
        f"Sessions: {session_count:,}<",
        f"Messages: {10 * session_count:,}<",
        "user1@example.org",
    ):
        assert expected in text
    with CaptureQueriesContext(connection) as queries:
        response = admin_client.post(page, {"post": "yes"}, REMOTE_ADDR="192.0.2.7")
    assert response.status_code == 302
    assert len(queries) < 10 * (session_count // 50 + 5)
    assert not Session.objects.filter(user_id=user.pk).exists()
    assert Message.objects.count() == 10_000 - 10 * session_count
    events = AuditEvent.objects.filter(
        action="delete", actor_id=admin_user.pk, address="192.0.2.7", trace_id=response["X-Request-ID"]
    )
    recorded = {table: events.filter(table=table).count() for table in ("users", "sessions", "messages")}
    assert recorded == {"users": 1, "sessions": session_count, "messages": 10 * session_count}
