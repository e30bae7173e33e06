"""The status page: access, the state of all workers, and that it works while dependencies don't."""

import math
import re
import time
from contextlib import closing
from functools import partial
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.core import signing
from django.db import OperationalError, connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from core.auth.session_expiry import LAST_SEEN_KEY, LOGIN_AT_KEY
from core.models import AuditEvent, User
from health import database_warnings
from health.status_page import access
from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.polling import NOISE, succeeds_within
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff

EMAIL, PASSWORD = "admin@example.org", "a long password"
PAGE, FRAGMENT = "/admin/status/", "/admin/status/part"


@pytest.fixture
def superuser(db: None) -> User:
    return User.objects.create_superuser(EMAIL, PASSWORD)


@pytest.fixture
def staff_client(client: Client, superuser: User) -> Client:
    assert client.post("/admin/login/", {"username": EMAIL, "password": PASSWORD, "next": "/admin/"}).status_code == 302
    client.get("/admin/")  # sets the cookie
    return client


def has_access(client: Client) -> bool:
    page, fragment = client.get(PAGE), client.get(FRAGMENT)
    assert page.status_code == (200 if fragment.status_code == 200 else 302)
    assert fragment.status_code in (200, 403)
    return fragment.status_code == 200


def copy_of(client: Client) -> Client:
    """Return a client with the same cookies, as an attacker may have."""
    copied = Client()
    copied.cookies = SimpleCookie(client.cookies.output(header="", sep=";"))
    return copied


@pytest.fixture
def broken_database(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes every later attempt to load the user fail."""

    def fail(request: Any) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    return lambda: monkeypatch.setattr("core.auth.session_expiry.middleware.get_user", fail)


@pytest.mark.django_db
def test_page_shows_transports_and_warnings_about_the_database(
    staff_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_warnings, "_next_refresh", math.inf)
    monkeypatch.setattr(database_warnings, "current", {"logs_values": "The log may contain PHI. Do <this>."})
    page = staff_client.get(PAGE).content.decode()
    assert "The log may contain PHI. Do &lt;this&gt;." in page
    # The number of connections may follow.
    assert re.findall(r'<span class="quiet">\s*(local)\b', page) == ["local"] * 3
    monkeypatch.setattr(database_warnings, "current", {})
    assert "Warnings about the database" not in staff_client.get(PAGE).content.decode()


def test_access_cookie_survives_a_change_of_the_key(staff_client: Client, broken_database: Any) -> None:
    old_key = settings.SECRET_KEY
    broken_database()
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[old_key]):
        assert has_access(staff_client)
    with override_settings(SECRET_KEY="another"):
        assert not has_access(staff_client)


# Access


@pytest.mark.django_db
def test_only_current_staff_has_access(client: Client, superuser: User) -> None:
    response = client.get(PAGE)
    assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={PAGE}")
    assert client.get(FRAGMENT).content == b""
    assert not has_access(client)
    client.force_login(User.objects.create_user("user@example.org", PASSWORD))
    assert not has_access(client)
    client.post("/admin/login/", {"username": EMAIL, "password": PASSWORD})
    assert has_access(client)
    for flag in ("is_active", "is_staff"):
        User.objects.update(**{flag: False})
        assert not has_access(client), flag
        User.objects.update(**{flag: True})
        assert not has_access(client), flag
        client.post("/admin/login/", {"username": EMAIL, "password": PASSWORD})
        assert has_access(client)
    superuser.set_password("another long password")  # ends all sessions
    superuser.save()
    assert not has_access(client)


@pytest.mark.django_db
def test_request_without_session_cookie_makes_no_query(client: Client, django_assert_num_queries: Any) -> None:
    client.cookies[access.COOKIE] = "x"
    with django_assert_num_queries(0):
        assert not has_access(client)


def test_access_ends_with_the_session(staff_client: Client) -> None:
    session = staff_client.session
    for max_age, key in ((12 * 3600, LOGIN_AT_KEY), (15 * 60, LAST_SEEN_KEY)):
        copied, key_before = copy_of(staff_client), session[key]
        session[key] -= max_age
        session.save()
        assert not has_access(copied), key
        session[key] = key_before
        session.save(must_create=True)  # the expired session was deleted
        assert has_access(staff_client)
    copied = copy_of(staff_client)
    staff_client.post("/admin/logout/")
    assert not has_access(copied)


def test_automatic_refresh_does_not_extend_the_session(staff_client: Client) -> None:
    session = staff_client.session
    session[LAST_SEEN_KEY] -= 10 * 60
    session.save()
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            assert staff_client.get(FRAGMENT).status_code == 200
        assert not [query["sql"] for query in queries if "UPDATE" in query["sql"]]
    assert staff_client.session[LAST_SEEN_KEY] == session[LAST_SEEN_KEY]
    session[LAST_SEEN_KEY] -= 5 * 60
    session.save()
    assert staff_client.get(FRAGMENT).status_code == 403
    assert AuditEvent.objects.filter(action="logoff").count() == 1


def test_opening_the_page_extends_the_session(staff_client: Client) -> None:
    session = staff_client.session
    session[LAST_SEEN_KEY] -= 10 * 60
    session.save()
    assert staff_client.get(PAGE).status_code == 200
    assert staff_client.session[LAST_SEEN_KEY] > session[LAST_SEEN_KEY]


# The cookie


def test_cookie_is_limited_to_the_admin_and_the_login(staff_client: Client) -> None:
    cookie = staff_client.get("/admin/").cookies[access.COOKIE]
    assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == ("/admin/", True, "Strict")
    assert not cookie["max-age"]  # ends with the browser, like the session cookie
    assert staff_client.cookies["sessionid"].value not in cookie.value
    with override_settings(SESSION_COOKIE_SECURE=True):
        assert staff_client.get("/admin/").cookies[access.COOKIE]["secure"]
    session = staff_client.session
    session[LOGIN_AT_KEY] = int(time.time()) - 12 * 3600 + 60
    session.save()
    value = staff_client.get("/admin/").cookies[access.COOKIE].value
    assert signing.loads(value, salt=access._SALT)[1] - time.time() <= 60  # after the login, not after the last page
    deleted = staff_client.post("/admin/logout/").cookies[access.COOKIE]
    assert (deleted.value, deleted["path"]) == ("", "/admin/")


@pytest.mark.django_db
def test_cookie_is_set_only_for_staff(client: Client, superuser: User) -> None:
    assert access.COOKIE not in client.get("/admin/login/").cookies or not client.cookies[access.COOKIE].value
    client.force_login(User.objects.create_user("user@example.org", PASSWORD))
    client.get("/admin/")
    assert access.COOKIE not in client.cookies or not client.cookies[access.COOKIE].value


def test_only_the_cookie_is_checked_while_the_database_is_down(staff_client: Client, broken_database: Any) -> None:
    without_cookie, without_session = copy_of(staff_client), copy_of(staff_client)
    del without_cookie.cookies[access.COOKIE]
    del without_session.cookies["sessionid"]
    broken_database()
    page = staff_client.get(PAGE)
    assert page.status_code == 200
    assert EMAIL not in page.content.decode()
    assert has_access(staff_client)
    assert not has_access(without_cookie)
    assert not has_access(without_session)
    staff_client.raise_request_exception = False
    assert staff_client.get("/admin/").status_code == 503  # the cookie opens no other page


def test_defect_is_not_mistaken_for_an_outage(staff_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: Any) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(access, "_is_staff", fail)
    staff_client.raise_request_exception = False
    assert staff_client.get(FRAGMENT).status_code == 500


def is_valid(rf: Any, value: str, session_key: str = "key") -> bool:
    request = rf.get(PAGE)
    request.COOKIES = {access.COOKIE: value, "sessionid": session_key}
    return access.has_valid_cookie(request)


def test_forged_expired_or_foreign_cookie_is_invalid(rf: Any) -> None:
    def cookie(session_key: str, expires_at: float, salt: str = access._SALT) -> str:
        return signing.dumps([access._digest(session_key), int(expires_at)], salt=salt)

    later = time.time() + 60
    valid = cookie("key", later)
    assert is_valid(rf, valid)
    assert not is_valid(rf, valid, session_key="another")
    assert not is_valid(rf, cookie("key", time.time() - 1))
    assert not is_valid(rf, cookie("key", later, salt="another purpose"))
    for broken in ("", "x", valid[:-1], f"x{valid}", valid.replace(":", ""), signing.dumps("text", salt=access._SALT)):
        assert not is_valid(rf, broken), broken
    with override_settings(SECRET_KEY="another"):
        assert not is_valid(rf, valid)


# The response


def test_response_is_private_and_safe(staff_client: Client, servers: Servers) -> None:
    for path in (PAGE, FRAGMENT):
        response = staff_client.get(path)
        assert "no-store" in response["Cache-Control"]
        assert (response["X-Frame-Options"], response["X-Content-Type-Options"]) == ("DENY", "nosniff")
        assert "script-src 'self'" in response["Content-Security-Policy"]
        assert access.COOKIE not in response.cookies
        assert "sessionid" not in response.cookies
        assert staff_client.post(path).status_code == 405
        assert staff_client.get(path, headers={"host": "evil.example.org"}).status_code == 400
        html = response.content.decode()
        assert f"127.0.0.1:{servers.redis.port}" in html
        for secret in (EMAIL, "se:cr", "se%3Acr", "tests-key"):
            assert secret not in html
    with override_settings(SECURE_SSL_REDIRECT=True):
        assert Client().get(PAGE)["Location"].startswith("https://")


def test_every_admin_page_links_to_status_and_complies_with_csp(staff_client: Client) -> None:
    for path in (PAGE, FRAGMENT, "/admin/", "/admin/core/user/"):
        html = staff_client.get(path).content.decode()
        assert path == FRAGMENT or f'href="{PAGE}"' in html
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html), path
        assert not [tag for tag in re.findall(r"<script[^>]*>", html) if ' src="/' not in tag], path
        assert "://" not in " ".join(re.findall(r'(?:src|href)="([^"]*)"', html)), path


# The server


@pytest.fixture(scope="module")
def database(servers: Servers) -> str:
    """Return the URL of a migrated database with a superuser."""
    return database_with_staff(servers.postgres, "status", EMAIL, PASSWORD)


@pytest.mark.parametrize(
    ("database_mode", "redis_hangs"),
    [("silent", True), ("silent", False), ("refuse", True), ("refuse", False), ("pass", True)],
)
def test_page_works_while_the_database_or_redis_is_down(
    database: str, redis: Valkey, servers: Servers, database_mode: str, redis_hangs: bool
) -> None:
    with Proxy(servers.postgres.port) as proxy:
        url = database.replace(f":{servers.postgres.port}", f":{proxy.port}")
        with (
            VoiceAssistServer(DATABASE_URL=url, REDIS_URL=redis.url, HEALTH_TIMEOUT="0.5") as app,
            closing(app.log_in(EMAIL, PASSWORD)) as staff,
        ):
            assert "Healthy" in staff.get(PAGE).text
            proxy.mode = database_mode
            if redis_hangs:
                redis.freeze()

            def shows_outage(path: str) -> bool:
                response = staff.get(path)
                assert response.status_code == 200
                # HEALTH_TIMEOUT, and two calls of Redis of at most a second each.
                assert response.elapsed.total_seconds() < 0.5 + 2 + NOISE
                shows_postgres = bool(re.search(r"postgres \((timeout|connection_refused)\)", response.text))
                return (
                    shows_postgres is (database_mode != "pass") and ("redis (timeout)" in response.text) is redis_hangs
                )

            for path in (PAGE, FRAGMENT):
                # Each worker checks every two seconds while the page is open, perhaps just before the outage.
                assert succeeds_within(10, partial(shows_outage, path))
            assert httpx.get(app.url + FRAGMENT, timeout=15).status_code == 403
            if database_mode != "pass":
                cookie = {access.COOKIE: next(c.value for c in staff.cookies.jar if c.name == access.COOKIE) or ""}
                assert httpx.get(app.url + FRAGMENT, cookies=cookie, timeout=15).status_code == 403  # no session
            redis.thaw()
            proxy.mode = "pass"
            assert succeeds_within(10, lambda: "Not healthy" not in staff.get(FRAGMENT).text)


def test_page_shows_every_worker_and_outages_of_dead_ones(database: str, redis: Valkey) -> None:
    with (
        VoiceAssistServer(DATABASE_URL=database, REDIS_URL=redis.url, HEALTH_MAX_AGE="1") as app,
        closing(app.log_in(EMAIL, PASSWORD)) as staff,
    ):
        redis.kill()
        # Only one worker has the connection. The other one also runs checks, because the page is open.
        assert succeeds_within(10, lambda: staff.get(FRAGMENT).text.count("redis: connection_refused") == 2)
        redis.start()
        assert succeeds_within(10, lambda: staff.get(FRAGMENT).text.count("all healthy") == 2)
        killed = app.workers()[0]
        killed.kill()

        def is_replaced() -> bool:
            pids = [process.pid for process in app.workers()]
            return len(pids) == 2 and killed.pid not in pids

        assert succeeds_within(10, is_replaced)
        with closing(app.log_in(EMAIL, PASSWORD)) as staff:
            pids = {str(process.pid) for process in app.workers()}

            def shown_pids() -> set[str]:
                return set(re.findall(r'<th scope="row">(\d+)<', staff.get(FRAGMENT).text))

            assert succeeds_within(10, lambda: shown_pids() == pids)
            html = staff.get(FRAGMENT).text
        assert "2 of 2 alive" in html
        assert html.count("<td>2 workers</td>") == 1  # the outage, recorded by both


def test_stopped_worker_has_no_heartbeat(database: str) -> None:
    with VoiceAssistServer(DATABASE_URL=database, HEALTH_TIMEOUT="0.5") as app:
        stopped = app.workers()[0]
        stopped.suspend()
        with closing(app.log_in(EMAIL, PASSWORD)) as staff:  # on a connection of the other worker
            assert succeeds_within(15, lambda: "Not responding" in staff.get(FRAGMENT).text)
            assert "Workers alive: 1 of 2." in staff.get(FRAGMENT).text
            stopped.resume()
            assert succeeds_within(15, lambda: "2 of 2 alive" in staff.get(FRAGMENT).text)
