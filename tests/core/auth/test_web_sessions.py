"""The session engine: what both stores contain, which entries of Redis are used, and Django's session API."""

import pickle
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session as WebSession
from django.core import signing
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_redis import get_redis_connection

from core.auth.web_sessions import MAX_CACHE_AGE, SessionMiddleware, SessionStore, stored_key
from core.clients.redis import Client

pytestmark = pytest.mark.django_db


class RunsCode:
    def __reduce__(self) -> Any:
        return pytest.fail, ("A value from Redis was unpickled.",)


@pytest.fixture
def session() -> SessionStore:
    session = SessionStore()
    session["name"] = "value"
    session.save()
    return session


@pytest.fixture
def queries() -> Iterator[CaptureQueriesContext]:
    with CaptureQueriesContext(connection) as queries:
        yield queries


def redis_key(session: SessionStore) -> str:
    return cache.make_key(session._cache_key)


def load(session: SessionStore, **attributes: Any) -> dict[str, Any]:
    """Return the data that a new request with the session's cookie has."""
    store = SessionStore(session.session_key)
    for name, value in attributes.items():
        setattr(store, name, value)
    return dict(store.items())


def test_entry_that_cannot_be_replaced_is_deleted(session: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = Client.execute_command

    def fail(client: Client, *args: Any, **options: Any) -> Any:
        if args[0] == "SET":
            raise redis.ConnectionError
        return execute(client, *args, **options)

    monkeypatch.setattr(Client, "execute_command", fail)
    session["name"] = "other"
    session.save()
    assert load(session) == {"name": "other"}


def test_neither_store_contains_the_key(session: SessionStore) -> None:
    key = str(session.session_key)
    redis = get_redis_connection()
    in_redis = b"".join(name + (redis.get(name) or b"") for name in redis.keys("*web-session*"))  # others may expire
    row = WebSession.objects.get()
    assert stored_key(key).encode() in in_redis
    assert row.session_key == stored_key(key)
    assert key.encode() not in in_redis
    assert key not in f"{row.session_key}{row.session_data}"


def test_digest_opens_nothing(session: SessionStore) -> None:
    digest = stored_key(str(session.session_key))
    assert load(SessionStore(digest)) == {}
    assert load(session) == {"name": "value"}


def test_cached_session_makes_no_query(session: SessionStore, queries: CaptureQueriesContext) -> None:
    assert load(session) == {"name": "value"}
    assert len(queries) == 0
    assert load(session, reads_cache=False) == {"name": "value"}
    assert len(queries) == 1


def test_each_session_has_its_own_data() -> None:
    sessions = [SessionStore() for _ in range(3)]
    for number, session in enumerate(sessions):
        session["name"] = number
        session.save()
    assert [load(session, reads_cache=False) for session in sessions] == [{"name": number} for number in range(3)]


def test_only_readers_of_the_cache_fill_it(session: SessionStore) -> None:
    cache.delete(session._cache_key)
    assert load(session, reads_cache=False) == {"name": "value"}
    assert cache.get(session._cache_key) is None
    assert load(session) == {"name": "value"}
    assert cache.get(session._cache_key)


@pytest.mark.parametrize(
    ("method", "reads_cache"),
    [
        *((method, True) for method in ("GET", "HEAD", "OPTIONS", "TRACE")),
        *((method, False) for method in ("POST", "PUT", "PATCH", "DELETE", "OTHER")),
    ],
)
def test_requests_that_may_change_something_read_the_database(
    session: SessionStore, rf: RequestFactory, method: str, reads_cache: bool
) -> None:
    WebSession.objects.all().delete()  # Redis still has it
    request: Any = rf.generic(method, "/")
    request.COOKIES["sessionid"] = session.session_key
    SessionMiddleware(lambda request: None).process_request(request)  # type: ignore[arg-type]
    assert dict(request.session.items()) == ({"name": "value"} if reads_cache else {})


ENTRIES: dict[str, Any] = {
    "pickle": pickle.dumps(RunsCode()),
    "pickle of a dict": pickle.dumps({"name": "planted"}),
    "text": b"name",
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "number": b"1",
    "long number": b"9" * 10_000,
    "null": b"null",
    "dict": b'{"name": "planted"}',
    "list": b"[1]",
    "unsigned text": b'"name"',
    "nested": b"[" * 100_000,
    "large": b'"' + b"x" * 10_000_000 + b'"',
    "NUL": b'"\\u0000"',
    "surrogate": b'"\\ud800:a:b"',
    "signed for another purpose": b'"' + signing.dumps({"name": "planted"}).encode() + b'"',
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_entries_that_are_not_ours_are_misses(session: SessionStore, entry: bytes) -> None:
    get_redis_connection().set(redis_key(session), entry)
    assert load(session) == {"name": "value"}
    assert cache.get(session._cache_key)  # replaced by a valid one
    WebSession.objects.all().delete()
    get_redis_connection().set(redis_key(session), entry)
    assert load(session) == {}


@pytest.mark.parametrize("command", [("LPUSH", "a"), ("HSET", "a", "b"), ("SADD", "a"), ("XADD", "*", "a", "b")])
def test_other_types_of_redis_are_misses(session: SessionStore, command: tuple[str, ...]) -> None:
    redis = get_redis_connection()
    redis.delete(redis_key(session))
    redis.execute_command(command[0], redis_key(session), *command[1:])
    assert load(session) == {"name": "value"}
    session["name"] = "changed"
    session.save()
    assert load(session) == {"name": "changed"}


def test_changed_and_copied_entries_are_misses(session: SessionStore) -> None:
    other = SessionStore()
    other["name"] = "other"
    other.save()
    entry = cache.get(session._cache_key)
    cache.set(session._cache_key, cache.get(other._cache_key))
    assert load(session) == {"name": "value"}
    for position in range(len(entry)):
        changed = entry[:position] + chr(ord(entry[position]) ^ 1) + entry[position + 1 :]
        cache.set(session._cache_key, changed)
        assert session._load_from_cache() is None


def test_copied_row_opens_nothing(session: SessionStore) -> None:
    other = SessionStore()
    other["name"] = "other"
    other.save()
    for store in (session, other):
        cache.delete(store._cache_key)
    WebSession.objects.filter(pk=stored_key(str(session.session_key))).update(
        session_data=WebSession.objects.get(pk=stored_key(str(other.session_key))).session_data
    )
    assert load(session) == {}


def test_old_entry_is_a_miss(
    session: SessionStore, queries: CaptureQueriesContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_CACHE_AGE == 60
    assert get_redis_connection().ttl(redis_key(session)) in range(MAX_CACHE_AGE - 5, MAX_CACHE_AGE + 1)
    entry, later = cache.get(session._cache_key), time.time() + MAX_CACHE_AGE + 2
    monkeypatch.setattr("django.core.signing.time", SimpleNamespace(time=lambda: later))
    assert session._load_from_cache() is None
    assert load(session) == {"name": "value"}  # and cached again, with a new time
    assert cache.get(session._cache_key) != entry
    assert load(session) == {"name": "value"}
    assert len(queries) == 1


def test_expired_and_cleared_sessions(session: SessionStore) -> None:
    cache.delete(session._cache_key)
    WebSession.objects.update(expire_date=timezone.now())
    assert load(session) == {}
    call_command("clearsessions")
    assert not WebSession.objects.exists()


def test_short_expiry_limits_the_cache(session: SessionStore) -> None:
    session.set_expiry(10)
    session.save()
    assert get_redis_connection().ttl(redis_key(session)) <= 10


def test_expiry_of_the_row_limits_what_is_cached_again(session: SessionStore) -> None:
    cache.delete(session._cache_key)
    WebSession.objects.update(expire_date=timezone.now() + timedelta(seconds=10))
    assert load(session) == {"name": "value"}
    assert 0 < get_redis_connection().ttl(redis_key(session)) <= 10


def test_new_session_is_not_cached_before_it_has_data() -> None:
    session = SessionStore()
    session.create()
    assert cache.get(session._cache_key) is None


def test_key_is_kept_inside_of_the_block_only(session: SessionStore) -> None:
    key = session.session_key
    with suppress(ZeroDivisionError), session.keeping_key():
        session.cycle_key()
        assert session.session_key == key
        raise ZeroDivisionError
    session.cycle_key()
    assert session.session_key != key


def test_session_api(session: SessionStore) -> None:
    key = str(session.session_key)
    assert session.exists(key)
    assert not session.exists("a" * 32)
    assert not session.exists(stored_key(key))
    session.cycle_key()
    session.save()
    assert load(SessionStore(key)) == {}
    assert load(session) == {"name": "value"}
    late = SessionStore(session.session_key)
    late["name"] = "late"
    session.flush()
    assert session.session_key is None
    with pytest.raises(UpdateError):
        late.save()
    assert not WebSession.objects.exists()
    assert not get_redis_connection().keys("*web-session:" + stored_key(str(late.session_key)))


def test_async_session_api() -> None:
    async def use() -> None:
        session = SessionStore()
        await session.aset("name", "value")
        await session.asave()
        key = str(session.session_key)
        assert await session.aexists(key)
        assert await SessionStore(key).aget("name") == "value"
        await session.acycle_key()
        await session.asave()
        assert not await session.aexists(key)
        new = str(session.session_key)
        assert await SessionStore(new).aget("name") == "value"
        await session.aflush()
        assert not await session.aexists(new)
        assert await SessionStore(new).aget("name") is None

    async_to_sync(use)()  # in this thread, whose connection has the test's transaction


@pytest.mark.parametrize("cookie", ["", "short", "a" * 100_000, "ä" * 40, "\0" * 40, "\udcff" * 40, "a b;c%00" * 5])
def test_any_cookie_is_an_unknown_session(cookie: str) -> None:
    store = SessionStore(cookie)
    assert dict(store.items()) == {}
    assert store.session_key is None


def test_errors_of_the_cache_are_ignored(session: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise ValueError("not the protocol of Redis")

    for method in ("get", "set", "delete"):
        monkeypatch.setattr(cache, method, fail)
    assert load(session) == {"name": "value"}
    session["name"] = "changed"
    session.save()
    assert load(session) == {"name": "changed"}
    session.flush()
