"""Writing and reading conversations: right under concurrency, once however often it is sent, by cursor however deep."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core import conversations, deletion
from core.api.error_codes import ErrorCode
from core.api.exceptions import ApiError
from core.conversations import append_message, read_messages
from core.cursor_pagination import after_cursor, cursor_of, decode_cursor, encode_cursor, ordering
from core.models import AuditEvent, Message, Session, User

pytestmark = pytest.mark.django_db
at_once = pytest.mark.django_db(transaction=True)


@pytest.fixture
def session() -> Session:
    return Session.objects.create(user=User.objects.create_user("ann@example.org"))


def refused(call: Callable[[], Any]) -> ErrorCode:
    with pytest.raises(ApiError) as raised:
        call()
    code: ErrorCode = raised.value.code
    return code


def state(session: Session) -> tuple[int, int]:
    """Returns what the session says of its messages' number, and how many there are."""
    session.refresh_from_db()
    return session.message_count, session.messages.count()


def in_threads(number: int, call: Callable[[int], Any]) -> list[Any]:
    """Calls it in so many threads at the same moment. Returns what each returned or raised."""
    ready = threading.Barrier(number)

    def one(index: int) -> Any:
        try:
            ready.wait(10)
            return call(index)
        except Exception as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


# Appending


class _Refusing:
    """Makes PostgreSQL end the next statements with this SQLSTATE, as it does with a transaction that met another."""

    def __init__(self, sqlstate: str, times: int) -> None:
        self.sqlstate, self.times = sqlstate, times

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if self.times and sql.lstrip().startswith("WITH locked_session"):
            self.times -= 1
            sql = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{self.sqlstate}'; END $$"
            params = None
        return execute(sql, params, many, context)


@at_once
@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_what_postgresql_rolled_back_is_tried_again(session: Session, sqlstate: str) -> None:
    with connection.execute_wrapper(_Refusing(sqlstate, 2)):
        append_message(session.pk, role="user")
    assert state(session) == (1, 1)
    with connection.execute_wrapper(_Refusing(sqlstate, 3)), pytest.raises(OperationalError):
        append_message(session.pk, role="user")
    assert state(session) == (1, 1)


@at_once
def test_only_the_caller_of_a_transaction_can_run_it_again(session: Session) -> None:
    with pytest.raises(OperationalError), transaction.atomic(), connection.execute_wrapper(_Refusing("40001", 1)):
        append_message(session.pk, role="user")
    assert state(session) == (0, 0)


@at_once
def test_another_error_is_not_tried_again(session: Session) -> None:
    refusing = _Refusing("57014", 2)
    with connection.execute_wrapper(refusing), pytest.raises(OperationalError):
        append_message(session.pk, role="user")
    assert refusing.times == 1


def test_a_message_is_stored_whole(session: Session) -> None:
    given = {
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
    message = append_message(session.pk, **given)  # type: ignore[arg-type]
    stored = Message.objects.get(pk=message.pk)
    assert {name: getattr(stored, name) for name in given} == given
    assert state(session) == (1, 1)
    assert session.updated_at == stored.created_at


def test_appending_takes_a_constant_number_of_queries(session: Session) -> None:
    for _ in range(3):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            append_message(session.pk, role="user", content="x")
        statements = [query["sql"].split()[0] for query in queries]
        assert statements == ["SAVEPOINT", "WITH", "RELEASE"]


def test_times_rise_even_if_the_clock_does_not(session: Session) -> None:
    ahead = timezone.now() + timedelta(hours=1)
    Session.objects.filter(pk=session.pk).update(updated_at=ahead)
    times = [append_message(session.pk, role="user", content=str(n)).created_at for n in range(3)]
    assert [ahead, *times] == sorted({ahead, *times})
    assert [message.content for message in read_messages(session.pk, newest_first=False).messages] == ["0", "1", "2"]


def test_an_ended_session_takes_no_more(session: Session) -> None:
    append_message(session.pk, role="user", content="a", client_message_id="a")
    conversations.end_session(session.pk)
    assert refused(lambda: append_message(session.pk, role="user", content="b")) is ErrorCode.CONFLICT
    assert append_message(session.pk, role="user", content="a", client_message_id="a").content == "a"
    assert state(session) == (1, 1)


def test_without_a_session() -> None:
    assert refused(lambda: append_message(uuid4(), role="user")) is ErrorCode.NOT_FOUND


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "doctor"},
        {"role": ""},
        {"tokens": -1},
        {"tokens": 2**31},
        {"client_message_id": ""},
        {"client_message_id": "x" * 300},
        {"model": "x" * 300},
        {"content": "nul \x00"},
        {"content": "half \ud83d"},
        {"metadata": {"x": float("nan")}},
        {"metadata": {"x": "\x00"}},
    ],
)
def test_what_can_not_be_stored_is_refused_and_not_quoted(session: Session, wrong: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as raised:
        append_message(session.pk, **{"role": "user", **wrong})
    assert raised.value.code is ErrorCode.VALIDATION_ERROR
    for value in wrong.values():
        assert not value or str(value) not in str(raised.value.details) + str(raised.value)
    assert state(session) == (0, 0)


# Sent again


def test_a_retry_returns_what_was_stored_and_changes_nothing(session: Session) -> None:
    sent: dict[str, Any] = {"role": "user", "content": "a", "client_message_id": "1", "tool_calls": ({"n": 1.0},)}
    first = append_message(session.pk, **sent)
    session.refresh_from_db()
    before = session.updated_at
    again = append_message(session.pk, **sent)
    assert (again.pk, again.created_at) == (first.pk, first.created_at)
    assert state(session) == (1, 1)
    assert session.updated_at == before


@pytest.mark.parametrize("other", [{"content": "b"}, {"role": "tool"}, {"metadata": {"a": 1}}, {"contains_phi": False}])
def test_the_same_id_with_other_content_is_a_conflict(session: Session, other: dict[str, Any]) -> None:
    sent = {"role": "user", "content": "a", "client_message_id": "1"}
    append_message(session.pk, **sent)  # type: ignore[arg-type]
    assert refused(lambda: append_message(session.pk, **{**sent, **other})) is ErrorCode.CONFLICT
    assert state(session) == (1, 1)


def test_the_same_id_in_another_session_is_another_message(session: Session) -> None:
    other = Session.objects.create(user=session.user)
    ids = {append_message(s.pk, role="user", client_message_id="1").pk for s in (session, other)}
    assert len(ids) == 2


@at_once
def test_the_same_message_by_many_at_once(session: Session) -> None:
    found = in_threads(12, lambda _: append_message(session.pk, role="user", content="a", client_message_id="1").pk)
    assert len(set(found)) == 1
    assert isinstance(found[0], UUID)
    assert state(session) == (1, 1)


@at_once
def test_many_at_once_are_all_counted_and_in_order(session: Session) -> None:
    found = in_threads(8, lambda n: [append_message(session.pk, role="user", content=f"{n}.{i}") for i in range(10)])
    assert Counter(len(each) for each in found) == {10: 8}
    assert state(session) == (80, 80)
    times = Message.objects.values_list("created_at", flat=True).order_by("created_at", "id")
    assert len(set(times)) == 80
    assert session.updated_at == max(times)
    for number in range(8):  # each thread's own in the order in which it wrote them
        mine = Message.objects.filter(content__startswith=f"{number}.").order_by("created_at")
        assert [message.content for message in mine] == [f"{number}.{i}" for i in range(10)]


@at_once
def test_who_reads_on_from_a_cursor_misses_none(session: Session) -> None:
    """Messages become visible in the order of their times: also if a slow transaction began before a fast one."""
    append_message(session.pk, role="user", content="first")
    cursor = cursor_of(Message.objects.get())
    seen: list[str] = []

    def write(number: int) -> None:
        for index in range(20):
            append_message(session.pk, role="user", content=f"{number}.{index}")
        connections.close_all()

    writers = ThreadPoolExecutor(4)
    done = [writers.submit(write, number) for number in range(4)]
    while len(seen) < 80:
        over = all(future.done() for future in done)
        page = read_messages(session.pk, newest_first=False, cursor=cursor)
        seen += [message.content for message in page.messages]
        cursor = cursor_of(page.messages[-1]) if page.messages else cursor
        assert page.messages or not over, f"{len(seen)} of 80"
    assert len(set(seen)) == 80
    writers.shutdown()


@at_once
def test_ending_and_appending_at_once(session: Session) -> None:
    def one(number: int) -> Any:
        if number == 0:
            return conversations.end_session(session.pk)
        return append_message(session.pk, role="user", content=str(number))

    found = in_threads(8, one)
    stored = [each for each in found if isinstance(each, Message)]
    assert all(isinstance(each, (Message, Session)) or each.code is ErrorCode.CONFLICT for each in found), found
    assert state(session) == (len(stored), len(stored))
    assert all(message.created_at <= session.updated_at for message in stored)


@at_once
def test_a_write_that_fails_in_the_middle_leaves_nothing(session: Session) -> None:
    class PowerCut(Exception):
        pass

    with pytest.raises(PowerCut), transaction.atomic():
        append_message(session.pk, role="user", content="a")
        raise PowerCut
    assert state(session) == (0, 0)


# Reading


@pytest.fixture
def ten(session: Session) -> list[str]:
    """Contents in the order in which they were appended; some have the same time, as imported ones may."""
    now = timezone.now()
    for number in range(10):
        at = now + timedelta(seconds=number // 3)
        Message.objects.create(session=session, role="user", content=str(number), created_at=at)
    other = Session.objects.create(user=session.user)
    append_message(other.pk, role="user", content="of another session")
    return [str(number) for number in range(10)]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 9, 10, 200])
def test_pages(session: Session, ten: list[str], newest_first: bool, limit: int) -> None:
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
    assert seen == (ten[::-1] if newest_first else ten)


def test_an_empty_session_has_an_empty_page(session: Session) -> None:
    assert read_messages(session.pk) == conversations.Page([], None)


def test_reading_without_a_session() -> None:
    assert refused(lambda: read_messages(uuid4())) is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("limit", [0, -1, 201])
def test_limits(session: Session, limit: int) -> None:
    assert refused(lambda: read_messages(session.pk, limit=limit)) is ErrorCode.VALIDATION_ERROR


@pytest.mark.parametrize("cursor", ["", "x", "ä" * 32, "A" * 31, "A" * 33, "_" * 32, "-" * 32, "A" * 32 + "\n", "\x00"])
def test_cursors_that_are_none(session: Session, ten: list[str], cursor: str) -> None:
    try:
        read_messages(session.pk, cursor=cursor)
    except ApiError as error:
        assert error.code is ErrorCode.BAD_REQUEST
    else:
        assert encode_cursor(*decode_cursor(cursor)) == cursor  # it is one, if of no row


def test_a_page_deep_in_a_session_is_read_by_the_index(session: Session, ten: list[str]) -> None:
    page = read_messages(session.pk, limit=3)
    assert page.next_cursor
    rows = Message.objects.filter(after_cursor(Message, page.next_cursor, True), session_id=session.pk)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_sort = off")
    plan = rows.order_by(*ordering(True))[:4].explain()
    assert "messages_session_time" in plan
    index_condition = next(line for line in plan.splitlines() if "Index Cond" in line)
    assert "created_at" in index_condition, plan


# Ending, archiving, deleting


def test_ending(session: Session) -> None:
    ended = conversations.end_session(session.pk)
    assert ended.ended_at is not None and ended.ended_at >= session.created_at
    assert conversations.end_session(session.pk).ended_at == ended.ended_at
    assert refused(lambda: conversations.end_session(uuid4())) is ErrorCode.NOT_FOUND


def test_a_session_that_begins_in_the_future_can_be_ended(session: Session) -> None:
    ahead = timezone.now() + timedelta(hours=1)
    Session.objects.filter(pk=session.pk).update(created_at=ahead)
    assert conversations.end_session(session.pk).ended_at == ahead


def test_archiving_and_back(session: Session) -> None:
    archived = conversations.archive_session(session.pk)
    assert archived.is_archived
    again = conversations.archive_session(session.pk)
    assert again.updated_at == archived.updated_at
    append_message(session.pk, role="user", content="it is not ended")
    assert not conversations.archive_session(session.pk, archived=False).is_archived
    assert refused(lambda: conversations.archive_session(uuid4())) is ErrorCode.NOT_FOUND


def test_deleting_messages_keeps_the_counts(session: Session) -> None:
    for number in range(5):
        append_message(session.pk, role="user", content=str(number))
    deletion.delete_messages(Message.objects.filter(content__in=("1", "2")))
    assert state(session) == (3, 3)


def test_deleting_a_user_takes_sessions_and_messages_and_leaves_the_trail(session: Session) -> None:
    for _ in range(3):
        append_message(session.pk, role="user", content="x")
    user, key = session.user, str(session.user.pk)
    with CaptureQueriesContext(connection) as queries:
        deletion.delete_user(user)
    assert not any('"messages"."content"' in query["sql"] for query in queries)  # nothing was loaded
    assert not (User.objects.exists() or Session.objects.exists() or Message.objects.exists())
    assert {event.action for event in AuditEvent.objects.filter(object_id=key)} == {"create", "delete"}
    assert AuditEvent.objects.filter(table="messages", action="delete").count() == 3


@at_once
def test_deleting_a_user_while_others_append(session: Session) -> None:
    user = session.user

    def one(number: int) -> Any:
        if number == 0:
            return deletion.delete_user(User.objects.get(pk=user.pk))
        return [append_message(session.pk, role="user", content=str(number)) for _ in range(20)]

    found = in_threads(6, one)
    assert found[0] is None
    assert all(isinstance(each, list) or each.code is ErrorCode.NOT_FOUND for each in found[1:]), found
    assert not (User.objects.exists() or Session.objects.exists() or Message.objects.exists())
