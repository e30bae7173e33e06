"""The status page: who may see it, what it says of the whole server, and that it goes on while dependencies don't."""

import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core import signing
from django.test import Client, override_settings
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from core.models import User
from health.status_page import access as passes
from tests.support.browser import needs_chromium
from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.proxy import Proxy
from tests.support.voiceassist_server import VoiceAssistServer, database_with_staff
from tests.voiceassist.test_gunicorn import within

EMAIL, PASSWORD = "ann@example.org", "a long password"
PAGE, PART = "/admin/status/", "/admin/status/part"
# The session is looked up on a connection of its own, which sees only what is committed.
in_database = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ann() -> User:
    return User.objects.create_superuser(EMAIL, PASSWORD)


@pytest.fixture
def staff(client: Client, ann: User) -> Client:
    assert client.post("/admin/login/", {"username": EMAIL, "password": PASSWORD, "next": "/admin/"}).status_code == 302
    return client


def allowed(client: Client) -> bool:
    page, part = client.get(PAGE), client.get(PART)
    assert page.status_code == (200 if part.status_code == 200 else 302)
    assert part.status_code in (200, 403)
    return part.status_code == 200


# Who may see it


@in_database
def test_staff_alone_and_while_they_are(client: Client, ann: User) -> None:
    response = client.get(PAGE)
    assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={PAGE}")
    assert client.get(PART).content == b""
    assert not allowed(client)
    client.force_login(User.objects.create_user("bob@example.org", PASSWORD))
    assert not allowed(client)
    client.force_login(ann)
    assert allowed(client)
    for flag in ("is_active", "is_staff"):
        User.objects.update(**{flag: False})
        assert not allowed(client), flag
        User.objects.update(**{flag: True})
        assert allowed(client)
    ann.set_password("another long password")  # ends all sessions
    ann.save()
    assert not allowed(client)


@in_database
def test_the_pass_is_for_this_page_from_login_to_logout(staff: Client) -> None:
    cookie = staff.get("/admin/").cookies[passes.COOKIE]
    assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == (PAGE, True, "Strict")
    assert not cookie["max-age"]  # it ends with the browser, as the session's does
    assert staff.cookies["sessionid"].value not in cookie.value
    with override_settings(SESSION_COOKIE_SECURE=True):
        assert staff.get("/admin/").cookies[passes.COOKIE]["secure"]
    session = staff.session
    session["began"] = int(time.time()) - 12 * 3600 + 60
    session.save()
    value = staff.get("/admin/").cookies[passes.COOKIE].value
    assert signing.loads(value, salt="health.passes")[1] - time.time() <= 60  # from the login, not from the last page
    for over, key in ((12 * 3600, "began"), (15 * 60, "seen")):  # looking does not keep the login alive
        kept, session[key] = session[key], session[key] - over
        session.save()
        assert not allowed(staff), key
        session[key] = kept
        session.save()
    copied = Client()
    copied.cookies = type(staff.cookies)(staff.cookies.output(header="", sep=";"))
    assert allowed(copied)
    taken_back = staff.post("/admin/logout/").cookies[passes.COOKIE]
    assert (taken_back.value, taken_back["path"]) == ("", PAGE)
    assert not allowed(copied)
    del copied.cookies["sessionid"]
    assert copied.get("/admin/").status_code == 302  # the pass is no login


def holds(rf: Any, value: str, session: str = "key") -> bool:
    request = rf.get(PAGE)
    request.COOKIES = {passes.COOKIE: value, "sessionid": session}
    return passes.holds(request)


def test_a_pass_is_forged_by_nobody_bound_to_its_session_and_ends(rf: Any) -> None:
    def made(session: str, until: float, salt: str = "health.passes") -> str:
        return signing.dumps([passes._digest(session), int(until)], salt=salt)

    later = time.time() + 60
    good = made("key", later)
    assert holds(rf, good)
    assert not holds(rf, good, session="of somebody else")
    assert not holds(rf, made("key", time.time() - 1))
    assert not holds(rf, made("key", later, salt="another use of the key"))
    for broken in ("", "x", good[:-1], f"x{good}", good.replace(":", ""), signing.dumps("text", salt="health.passes")):
        assert not holds(rf, broken), broken
    with override_settings(SECRET_KEY="another"):
        assert not holds(rf, good)


# What it is made of


@in_database
def test_the_page(staff: Client, servers: Servers, django_assert_num_queries: Any) -> None:
    for path in (PAGE, PART):
        with django_assert_num_queries(0):  # looking is no activity of the session
            response = staff.get(path)
        assert "no-store" in response["Cache-Control"]
        assert (response["X-Frame-Options"], response["X-Content-Type-Options"]) == ("DENY", "nosniff")
        assert "script-src 'self'" in response["Content-Security-Policy"]
        assert passes.COOKIE not in response.cookies
        assert "sessionid" not in response.cookies
        assert staff.post(path).status_code == 405
        assert staff.get(path, headers={"host": "evil.example.org"}).status_code == 400
        html = response.content.decode()
        assert f"127.0.0.1:{servers.redis.port}" in html
        for hidden in (EMAIL, "se:cr", "se%3Acr", "tests-key"):
            assert hidden not in html
    with override_settings(SECURE_SSL_REDIRECT=True):
        assert Client().get(PAGE)["Location"].startswith("https://")
    for path in (PAGE, PART, "/admin/", "/admin/core/user/"):
        html = staff.get(path).content.decode()
        assert path == PART or f'href="{PAGE}"' in html  # every page leads there
        # A strict Content-Security-Policy has nothing to forbid.
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html), path
        assert not [tag for tag in re.findall(r"<script[^>]*>", html) if ' src="/' not in tag], path
        assert "://" not in " ".join(re.findall(r'(?:src|href)="([^"]*)"', html)), path


# The server as a whole


@pytest.fixture(scope="module")
def database(servers: Servers) -> str:
    """The URL of a migrated database with a staff user."""
    return database_with_staff(servers.postgres, "status", EMAIL, PASSWORD)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.kill()


def login(app: VoiceAssistServer) -> httpx.Client:
    client = httpx.Client(base_url=app.url, timeout=15)
    client.get("/admin/login/")
    form = {"username": EMAIL, "password": PASSWORD, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
    assert client.post("/admin/login/?next=/admin/", data=form).status_code == 302
    return client


def test_it_goes_on_while_the_database_and_redis_hang(database: str, redis: Valkey, servers: Servers) -> None:
    with Proxy(servers.postgres.port) as proxy:
        url = database.replace(f":{servers.postgres.port}", f":{proxy.port}")
        with (
            VoiceAssistServer(DATABASE_URL=url, REDIS_URL=redis.url, HEALTH_TIMEOUT="0.5") as app,
            closing(login(app)) as staff,
        ):
            assert "Healthy" in staff.get(PAGE).text
            proxy.mode = "silent"
            redis.freeze()
            answer = staff.get(PART)  # the checks, the look at the session, noise
            assert answer.status_code == 200
            assert answer.elapsed.total_seconds() < 0.5 + 1 + 2
            assert "postgres (timeout)" in answer.text
            assert "redis (timeout)" in answer.text
            assert httpx.get(app.url + PART).status_code == 403
            stolen = {passes.COOKIE: next(c.value for c in staff.cookies.jar if c.name == passes.COOKIE) or ""}
            assert httpx.get(app.url + PART, cookies=stolen).status_code == 403  # without its session
            redis.thaw()
            proxy.mode = "pass"
            assert within(10, lambda: "Not healthy" not in staff.get(PART).text)


def test_it_speaks_for_every_worker_and_remembers_what_dead_ones_saw(database: str, redis: Valkey) -> None:
    with (
        VoiceAssistServer(DATABASE_URL=database, REDIS_URL=redis.url, HEALTH_MAX_AGE="1") as app,
        closing(login(app)) as staff,
    ):
        redis.kill()
        # One connection, so one worker answers; the other one checks too, while somebody looks.
        assert within(10, lambda: staff.get(PART).text.count("redis: connection_refused") == 2)
        redis.start()
        assert within(10, lambda: staff.get(PART).text.count("all healthy") == 2)
        killed = app.workers()[0]
        killed.kill()

        def replaced() -> bool:
            pids = [process.pid for process in app.workers()]
            return len(pids) == 2 and killed.pid not in pids

        assert within(10, replaced)
        with closing(login(app)) as staff:
            pids = {str(process.pid) for process in app.workers()}

            def live() -> set[str]:
                return set(re.findall(r'role="rowheader">(\d+)<', staff.get(PART).text))

            assert within(10, lambda: live() == pids)
            html = staff.get(PART).text
        assert "2 of 2 live" in html
        assert "2 workers" in html  # the failure, seen by both


@needs_chromium
def test_an_open_page_follows(browser: Chrome, database: str, redis: Valkey) -> None:
    def text(selector: str) -> str:
        return browser.find_element(By.CSS_SELECTOR, selector).text

    with VoiceAssistServer(DATABASE_URL=database, REDIS_URL=redis.url, DRAIN_SECONDS="3") as app:
        browser.implicitly_wait(20)  # for what a click brings
        browser.get(f"{app.url}/admin/login/?next=/admin/")
        browser.find_element(By.NAME, "username").send_keys(EMAIL)
        browser.find_element(By.NAME, "password").send_keys(PASSWORD)
        browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
        browser.find_element(By.CSS_SELECTOR, f'#content-main [href="{PAGE}"]').click()
        browser.find_element(By.ID, "status-pause")
        browser.execute_script("window.row = document.getElementById('dependency-redis')")
        browser.execute_script("document.getElementById('status-pause').focus()")
        assert text(".verdict h2").endswith("Ready")
        redis.kill()
        assert within(15, lambda: "Not ready" in text(".verdict h2"))
        assert "connection_refused" in text("#dependency-redis")
        said = browser.find_element(By.ID, "status-said").get_attribute("textContent") or ""
        assert said.startswith("Not ready.")
        assert "redis" in said
        redis.start()
        assert within(15, lambda: text(".verdict h2").endswith("Ready"))
        assert "redis" in text("#outages")
        assert browser.title.startswith("Ready")
        assert browser.execute_script("return document.contains(window.row)")  # changed, neither reloaded nor replaced
        assert browser.execute_script("return document.activeElement.id") == "status-pause"
        phone = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        assert browser.execute_script("return document.documentElement.scrollWidth") == 375
        app.terminate()
        assert within(15, lambda: "Draining" in text(".verdict h2"))
        complaints = browser.get_log("browser")  # type: ignore[no-untyped-call]
        assert not [line for line in complaints if "favicon" not in line["message"]]
        assert within(15, lambda: "does not answer. What you see is of" in text("#status-lost"))
        assert browser.title.startswith("No answer")
