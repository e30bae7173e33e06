"""PHI and the admin do not stay on the screen of a browser that nobody uses or whose login has ended."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import Permission
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from core.auth import session_expiry
from core.models import Message, Session, User
from tests.support.browser import needs_chromium, start_browser
from tests.support.polling import SLOWNESS, succeeds_within
from tests.support.reveal import choose_reason

PASSWORD = "correct horse battery"
CANARY = "canary-of-a-patient"
LOGIN_PAGE = "/admin/login/"
SHORT_AGE = min(round(12 * SLOWNESS), 50)  # seconds; pages show the notice in the last 60
# Each moves the clock of the page, as if it had slept, or as if the time had passed.
ADD_SECONDS = "const now = Date.now; Date.now = () => now() + 1000 * arguments[0]"

pytestmark = [pytest.mark.django_db(transaction=True), needs_chromium]


class Tabs:
    """Tabs of a browser that is logged in."""

    def __init__(self, browser: Chrome, server: LiveServer) -> None:
        self.browser, self.url = browser, server.url

    def log_in(self) -> None:
        self.open("/admin/login/?next=/admin/")
        self.browser.find_element(By.NAME, "username").send_keys("reviewer@example.org")
        self.browser.find_element(By.NAME, "password").send_keys(PASSWORD)
        self.browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
        self.browser.find_element(By.ID, "logout-form")

    def open(self, path: str) -> str:
        self.browser.get(self.url + path)
        return self.browser.current_window_handle

    def open_another(self, path: str) -> str:
        self.browser.switch_to.new_window("tab")
        return self.open(path)

    def show(self, tab: str) -> None:
        self.browser.switch_to.window(tab)

    def reveal(self, message: Message) -> str:
        self.open(f"/admin/core/message/{message.pk}/change/")
        choose_reason(self.browser)
        self.browser.find_element(By.XPATH, "//button[text()='Reveal PHI']").click()
        assert self.browser.find_element(By.CSS_SELECTOR, "[data-phi]").text == CANARY
        return self.browser.current_window_handle

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def shows_phi(self) -> bool:
        """Return whether PHI is in the page: what it shows, copies, finds and restores is in the document."""
        return CANARY in self.browser.page_source or CANARY in str(self.run("return getSelection().toString()"))

    def notice(self) -> str:
        return str(self.browser.find_element(By.ID, "session-notice").text)

    def has_notice(self) -> bool:
        return bool(self.run("return document.getElementById('session-notice')"))

    def path(self) -> str:
        return urlsplit(self.browser.current_url).path

    def is_at_login(self) -> bool:
        return self.path() == LOGIN_PAGE


@pytest.fixture
def message() -> Message:
    user = User.objects.create_user("reviewer@example.org", PASSWORD, is_staff=True)
    codenames = ("view_phi", "view_session", "view_message", "view_user", "change_user")
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    session = Session.objects.create(user=user, title="title")
    return Message.objects.create(session=session, role="user", content=CANARY)


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with start_browser(tmp_path_factory.mktemp("browser")) as browser:
        browser.implicitly_wait(20)  # for the page after a click
        yield browser


@pytest.fixture
def tabs(shared_browser: Chrome, live_server: LiveServer, message: Message) -> Iterator[Tabs]:
    """Yield one tab that is logged in, and close all others afterwards."""
    browser = shared_browser
    browser.switch_to.new_window("tab")
    tabs = Tabs(browser, live_server)
    tabs.log_in()
    yield tabs
    first, *others = browser.window_handles
    browser.switch_to.window(first)
    # ChromeDriver's own command fails if a tab takes longer than 20 s, as Chromium sometimes does while a page that is
    # being loaded in the background redirects. Such a tab ends with the browser.
    for tab in others:
        browser.execute_cdp_cmd("Target.closeTarget", {"targetId": tab})
    succeeds_within(5, lambda: browser.window_handles == [first])
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    violations = [line for line in browser.get_log("browser") if "Content Security" in line["message"]]  # type: ignore[no-untyped-call]
    assert not violations


# Revealed PHI


def test_revealed_page_masks_itself_without_input(tabs: Tabs, message: Message) -> None:
    tabs.reveal(message)
    for _ in range(2):  # input keeps the values
        tabs.run(ADD_SECONDS, 60)
        time.sleep(1.5)  # at least one tick of the page's timer
        assert tabs.shows_phi()
        tabs.run("dispatchEvent(new PointerEvent('pointermove'))")
    tabs.run("getSelection().selectAllChildren(document.querySelector('[data-phi]'))")
    tabs.run(ADD_SECONDS, 2 * 60)
    assert succeeds_within(10, lambda: not tabs.shows_phi())
    assert "The data has been hidden." in tabs.browser.find_element(By.ID, "masked-notice").text
    tabs.run("dispatchEvent(new KeyboardEvent('keydown', {key: 'a'}))")
    assert not tabs.shows_phi()


def test_revealed_page_masks_itself_after_a_sleep(tabs: Tabs, message: Message) -> None:
    for event in (
        "document.dispatchEvent(new Event('visibilitychange'))",  # the tab is shown again
        "dispatchEvent(new PointerEvent('pointermove'))",  # the first input after a sleep
    ):
        tabs.reveal(message)
        tabs.run(f"{ADD_SECONDS}; {event}; window.text = document.documentElement.textContent", 2 * 60 + 1)
        assert CANARY not in tabs.run("return text")  # at once, not after the next tick of a timer
        assert not tabs.shows_phi()


def test_revealed_page_masks_itself_when_it_is_left_or_frozen(tabs: Tabs, message: Message) -> None:
    for event in ("dispatchEvent(new Event('pagehide'))", "document.dispatchEvent(new Event('freeze'))"):
        tabs.reveal(message)
        tabs.run(event)
        assert not tabs.shows_phi()


def test_hidden_tab_masks_itself(tabs: Tabs, message: Message, settings: Settings) -> None:
    settings.REVEAL_MASK_AGE = round(3 * SLOWNESS)
    revealed = tabs.reveal(message)
    tabs.open_another("/admin/")
    time.sleep(settings.REVEAL_MASK_AGE + 3)
    tabs.show(revealed)
    assert not tabs.shows_phi()


@pytest.mark.parametrize("how", ["logout", "expiry"])
def test_login_that_ends_in_another_tab_masks_and_leaves(
    tabs: Tabs, message: Message, settings: Settings, how: str
) -> None:
    user_page = f"/admin/core/user/{message.session.user_id}/change/"
    masked = tabs.open(user_page)
    tabs.browser.switch_to.new_window("tab")
    revealed = tabs.reveal(message)
    tabs.open_another("/admin/")
    if how == "logout":
        tabs.browser.find_element(By.CSS_SELECTOR, "#logout-form button").click()
        assert succeeds_within(10, lambda: "Logged out" in tabs.browser.page_source)
    else:
        settings.SESSION_IDLE_AGE = 0
        tabs.open("/admin/")
        assert tabs.is_at_login()
    for tab, path in ((revealed, f"/admin/core/message/{message.pk}/reveal/"), (masked, user_page)):
        tabs.show(tab)
        assert succeeds_within(10, tabs.is_at_login), tabs.path()
        assert urlsplit(tabs.browser.current_url).query == f"next={path.replace('/', '%2F')}"
        assert not tabs.shows_phi()
        tabs.browser.back()
        assert not tabs.shows_phi()


def test_without_javascript_the_page_masks_itself(tabs: Tabs, message: Message, settings: Settings) -> None:
    settings.REVEAL_MASK_AGE = round(3 * SLOWNESS)
    tabs.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    tabs.reveal(message)
    assert succeeds_within(15, lambda: not tabs.shows_phi())
    assert tabs.path() == f"/admin/core/message/{message.pk}/change/"


# The session


@pytest.fixture
def short_session(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that sets the seconds after which an idle login ends. Each request extends it."""

    def set_idle_age(seconds: int) -> None:
        settings.SESSION_IDLE_AGE = seconds

    monkeypatch.setattr(session_expiry, "_SAVE_INTERVAL", 0)
    return set_idle_age


def test_every_page_leaves_when_the_session_is_over(
    tabs: Tabs, message: Message, short_session: Callable[[int], None]
) -> None:
    short_session(SHORT_AGE)
    paths = ("/admin/", "/admin/core/message/", "/admin/status/", f"/admin/core/message/{message.pk}/change/")
    opened = [tabs.open_another(path) for path in paths]
    tabs.browser.switch_to.new_window("tab")
    started_at = time.monotonic()
    opened.append(tabs.reveal(message))  # its request begins the time again
    assert "Your session ends in less than a minute." in tabs.notice()
    for tab in opened:
        tabs.show(tab)
        assert succeeds_within(30, tabs.is_at_login), tabs.path()
    assert time.monotonic() - started_at > SHORT_AGE - 2  # not at once


def test_page_leaves_after_a_sleep(tabs: Tabs) -> None:
    for event in ("focus", "pageshow"):
        tabs.open("/admin/core/message/?role__exact=user")
        # The server has not slept, so that it redirects the login page to the start page.
        tabs.run(f"{ADD_SECONDS}; dispatchEvent(new Event('{event}'))", 15 * 60 + 1)
        assert succeeds_within(10, lambda: tabs.path() == "/admin/")


def test_activity_in_one_tab_keeps_the_others(tabs: Tabs, short_session: Callable[[int], None]) -> None:
    short_session(64)
    first = tabs.open("/admin/core/message/")
    second = tabs.open_another("/admin/core/session/")
    assert "Your session ends in less than a minute." in tabs.notice()
    tabs.open("/admin/")
    assert not tabs.has_notice()
    tabs.show(first)
    assert succeeds_within(5, lambda: not tabs.has_notice())

    assert "Your session ends in less than a minute." in tabs.notice()
    tabs.browser.find_element(By.CSS_SELECTOR, "#session-notice button").click()
    for tab in (first, second):
        tabs.show(tab)
        assert succeeds_within(5, lambda: not tabs.has_notice())


def test_notice_says_that_twelve_hours_are_over(
    tabs: Tabs, settings: Settings, short_session: Callable[[int], None]
) -> None:
    settings.SESSION_COOKIE_AGE = 50
    tabs.open("/admin/core/message/")
    tabs.browser.find_element(By.CSS_SELECTOR, "#session-notice button").click()
    assert succeeds_within(10, lambda: "A login ends after 12 hours" in tabs.notice())
    settings.SESSION_COOKIE_AGE = 0
    tabs.browser.find_element(By.CSS_SELECTOR, "#session-notice button").click()
    assert succeeds_within(10, tabs.is_at_login)


# A load balancer without a server responds as the first one.
@pytest.mark.parametrize(
    "script",
    [
        "fetch = async () => Response.json({success: false}, {status: 503}); stay.click()",
        "fetch = async () => Response.json({success: false}); stay.click()",
        "fetch = async () => Response.json({seconds_left: 3600}, {status: 503}); stay.click()",
        "for (const end of [NaN, Infinity, undefined, {}, String(Date.now() + 3600e3)]) channel.postMessage(end)",
    ],
    ids=["503", "200 without seconds_left", "503 with seconds_left", "message of another tab"],
)
def test_session_ends_on_screen_after_a_response_or_message_without_its_end(
    tabs: Tabs, message: Message, short_session: Callable[[int], None], script: str
) -> None:
    short_session(SHORT_AGE)
    hidden = tabs.open_another("/admin/core/session/")
    tabs.browser.switch_to.new_window("tab")
    revealed = tabs.reveal(message)
    tabs.run(
        "const stay = document.querySelector('#session-notice button');"
        f"const channel = new BroadcastChannel('voiceassist-session'); {script}"
    )
    if "fetch" in script:
        assert succeeds_within(5, lambda: "The server does not respond. Try again." in tabs.notice())
    for tab in (revealed, hidden):
        tabs.show(tab)
        assert succeeds_within(30, tabs.is_at_login), tabs.path()
        assert not tabs.shows_phi()


def test_open_pages_do_not_extend_the_session(
    tabs: Tabs, monkeypatch: pytest.MonkeyPatch, short_session: Callable[[int], None]
) -> None:
    """The status page refreshes itself, and no other page sends requests."""
    requests: list[str] = []
    touch = session_expiry._touch

    def record(request: Any) -> bool:
        requests.append(request.path)
        return touch(request)

    short_session(SHORT_AGE)
    tabs.open("/admin/core/message/")
    tabs.open_another("/admin/status/")
    monkeypatch.setattr(session_expiry, "_touch", record)
    assert succeeds_within(30, tabs.is_at_login)
    assert set(requests) <= {"/admin/status/part", LOGIN_PAGE}
    assert "/admin/status/part" in requests
