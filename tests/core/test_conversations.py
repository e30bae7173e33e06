"""Conversations: appends under concurrency, idempotent retries, and pagination by cursor."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.db.models import Model
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core import conversations, deletion
from core.api.error_codes import ErrorCode
from core.api.exceptions import ApiError
from core.conversations import append_message, read_messages
from core.cursor_pagination import after_cursor, cursor_of, decode_cursor, encode_cursor, ordering
from core.models import AuditEvent, Message, Session, User
from core.phi import stored_fields

pytestmark = pytest.mark.django_db
concurrent = pytest.mark.django_db(transaction=True)


@pytest.fixture
def session() -> Session:
    return Session.objects.create(user=User.objects.create_user("ann@example.org"))


def error_code(call: Callable[[], Any]) -> ErrorCode:
    with pytest.raises(ApiError) as raised:
        call()
    code: ErrorCode = raised.value.code
    return code


def counts(session: Session) -> tuple[int, int]:
    """Return the session's `message_count` and the actual number of its messages."""
    session.refresh_from_db()
    return session.message_count, session.messages.count()


def run_concurrently(number: int, call: Callable[[int], Any]) -> list[Any]:
    """Call `call` at the same moment in `number` threads. Return what each call returned or raised."""
    ready = threading.Barrier(number)

    def run(index: int) -> Any:
        try:
            ready.wait(10)
            return call(index)
        except Exception as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


# Appending


class _FailedAppends:
    """An execute wrapper that makes PostgreSQL fail the next `times` appends with `sqlstate`."""

    def __init__(self, sqlstate: str, times: int) -> None:
        self.sqlstate, self.times = sqlstate, times

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if self.times and sql.lstrip().startswith("WITH locked_session"):
            self.times -= 1
            sql = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{self.sqlstate}'; END $$"
            params = None
        return execute(sql, params, many, context)


@concurrent
@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_retries_after_postgresql_rolled_the_transaction_back(session: Session, sqlstate: str) -> None:
    with connection.execute_wrapper(_FailedAppends(sqlstate, 2)):
        append_message(session.pk, role="user")
    assert counts(session) == (1, 1)
    with connection.execute_wrapper(_FailedAppends(sqlstate, 3)), pytest.raises(OperationalError):
        append_message(session.pk, role="user")
    assert counts(session) == (1, 1)


@concurrent
def test_does_not_retry_inside_the_callers_transaction(session: Session) -> None:
    with pytest.raises(OperationalError), transaction.atomic(), connection.execute_wrapper(_FailedAppends("40001", 1)):
        append_message(session.pk, role="user")
    assert counts(session) == (0, 0)


@concurrent
def test_raises_an_integrity_error_that_is_not_of_the_id(session: Session) -> None:
    failures = _FailedAppends("23514", 5)
    with connection.execute_wrapper(failures), pytest.raises(IntegrityError):
        append_message(session.pk, role="user", client_message_id="1")
    assert failures.times == 2
    assert counts(session) == (0, 0)


@concurrent
def test_does_not_retry_other_errors(session: Session) -> None:
    failures = _FailedAppends("57014", 2)
    with connection.execute_wrapper(failures), pytest.raises(OperationalError):
        append_message(session.pk, role="user")
    assert failures.times == 1


VALUES: dict[str, Any] = {
    "role": "assistant",
    "content": "Ruhe, Schmerz 7/10 😷",
    "client_message_id": "c-1",
    "audio_url": "https://audio.example.org/1",
    "model": "m",
    "tokens": 7,
    "tool_calls": [{"name": "dose"}],
    "tool_results": {"mg": 5},
    "metadata": {"device": "ward"},
    "contains_phi": False,
}


def columns(row: Model) -> dict[str, Any]:
    return {field.attname: getattr(row, field.attname) for field in stored_fields(type(row))}


def test_stores_and_returns_every_field(session: Session) -> None:
    message = append_message(session.pk, **VALUES)
    stored = columns(Message.objects.get(pk=message.pk))
    assert stored == {
        **VALUES,
        "id": message.pk,
        "session_id": session.pk,
        "created_at": message.created_at,
        "updated_at": message.created_at,
    }
    assert columns(message) == columns(append_message(session.pk, **VALUES)) == stored  # the second one is a retry
    assert counts(session) == (1, 1)
    assert session.updated_at == stored["created_at"]
    message.content = "changed"
    message.save()  # updates the row
    assert Message.objects.get().content == "changed"


def test_stores_the_defaults_of_what_is_not_given(session: Session) -> None:
    stored = columns(Message.objects.get(pk=append_message(session.pk, role="user").pk))
    values: dict[str, Any] = {
        "role": "user",
        "content": "",
        "client_message_id": None,
        "audio_url": "",
        "model": "",
        "tokens": None,
        "tool_calls": None,
        "tool_results": None,
        "metadata": {},
        "contains_phi": True,  # until it has been classified
    }
    assert {name: stored[name] for name in VALUES} == values


def test_returned_session_is_the_stored_one(session: Session) -> None:
    changes: tuple[Callable[[], Session], ...] = (
        lambda: conversations.archive_session(session.pk),
        lambda: conversations.archive_session(session.pk, archived=False),
        lambda: conversations.end_session(session.pk),
    )
    for change in changes:
        before = Session.objects.get().updated_at
        returned = columns(change())
        assert returned == columns(Session.objects.get())
        assert returned["updated_at"] > before


def test_append_uses_one_statement_and_a_savepoint(session: Session) -> None:
    for _ in range(3):
        with CaptureQueriesContext(connection) as queries:
            append_message(session.pk, role="user", content="x")
        statements = [query["sql"].split()[0] for query in queries]
        assert statements == ["SAVEPOINT", "WITH", "RELEASE"]


@concurrent
def test_append_outside_of_a_transaction_is_one_statement(session: Session) -> None:
    with CaptureQueriesContext(connection) as queries:
        append_message(session.pk, role="user", content="x")
    assert [query["sql"].split()[0] for query in queries] == ["WITH"]


def test_times_increase_even_if_the_clock_is_behind(session: Session) -> None:
    ahead = timezone.now() + timedelta(hours=1)
    Session.objects.filter(pk=session.pk).update(updated_at=ahead)
    times = [append_message(session.pk, role="user", content=str(n)).created_at for n in range(3)]
    assert [ahead, *times] == sorted({ahead, *times})
    assert [message.content for message in read_messages(session.pk, newest_first=False).messages] == ["0", "1", "2"]


def test_ended_session_accepts_only_retries(session: Session) -> None:
    append_message(session.pk, role="user", content="a", client_message_id="a")
    conversations.end_session(session.pk)
    assert error_code(lambda: append_message(session.pk, role="user", content="b")) is ErrorCode.CONFLICT
    assert append_message(session.pk, role="user", content="a", client_message_id="a").content == "a"
    assert counts(session) == (1, 1)


def test_ended_session_refuses_a_message_that_equals_a_stored_one(session: Session) -> None:
    """Without a `client_message_id` it is another message, which must not look as if it were stored."""
    append_message(session.pk, role="user", content="a")
    conversations.end_session(session.pk)
    assert error_code(lambda: append_message(session.pk, role="user", content="a")) is ErrorCode.CONFLICT


def test_refusal_says_what_to_do(session: Session) -> None:
    User.objects.update(is_active=False)
    with pytest.raises(ApiError, match="The user of this session is deactivated"):
        append_message(session.pk, role="user")
    conversations.end_session(session.pk)
    with pytest.raises(ApiError, match="The session has ended"):
        append_message(session.pk, role="user")


@pytest.mark.parametrize("is_ended", [False, True])
def test_append_to_missing_session_is_not_found(session: Session, is_ended: bool) -> None:
    if is_ended:
        conversations.end_session(session.pk)
    assert error_code(lambda: append_message(uuid4(), role="user")) is ErrorCode.NOT_FOUND


def test_raises_an_error_of_the_connection_unchanged(session: Session) -> None:
    def lose_connection(*args: Any) -> None:
        raise OperationalError("no response")

    with connection.execute_wrapper(lose_connection), pytest.raises(OperationalError, match="no response"):
        append_message(session.pk, role="user")


@concurrent
def test_reports_values_that_are_too_large_for_postgresql(session: Session) -> None:
    """PostgreSQL raises this for a JSON string of more than 256 MB."""
    with connection.execute_wrapper(_FailedAppends("54000", 1)):
        assert error_code(lambda: append_message(session.pk, role="user")) is ErrorCode.VALIDATION_ERROR


# Retries


def test_retry_returns_the_stored_message_and_changes_nothing(session: Session) -> None:
    values: dict[str, Any] = {"role": "user", "content": "a", "client_message_id": "1", "tool_calls": ({"n": 1.0},)}
    first = append_message(session.pk, **values)
    session.refresh_from_db()
    updated_at = session.updated_at
    retried = append_message(session.pk, **values)
    assert (retried.pk, retried.created_at) == (first.pk, first.created_at)
    assert counts(session) == (1, 1)
    assert session.updated_at == updated_at


def test_retry_of_an_earlier_message_returns_it(session: Session) -> None:
    first, second = (append_message(session.pk, role="user", client_message_id=key) for key in "12")
    assert append_message(session.pk, role="user", client_message_id="1").pk == first.pk
    assert append_message(session.pk, role="user", client_message_id="2").pk == second.pk


def test_ended_session_returns_no_message_of_another(session: Session) -> None:
    other = Session.objects.create(user=session.user)
    conversations.end_session(other.pk)
    append_message(session.pk, role="user", client_message_id="1")
    with pytest.raises(ApiError, match="The session has ended"):
        append_message(other.pk, role="user", client_message_id="1")


def test_retry_waits_for_the_standby(session: Session) -> None:
    """The message may be visible although the standby has not confirmed it."""
    append_message(session.pk, role="user", client_message_id="1")
    with CaptureQueriesContext(connection) as queries:
        append_message(session.pk, role="user", client_message_id="1")
    assert "pg_logical_emit_message(true, " in queries[-1]["sql"]


def test_same_id_in_another_session_is_another_message(session: Session) -> None:
    other = Session.objects.create(user=session.user)
    ids = {append_message(s.pk, role="user", client_message_id="1").pk for s in (session, other)}
    assert len(ids) == 2


@concurrent
def test_concurrent_retries_store_one_message(session: Session) -> None:
    keys = run_concurrently(
        12, lambda _: append_message(session.pk, role="user", content="a", client_message_id="1").pk
    )
    assert len(set(keys)) == 1
    assert isinstance(keys[0], UUID)
    assert counts(session) == (1, 1)


@concurrent
def test_concurrent_appends_are_counted_and_ordered(session: Session) -> None:
    results = run_concurrently(
        8, lambda n: [append_message(session.pk, role="user", content=f"{n}.{i}") for i in range(10)]
    )
    assert Counter(len(result) for result in results) == {10: 8}
    assert counts(session) == (80, 80)
    times = Message.objects.values_list("created_at", flat=True).order_by("created_at", "id")
    assert len(set(times)) == 80
    assert session.updated_at == max(times)
    for number in range(8):  # the messages of each thread are in the order in which it appended them
        messages = Message.objects.filter(content__startswith=f"{number}.").order_by("created_at")
        assert [message.content for message in messages] == [f"{number}.{i}" for i in range(10)]


@concurrent
def test_pagination_during_appends_misses_no_message(session: Session) -> None:
    """Messages become visible in the order of their times, even if a slow transaction started before a fast one."""
    append_message(session.pk, role="user", content="first")
    cursor = cursor_of(Message.objects.get())
    seen: list[str] = []

    def write(number: int) -> None:
        for index in range(20):
            append_message(session.pk, role="user", content=f"{number}.{index}")
        connections.close_all()

    writers = ThreadPoolExecutor(4)
    futures = [writers.submit(write, number) for number in range(4)]
    while len(seen) < 80:
        all_written = all(future.done() for future in futures)
        page = read_messages(session.pk, newest_first=False, cursor=cursor)
        seen += [message.content for message in page.messages]
        cursor = cursor_of(page.messages[-1]) if page.messages else cursor
        assert page.messages or not all_written, f"{len(seen)} of 80"
    assert len(set(seen)) == 80
    writers.shutdown()


@concurrent
def test_end_session_during_concurrent_appends(session: Session) -> None:
    def end_or_append(number: int) -> Any:
        if number == 0:
            return conversations.end_session(session.pk)
        return append_message(session.pk, role="user", content=str(number))

    results = run_concurrently(8, end_or_append)
    stored = [result for result in results if isinstance(result, Message)]
    assert all(isinstance(r, (Message, Session)) or r.code is ErrorCode.CONFLICT for r in results), results
    assert counts(session) == (len(stored), len(stored))
    assert all(message.created_at <= session.updated_at for message in stored)


@concurrent
def test_rolled_back_append_leaves_nothing(session: Session) -> None:
    class Rollback(Exception):
        pass

    with pytest.raises(Rollback), transaction.atomic():
        append_message(session.pk, role="user", content="a")
        raise Rollback
    assert counts(session) == (0, 0)


# Reading


@pytest.fixture
def ten_contents(session: Session) -> list[str]:
    """Add ten messages, some of which share a time, as imported ones may. Return their contents in order."""
    now = timezone.now()
    for number in range(10):
        created_at = now + timedelta(seconds=number // 3)
        Message.objects.create(session=session, role="user", content=str(number), created_at=created_at)
    other = Session.objects.create(user=session.user)
    append_message(other.pk, role="user", content="of another session")
    return [str(number) for number in range(10)]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 9, 10, 200])
def test_pages_return_every_message_once_in_order(
    session: Session, ten_contents: list[str], newest_first: bool, limit: int
) -> None:
    seen: list[str] = []
    cursor = None
    while True:
        with CaptureQueriesContext(connection) as queries:
            page = read_messages(session.pk, newest_first=newest_first, cursor=cursor, limit=limit)
        assert len(queries) == 1
        assert 0 < len(page.messages) <= limit
        seen += [message.content for message in page.messages]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == (ten_contents[::-1] if newest_first else ten_contents)


def test_page_has_the_50_newest_messages_unless_asked_otherwise(session: Session) -> None:
    rows = [Message(session=session, role="user", content=str(number)) for number in range(51)]
    Message.objects.bulk_create(rows)
    page = read_messages(session.pk)
    assert [message.content for message in page.messages] == [str(number) for number in range(50, 0, -1)]
    assert page.next_cursor == cursor_of(page.messages[-1])


def test_empty_session_has_an_empty_page(session: Session) -> None:
    assert read_messages(session.pk) == conversations.Page([], None)


def test_read_of_missing_session_is_not_found(session: Session) -> None:
    assert error_code(lambda: read_messages(uuid4())) is ErrorCode.NOT_FOUND


def test_page_is_one_query_for_one_row_more(session: Session, ten_contents: list[str]) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert len(read_messages(session.pk, limit=4).messages) == 4
    (query,) = queries
    assert query["sql"].endswith(" LIMIT 5")


def test_page_after_the_last_message_is_one_query(session: Session) -> None:
    last = append_message(session.pk, role="user")
    cursor = cursor_of(last)
    with CaptureQueriesContext(connection) as queries:
        assert read_messages(session.pk, cursor=cursor) == conversations.Page([], None)
    assert len(queries) == 1


@pytest.mark.parametrize("limit", [0, -1, 201])
def test_rejects_invalid_limit(session: Session, limit: int) -> None:
    assert error_code(lambda: read_messages(session.pk, limit=limit)) is ErrorCode.VALIDATION_ERROR


@pytest.mark.parametrize("cursor", ["", "x", "ä" * 32, "A" * 31, "A" * 33, "-" * 32, "A" * 32 + "\n", "\x00"])
def test_rejects_invalid_cursor(session: Session, ten_contents: list[str], cursor: str) -> None:
    assert error_code(lambda: read_messages(session.pk, cursor=cursor)) is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("letter", ["A", "_"])
def test_cursor_of_no_row_is_valid(session: Session, ten_contents: list[str], letter: str) -> None:
    """The times are 1970 and a microsecond earlier, before all messages."""
    assert read_messages(session.pk, cursor=letter * 32).messages == []


def test_cursors_stay_valid_when_the_release_changes() -> None:
    """Clients keep them, and pages of the admin that are open."""
    time, key = datetime(2026, 1, 15, 12, 34, 56, 789, tzinfo=UTC), UUID("0198c000-fbff-7000-bfff-0123456789ab")
    for cursor, row in {
        "AAZIbHPBnxUBmMAA-_9wAL__ASNFZ4mr": (time, key),
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA": (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0)),
    }.items():
        assert (encode_cursor(*row), decode_cursor(cursor)) == (cursor, row)


@pytest.mark.database_superuser  # for ANALYZE
def test_deep_page_uses_the_cursor_as_index_condition(session: Session, ten_contents: list[str]) -> None:
    # Without other messages and statistics about them, every index is equally good.
    other = Session.objects.exclude(pk=session.pk)[0]
    Message.objects.bulk_create(Message(session=other, role="user") for _ in range(1000))
    page = read_messages(session.pk, limit=3)
    assert page.next_cursor
    rows = Message.objects.filter(after_cursor(Message, page.next_cursor, True), session_id=session.pk)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE messages")
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_sort = off")
    plan = rows.order_by(*ordering(True))[:4].explain()
    assert "messages_session_time" in plan
    index_condition = next(line for line in plan.splitlines() if "Index Cond" in line)
    assert "created_at" in index_condition, plan


# Ending, archiving, deleting


def test_end_session(session: Session) -> None:
    ended = conversations.end_session(session.pk)
    assert ended.ended_at is not None and ended.ended_at >= session.created_at
    assert conversations.end_session(session.pk).ended_at == ended.ended_at
    assert error_code(lambda: conversations.end_session(uuid4())) is ErrorCode.NOT_FOUND


def test_end_session_created_in_the_future(session: Session) -> None:
    ahead = timezone.now() + timedelta(hours=1)
    Session.objects.filter(pk=session.pk).update(created_at=ahead)
    assert conversations.end_session(session.pk).ended_at == ahead


def test_archive_and_unarchive(session: Session) -> None:
    archived = conversations.archive_session(session.pk)
    assert archived.is_archived
    archived_twice = conversations.archive_session(session.pk)
    assert archived_twice.updated_at == archived.updated_at
    append_message(session.pk, role="user", content="still open")
    assert not conversations.archive_session(session.pk, archived=False).is_archived
    assert error_code(lambda: conversations.archive_session(uuid4())) is ErrorCode.NOT_FOUND


def test_delete_messages_updates_message_count(session: Session) -> None:
    for number in range(5):
        append_message(session.pk, role="user", content=str(number))
    deletion.delete_messages(Message.objects.filter(content__in=("1", "2")))
    assert counts(session) == (3, 3)


def test_delete_messages_never_decreases_the_time_of_the_session(session: Session) -> None:
    message = append_message(session.pk, role="user")
    imported = Message.objects.create(session=session, role="user")  # never counted
    before = Session.objects.get().updated_at
    deletion.delete_messages(Message.objects.filter(pk=message.pk))
    assert counts(session) == (0, 1)
    assert session.updated_at > before
    ahead = timezone.now() + timedelta(hours=1)
    Session.objects.update(updated_at=ahead)
    deletion.delete_messages(Message.objects.filter(pk=imported.pk))
    assert counts(session) == (0, 0)
    assert session.updated_at == ahead


def test_delete_user_deletes_conversations_and_keeps_audit_events(session: Session) -> None:
    for _ in range(3):
        append_message(session.pk, role="user", content="x")
    user, key = session.user, str(session.user.pk)
    with CaptureQueriesContext(connection) as queries:
        deletion.delete_user(user)
    assert not any('"messages"."content"' in query["sql"] for query in queries)  # no message was loaded
    assert not (User.objects.exists() or Session.objects.exists() or Message.objects.exists())
    assert {event.action for event in AuditEvent.objects.filter(object_id=key)} == {"create", "delete"}
    assert AuditEvent.objects.filter(table="messages", action="delete").count() == 3


@concurrent
def test_delete_user_during_concurrent_appends(session: Session) -> None:
    user = session.user

    def delete_or_append(number: int) -> Any:
        if number == 0:
            return deletion.delete_user(User.objects.get(pk=user.pk))
        return [append_message(session.pk, role="user", content=str(number)) for _ in range(20)]

    results = run_concurrently(6, delete_or_append)
    assert results[0] is None
    assert all(isinstance(r, list) or r.code is ErrorCode.NOT_FOUND for r in results[1:]), results
    assert not (User.objects.exists() or Session.objects.exists() or Message.objects.exists())
