"""A login ends: when nobody was there for 15 minutes, after 12 hours, with a new password, whatever Redis does."""

import time
from copy import deepcopy
from typing import Any

import pytest
from django.conf import settings as project
from django.contrib.sessions.backends.cached_db import SessionStore
from django.contrib.sessions.models import Session as WebSession
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from core.auth.session_expiry import LAST_SEEN_KEY, LOGIN_AT_KEY
from core.models import AuditEvent, User
from tests.support.plugin import Servers
from tests.support.proxy import Proxy

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
FORM = {"username": "ann@example.org", "password": PASSWORD}
COOKIE = "sessionid"


@pytest.fixture
def ann() -> User:
    return User.objects.create_user("ann@example.org", PASSWORD, is_staff=True, is_superuser=True)


@pytest.fixture
def at_work(client: Client, ann: User) -> Client:
    assert client.post("/admin/login/", FORM).status_code == 302
    return client


def inside(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def ago(client: Client, **seconds: int) -> None:
    """Makes times of the client's session so many seconds older."""
    session = client.session
    for name, number in seconds.items():
        session[name] -= number
    session.save()


def test_the_cookie(at_work: Client) -> None:
    cookie = at_work.cookies[COOKIE]
    assert cookie["httponly"] is True
    assert cookie["samesite"] == "Lax"
    assert cookie["max-age"] == cookie["expires"] == ""  # it goes with the browser
    stored = at_work.session
    assert stored[LAST_SEEN_KEY] == stored[LOGIN_AT_KEY]


def test_logging_in_makes_a_new_key(client: Client, ann: User) -> None:
    planted = SessionStore()
    planted["of"] = "an attacker"
    planted.save()
    client.cookies[COOKIE] = str(planted.session_key)
    client.post("/admin/login/", FORM)
    assert client.cookies[COOKIE].value != planted.session_key
    assert inside(client)
    client.cookies[COOKIE] = str(planted.session_key)
    assert not inside(client)


def test_a_key_that_nobody_gave_out_is_not_taken(client: Client, ann: User) -> None:
    client.cookies[COOKIE] = "a" * 32
    client.post("/admin/login/", FORM)
    assert client.cookies[COOKIE].value != "a" * 32


@pytest.mark.parametrize(
    ("since", "most"), [(LAST_SEEN_KEY, 15 * 60), (LOGIN_AT_KEY, 12 * 3600)], ids=["idle", "absolute"]
)
def test_a_login_ends_by_itself(at_work: Client, ann: User, since: str, most: int) -> None:
    key = at_work.cookies[COOKIE].value
    was = at_work.session[since]
    ago(at_work, **{since: most - 30})
    assert inside(at_work)
    ago(at_work, **{since: most + at_work.session[since] - was})
    response = at_work.get("/admin/core/user/?q=1")
    assert response["Location"] == "/admin/login/?next=/admin/core/user/%3Fq%3D1"
    assert not WebSession.objects.filter(pk=key).exists()
    at_work.cookies[COOKIE] = key  # a client that keeps its cookie
    assert not inside(at_work)
    event = AuditEvent.objects.get(action="logoff")
    assert (event.actor_id, event.object_id) == (ann.pk, str(ann.pk))


def test_work_goes_on_as_long_as_there_is_work_but_not_after_its_end(at_work: Client) -> None:
    for _ in range(47):
        ago(at_work, **{LAST_SEEN_KEY: 14 * 60, LOGIN_AT_KEY: 15 * 60})
        assert inside(at_work)
    ago(at_work, **{LOGIN_AT_KEY: 15 * 60})
    assert not inside(at_work)


def test_a_post_after_the_end_changes_nothing(at_work: Client, ann: User) -> None:
    ago(at_work, **{LAST_SEEN_KEY: 15 * 60})
    at_work.post(f"/admin/core/user/{ann.pk}/change/", {"email": "eve@example.org", "full_name": "Eve"})
    ann.refresh_from_db()
    assert ann.email == "ann@example.org"


def test_a_session_without_times_is_over(at_work: Client) -> None:
    session = at_work.session
    del session[LAST_SEEN_KEY]
    session.save()
    assert not inside(at_work)


def test_activity_is_stored_once_a_minute(at_work: Client) -> None:
    def writes() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert inside(at_work)
        return sum("django_session" in query["sql"] for query in queries)

    assert writes() == 0
    ago(at_work, **{LAST_SEEN_KEY: 60})
    assert writes() == 1
    assert writes() == 0


def test_a_new_password_ends_all_other_logins(at_work: Client, ann: User) -> None:
    other = Client()
    other.post("/admin/login/", FORM)
    new = "another long password"
    form = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert at_work.post("/admin/password_change/", form).status_code == 302
    assert inside(at_work)
    assert not inside(other)


# Redis


@pytest.fixture
def between(servers: Servers, settings: Settings) -> Any:
    """What stands between the application and Redis."""
    with Proxy(servers.redis.port) as proxy:
        caches: Any = deepcopy(project.CACHES)
        caches["default"]["LOCATION"] = servers.redis.url.replace(f":{servers.redis.port}/", f":{proxy.port}/")
        caches["default"]["OPTIONS"]["SOCKET_TIMEOUT"] = 0.2
        settings.CACHES = caches
        yield proxy


@pytest.mark.parametrize("mode", ["refuse", "silent"])
def test_without_redis_all_goes_on(between: Proxy, client: Client, ann: User, mode: str) -> None:
    client.post("/admin/login/", FORM)
    between.mode = mode
    assert inside(client)
    client.post("/admin/logout/")
    assert not inside(client)
    assert client.post("/admin/login/", FORM).status_code == 302
    assert inside(client)
    between.mode = "pass"
    assert inside(client)


def test_a_login_that_ended_while_redis_was_away_comes_back_for_a_minute_at_the_most(
    between: Proxy, at_work: Client, ann: User
) -> None:
    key = at_work.cookies[COOKIE].value
    assert inside(at_work)
    ago(at_work, **{LAST_SEEN_KEY: 60})
    between.mode = "refuse"
    at_work.post("/admin/logout/")
    between.mode = "pass"
    assert SessionStore(key).load()[LAST_SEEN_KEY] <= time.time() - 60  # Redis has it still
    at_work.cookies[COOKIE] = key
    assert not inside(at_work)
    at_work.cookies[COOKIE] = key
    assert not inside(at_work)
