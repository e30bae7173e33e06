"""The open status page in a browser: it refreshes, shows that it is paused or out of date, and moves few bytes."""

import http.client
import re
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
from django.test import Client
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from core.models import User
from health import database_warnings
from health.status_page import views
from tests.support.browser import needs_chromium
from tests.support.dependency_servers import Valkey
from tests.support.plugin import Servers
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.screen import PHONE, show_on
from tests.support.voiceassist_server import ROOT, VoiceAssistServer, database_with_staff

EMAIL, PASSWORD = "admin@example.org", "a long password"
PAGE, FRAGMENT = "/admin/status/", "/admin/status/part"
SCRIPT = (ROOT / "health" / "static" / "health" / "status.js").read_text()
REQUEST_SIZE = 1200  # bytes of a browser's request with its cookies, rounded up
MAX_SIZE_PER_HOUR = 2e6  # bytes
# Counts the refreshes that are due and the requests that are sent while the page is paused.
COUNT_WHILE_PAUSED = """{
    window.due = window.sent = 0;
    const isPaused = () => document.getElementById("status-pause")?.ariaPressed === "true";
    const set = setTimeout, send = fetch;
    setTimeout = (f, ms, ...rest) => set(() => { f(...rest); due += f.name === "refresh" && isPaused(); }, ms);
    fetch = (...values) => { sent += isPaused(); return send(...values); };
}"""


@pytest.fixture(scope="module")
def database(servers: Servers) -> str:
    """Return the URL of a migrated database with a superuser."""
    return database_with_staff(servers.postgres, "open_page", EMAIL, PASSWORD)


def log_in(browser: Chrome, app: VoiceAssistServer) -> None:
    with closing(app.log_in(EMAIL, PASSWORD)) as staff:
        for cookie in staff.cookies.jar:
            values = {"name": cookie.name, "value": cookie.value, "url": app.url, "path": cookie.path}
            browser.execute_cdp_cmd("Network.setCookie", values)


@needs_chromium
def test_open_page_refreshes_automatically(browser: Chrome, database: str, redis: Valkey) -> None:
    def text(selector: str) -> str:
        return browser.find_element(By.CSS_SELECTOR, selector).text

    def icon() -> str:
        href = browser.find_element(By.ID, "favicon").get_attribute("href") or ""
        return href.rsplit("/", 1)[1].removeprefix("favicon-").removesuffix(".svg")

    with VoiceAssistServer(DATABASE_URL=database, REDIS_URL=redis.url, DRAIN_SECONDS="600") as app:
        log_in(browser, app)
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": COUNT_WHILE_PAUSED})
        browser.get(app.url + PAGE)
        browser.execute_script("window.row = document.getElementById('dependency-redis')")
        browser.execute_script("document.getElementById('status-pause').focus()")
        assert text(".overall h2").endswith("Ready")
        assert icon() == "ok"
        redis.kill()
        assert succeeds_within(15, lambda: "Not ready" in text(".overall h2"))
        assert icon() == "error"
        assert text("#dependencies tbody tr:first-child").startswith("redis")
        assert "connection_refused" in text("#dependency-redis")
        announcement = browser.find_element(By.ID, "status-announcement").get_attribute("textContent") or ""
        assert announcement.startswith("Not ready.")
        assert "redis" in announcement

        pause = browser.find_element(By.ID, "status-pause")
        pause.click()
        assert pause.get_attribute("aria-pressed") == "true"
        assert re.match(r"Paused at \d\d:\d\d:\d\d UTC\. ", text("#status-stale-text"))
        assert "stale" in (browser.find_element(By.ID, "status").get_attribute("class") or "")
        assert (icon(), browser.title.split(" | ")[0]) == ("paused", "Paused")
        assert succeeds_within(15, lambda: browser.execute_script("return due"))
        assert browser.execute_script("return sent") == 0
        redis.start()
        assert text(".overall h2").endswith("Not ready")
        pause.click()
        assert (pause.get_attribute("aria-pressed"), text("#status-stale")) == ("false", "")

        assert succeeds_within(15, lambda: text(".overall h2").endswith("Ready"))
        assert "redis" in text("#outages")
        assert browser.title.startswith("Ready")
        # The page was changed, but neither reloaded nor replaced.
        assert browser.execute_script("return document.contains(window.row)")
        assert browser.execute_script("return document.activeElement.id") == "status-pause"

        show_on(browser, PHONE)
        assert browser.execute_script("return document.documentElement.scrollWidth") == 375
        cell = browser.find_element(By.CSS_SELECTOR, "#dependency-redis td:nth-child(4)")
        assert (cell.get_attribute("role"), cell.get_attribute("data-label")) == ("cell", "Latency")
        assert not cell.is_displayed()
        browser.find_element(By.CSS_SELECTOR, "#dependency-redis .fold").click()
        assert cell.is_displayed()

        app.terminate()
        assert succeeds_within(15, lambda: "Draining" in text(".overall h2"))
        assert icon() == "warning"
        assert cell.is_displayed()  # also after a refresh
        assert not browser.get_log("browser")  # type: ignore[no-untyped-call]
        app.terminate()  # the second signal ends the drain
        assert app.process.wait(20 * SLOWNESS) == 0
        assert succeeds_within(15, lambda: "does not respond. Showing data from" in text("#status-stale"))
        assert browser.title.startswith("No response")


@needs_chromium
def test_pause_ends_and_logout_is_shown(browser: Chrome, database: str, redis: Valkey) -> None:
    with VoiceAssistServer(DATABASE_URL=database, REDIS_URL=redis.url) as app:
        log_in(browser, app)
        # Timers of more than a minute fire after a second.
        script = "const set = setTimeout; setTimeout = (f, ms, ...rest) => set(f, ms > 60000 ? 1000 : ms, ...rest);"
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        browser.get(f"{app.url}{PAGE}")
        pause = browser.find_element(By.ID, "status-pause")
        pause.click()
        assert succeeds_within(10, lambda: pause.get_attribute("aria-pressed") == "false")
        browser.delete_all_cookies()
        notice = browser.find_element(By.ID, "status-stale")
        assert succeeds_within(15, lambda: "You have been logged out. This is the last known state" in notice.text)
        assert notice.find_element(By.TAG_NAME, "a").get_attribute("href") == f"{app.url}/admin/login/?next={PAGE}"


# Bytes


@pytest.fixture
def staff_client(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser(EMAIL, PASSWORD))
    return client


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the page believe that it is an hour later, so that nothing has changed recently."""
    now = time.time() + 3600
    monkeypatch.setattr("health.status_page.context.time", SimpleNamespace(time=lambda: now))


def refresh(client: Client, etag: str) -> tuple[int, str]:
    response = client.get(FRAGMENT, headers={"if-none-match": etag, "accept-encoding": "gzip"})
    return response.status_code, response["ETag"]


def test_refresh_without_changes_is_not_sent_again(
    staff_client: Client, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    staff_client.get(FRAGMENT)  # the first check finds warnings
    status, etag = refresh(staff_client, "")
    assert status == 200
    assert refresh(staff_client, etag)[0] == 304
    monkeypatch.setattr(database_warnings, "current", {"logs_values": "changed"})
    assert refresh(staff_client, etag)[0] == 200


def test_open_page_costs_little_when_nothing_changes(database: str, redis: Valkey) -> None:
    """Compute it from the sizes of both kinds of responses and from the intervals."""
    match = re.search(r"INTERVAL = (\d+)", SCRIPT)
    assert match
    assert "wait = 2 * INTERVAL" in SCRIPT
    with (
        VoiceAssistServer(DATABASE_URL=database, REDIS_URL=redis.url) as app,
        closing(app.log_in(EMAIL, PASSWORD)) as staff,
    ):
        cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in staff.cookies.jar)

        def size(status: int, **headers: str) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=20)
            headers = {"Accept-Encoding": "gzip", "Cookie": cookie, **headers}
            connection.request("GET", FRAGMENT, headers=headers)
            response = connection.getresponse()
            body = response.read()
            connection.close()
            assert response.status == status
            lines = sum(len(f"{name}: {value}\r\n") for name, value in response.getheaders())
            return len("HTTP/1.1 200 OK\r\n\r\n") + lines + len(body)

        changed, unchanged = size(200), size(304, **{"If-None-Match": "*"})
    requests = 3600 / (2 * int(match[1]) / 1000)
    full = 3600 / views._UPDATE_INTERVAL
    total = requests * (REQUEST_SIZE + unchanged) + full * (changed - unchanged)
    assert total < MAX_SIZE_PER_HOUR, (changed, unchanged, total)
