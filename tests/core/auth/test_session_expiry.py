"""Sessions end after 15 idle minutes, after 12 hours and on a password change, even if Redis is down."""

import time
from copy import deepcopy
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.models import Session as WebSession
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from pytest_django import Settings

from core.auth import session_expiry
from core.auth.session_expiry import LAST_SEEN_KEY, LOGIN_AT_KEY
from core.auth.web_sessions import SessionStore
from core.models import AuditEvent, User
from tests.support.plugin import Servers
from tests.support.proxy import Proxy

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
FORM = {"username": "user@example.org", "password": PASSWORD}
COOKIE = "sessionid"


@pytest.fixture
def user() -> User:
    return User.objects.create_user("user@example.org", PASSWORD, is_staff=True, is_superuser=True)


@pytest.fixture
def staff_client(client: Client, user: User) -> Client:
    client.get("/admin/login/")  # sets the CSRF cookie
    assert client.post("/admin/login/", FORM).status_code == 302
    return client


def is_logged_in(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def age_session(client: Client, **seconds: int) -> None:
    """Subtract seconds from the times in the client's session."""
    session = client.session
    for key, number in seconds.items():
        session[key] -= number
    session.save()


def test_session_cookie_attributes(staff_client: Client) -> None:
    cookie = staff_client.cookies[COOKIE]
    assert cookie["httponly"] is True
    assert cookie["samesite"] == "Lax"
    for name in (COOKIE, "csrftoken"):
        cookie = staff_client.cookies[name]
        assert cookie["max-age"] == cookie["expires"] == ""  # a browser deletes it when it closes
    stored = staff_client.session
    assert stored[LAST_SEEN_KEY] == stored[LOGIN_AT_KEY]


def test_login_creates_new_session_key(client: Client, user: User) -> None:
    attacker_session = SessionStore()
    attacker_session["owner"] = "attacker"
    attacker_session.save()
    client.cookies[COOKIE] = str(attacker_session.session_key)
    client.post("/admin/login/", FORM)
    assert client.cookies[COOKIE].value != attacker_session.session_key
    assert is_logged_in(client)
    client.cookies[COOKIE] = str(attacker_session.session_key)
    assert not is_logged_in(client)


def test_rejects_unknown_session_key(client: Client, user: User) -> None:
    client.cookies[COOKIE] = "a" * 32
    client.post("/admin/login/", FORM)
    assert client.cookies[COOKIE].value != "a" * 32


@pytest.mark.parametrize(
    ("key", "limit"), [(LAST_SEEN_KEY, 15 * 60), (LOGIN_AT_KEY, 12 * 3600)], ids=["idle", "absolute"]
)
def test_session_expires(staff_client: Client, user: User, key: str, limit: int) -> None:
    cookie = staff_client.cookies[COOKIE].value
    original = staff_client.session[key]
    age_session(staff_client, **{key: limit - 30})
    assert is_logged_in(staff_client)
    age_session(staff_client, **{key: limit + staff_client.session[key] - original})
    response = staff_client.get("/admin/core/user/?q=1")
    assert response["Location"] == "/admin/login/?next=/admin/core/user/%3Fq%3D1"
    assert not WebSession.objects.exists()
    staff_client.cookies[COOKIE] = cookie  # as a client that ignores the deletion of the cookie
    assert not is_logged_in(staff_client)
    event = AuditEvent.objects.get(action="logoff")
    assert (event.actor_id, event.object_id) == (user.pk, str(user.pk))


async def _show_user(request: HttpRequest) -> HttpResponse:
    first, second = await request.auser(), await request.auser()
    assert first == second == request.user
    return HttpResponse(str(first))


urlpatterns = [path("user/", _show_user), path("", include("voiceassist.urls"))]


@pytest.mark.parametrize("key", [None, LAST_SEEN_KEY, LOGIN_AT_KEY])
def test_session_expires_for_async_views(staff_client: Client, user: User, key: str | None) -> None:
    if key:
        age_session(staff_client, **{key: 12 * 3600})
    with override_settings(ROOT_URLCONF=__name__):
        response = staff_client.get("/user/")
    assert response.content.decode() == ("AnonymousUser" if key else str(user))
    assert AuditEvent.objects.filter(action="logoff").count() == (1 if key else 0)
    assert WebSession.objects.exists() is not bool(key)
    assert is_logged_in(staff_client) is not bool(key)


def test_async_views_count_as_activity(staff_client: Client) -> None:
    age_session(staff_client, **{LAST_SEEN_KEY: 14 * 60})
    with override_settings(ROOT_URLCONF=__name__):
        staff_client.get("/user/")
    assert staff_client.session[LAST_SEEN_KEY] >= time.time() - 60


def test_activity_extends_session_up_to_absolute_limit(staff_client: Client) -> None:
    for _ in range(47):
        age_session(staff_client, **{LAST_SEEN_KEY: 14 * 60, LOGIN_AT_KEY: 15 * 60})
        assert is_logged_in(staff_client)
    age_session(staff_client, **{LOGIN_AT_KEY: 15 * 60})
    assert not is_logged_in(staff_client)


def test_expired_session_cannot_change_data(staff_client: Client, user: User) -> None:
    age_session(staff_client, **{LAST_SEEN_KEY: 15 * 60})
    staff_client.post(f"/admin/core/user/{user.pk}/change/", {"email": "eve@example.org", "full_name": "Eve"})
    user.refresh_from_db()
    assert user.email == "user@example.org"


def test_session_without_times_is_expired(staff_client: Client) -> None:
    session = staff_client.session
    del session[LAST_SEEN_KEY]
    session.save()
    assert not is_logged_in(staff_client)


def test_saves_activity_once_a_minute(staff_client: Client) -> None:
    def count_writes() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert is_logged_in(staff_client)
        return sum("django_session" in query["sql"] for query in queries)

    assert count_writes() == 0
    age_session(staff_client, **{LAST_SEEN_KEY: 60})
    assert count_writes() == 1
    assert count_writes() == 0


def test_pages_know_when_the_login_ends(staff_client: Client, rf: RequestFactory) -> None:
    def seconds_left() -> int:
        return int(staff_client.get("/admin/stay-logged-in/").json()["seconds_left"])

    assert 15 * 60 - 20 <= seconds_left() <= 15 * 60
    age_session(staff_client, **{LAST_SEEN_KEY: 30})
    assert 15 * 60 - 50 <= seconds_left() <= 15 * 60 - 30
    age_session(staff_client, **{LOGIN_AT_KEY: 12 * 3600 - 100})
    assert 80 <= seconds_left() <= 100
    request = rf.get("/")
    request.user = AnonymousUser()
    assert session_expiry.seconds_left(request) == 0


@pytest.mark.parametrize(
    ("path", "headers", "is_activity"),
    [
        ("/admin/", {}, True),
        ("/admin/", {"X-Automatic-Refresh": "1"}, False),
        ("/admin/status/part", {}, False),
    ],
)
def test_script_of_an_unattended_page_is_no_activity(
    staff_client: Client, path: str, headers: dict[str, str], is_activity: bool
) -> None:
    age_session(staff_client, **{LAST_SEEN_KEY: 14 * 60})
    seen = staff_client.session[LAST_SEEN_KEY]
    assert staff_client.get(path, headers=headers).status_code == 200
    assert (staff_client.session[LAST_SEEN_KEY] > seen) is is_activity


def test_password_change_ends_other_sessions(staff_client: Client, user: User) -> None:
    other = Client()
    other.post("/admin/login/", FORM)
    new = "another long password"
    form = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert staff_client.post("/admin/password_change/", form).status_code == 302
    assert is_logged_in(staff_client)
    assert not is_logged_in(other)


# Redis


@pytest.fixture
def redis_proxy(servers: Servers, settings: Settings) -> Any:
    """Yield a proxy between the application and Redis."""
    with Proxy(servers.redis.port) as proxy:
        caches: Any = deepcopy(django_settings.CACHES)
        caches["default"]["LOCATION"] = servers.redis.url.replace(f":{servers.redis.port}/", f":{proxy.port}/")
        caches["default"]["OPTIONS"]["SOCKET_TIMEOUT"] = 0.2
        settings.CACHES = caches
        yield proxy


@pytest.mark.parametrize("mode", ["refuse", "silent"])
def test_sessions_work_without_redis(redis_proxy: Proxy, client: Client, user: User, mode: str) -> None:
    client.post("/admin/login/", FORM)
    redis_proxy.mode = mode
    assert is_logged_in(client)
    client.post("/admin/logout/")
    assert not is_logged_in(client)
    assert client.post("/admin/login/", FORM).status_code == 302
    assert is_logged_in(client)
    redis_proxy.mode = "pass"
    assert is_logged_in(client)


def test_session_deleted_during_redis_outage_expires_within_a_minute(
    redis_proxy: Proxy, staff_client: Client, user: User
) -> None:
    key = staff_client.cookies[COOKIE].value
    assert is_logged_in(staff_client)
    age_session(staff_client, **{LAST_SEEN_KEY: 60})
    redis_proxy.mode = "refuse"
    staff_client.post("/admin/logout/")
    redis_proxy.mode = "pass"
    assert SessionStore(key).load()[LAST_SEEN_KEY] <= time.time() - 60  # still in Redis
    staff_client.cookies[COOKIE] = key
    assert not is_logged_in(staff_client)
    staff_client.cookies[COOKIE] = key
    assert not is_logged_in(staff_client)
