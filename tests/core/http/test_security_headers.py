"""Security headers of each response, and a check in a real browser that every page works under its policy."""

from typing import Any

import pytest
from django.test import Client
from pytest_django.live_server_helper import LiveServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from core.models import Message, Session, User
from tests.support.browser import needs_chromium
from tests.support.reveal import choose_reason
from tests.support.second_factor import log_in

PASSWORD = "correct horse battery"
HTML_CSP = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "object-src": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
NON_HTML_CSP = {"default-src": "'none'", "frame-ancestors": "'none'"}


def policy(response: Any) -> dict[str, str]:
    return dict(directive.split(" ", 1) for directive in response["Content-Security-Policy"].split("; "))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/admin/", 200, HTML_CSP),
        ("/admin/login/", 302, HTML_CSP),
        ("/admin/core/message/", 200, HTML_CSP),
        ("/admin/core/message/none/", 302, HTML_CSP),
        ("/admin/nothing/", 404, HTML_CSP),
        ("/admin/nothing", 404, HTML_CSP),
        ("/admin/jsi18n/", 200, NON_HTML_CSP),
        ("/api/docs/", 200, HTML_CSP),
        ("/api/schema/", 200, NON_HTML_CSP),
        ("/", 200, NON_HTML_CSP),
        ("/nothing", 404, NON_HTML_CSP),
    ],
)
def test_headers(admin_client: Client, path: str, status: int, expected: dict[str, str]) -> None:
    response = admin_client.get(path)
    assert response.status_code == status
    assert policy(response) == expected
    assert response.get("Permissions-Policy", "").startswith("camera=()") is (expected is HTML_CSP)
    assert response["Referrer-Policy"] == response["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response["X-Frame-Options"] == "DENY"
    if path.startswith("/admin/"):
        assert "no-store" in response["Cache-Control"]
        assert "Cookie" in response["Vary"]


@pytest.mark.django_db
def test_pages_before_login_are_not_cached(client: Client) -> None:
    for path in ("/admin/", "/admin/login/", "/admin/core/message/", "/admin/nothing/"):
        assert "no-store" in client.get(path)["Cache-Control"], path
    assert policy(client.get("/admin/login/")) == HTML_CSP


class PageVisitor:
    """Opens pages and asserts that each logs no policy violation and no script error."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser, self.url = browser, url

    def open(self, path: str) -> None:
        self.browser.get(self.url + path)
        self.assert_no_errors()

    def assert_no_errors(self) -> None:
        entries = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        errors = [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]
        assert not errors, self.browser.current_url

    def wait_for(self, selector: str) -> Any:
        return WebDriverWait(self.browser, 20).until(lambda b: b.find_element(By.CSS_SELECTOR, selector))

    def click_until(self, selector: str, result: str) -> None:
        """Click until the result appears, because the first click may come before the script has a listener."""

        def has_appeared(browser: Chrome) -> bool:
            if browser.find_elements(By.CSS_SELECTOR, result):
                return True
            browser.find_element(By.CSS_SELECTOR, selector).click()
            return False

        WebDriverWait(self.browser, 20, poll_frequency=2).until(has_appeared)
        self.assert_no_errors()

    def click(self, selector: str) -> None:
        self.wait_for(selector).click()
        self.assert_no_errors()


@needs_chromium
@pytest.mark.django_db(transaction=True)
def test_every_page_works_under_its_policy(browser: Chrome, live_server: LiveServer) -> None:
    user = User.objects.create_superuser("user@example.org", PASSWORD)
    session = Session.objects.create(user=user, title="title")
    message = Message.objects.create(session=session, role="user", content="some content")
    visitor = PageVisitor(browser, live_server.url)

    visitor.open("/admin/login/")
    log_in(browser, live_server.url + "/admin/", "user@example.org", PASSWORD)
    visitor.assert_no_errors()
    day = f"{message.created_at:created_at__year=%Y&created_at__month=%m&created_at__day=%d}"
    for path in (
        "/admin/core/user/",
        "/admin/core/session/",
        "/admin/core/auditevent/",
        f"/admin/core/message/?{day}",
        f"/admin/core/message/?role__exact=user&q={session.pk}",
        f"/admin/core/session/{session.pk}/change/",
        f"/admin/core/message/{message.pk}/delete/",
        f"/admin/core/user/{user.pk}/delete/",
        f"/admin/core/user/{user.pk}/password/",
        f"/admin/core/user/{user.pk}/history/",
        f"/admin/core/user/{user.pk}/reset-second-factor/",
        "/admin/second-factor/",
        "/admin/second-factor/verify/",
        "/admin/password_change/",
        "/admin/auth/group/",
    ):
        visitor.open(path)
        visitor.wait_for("#content")

    visitor.open("/admin/core/user/")
    visitor.click_until("#action-toggle", "#result_list tr.selected")
    visitor.open("/admin/core/user/add/")
    visitor.wait_for("#id_email").send_keys("new@example.org")
    visitor.wait_for("#id_password1").send_keys("short")
    visitor.wait_for("#id_password2").send_keys("other")
    visitor.wait_for("#id_confirmation").send_keys("000000")
    visitor.click("[name=_save]")
    assert visitor.wait_for(".errorlist")
    for path in (f"/admin/core/user/{user.pk}/change/", "/admin/auth/group/add/"):
        visitor.open(path)
        assert visitor.wait_for(".selector-chosen")  # a script replaced the <select> by two boxes
        visitor.click(".selector-chooseall")

    visitor.open(f"/admin/core/message/{message.pk}/change/")
    visitor.wait_for("[name=reason]")
    choose_reason(browser)
    visitor.click("button.reveal")
    assert "some content" in visitor.wait_for("[data-phi]").text
    visitor.click("#logout-form button")
    # Otherwise the response to the logout may arrive after the next page and replace it.
    WebDriverWait(browser, 20).until(lambda b: b.current_url.endswith("/admin/logout/"))

    visitor.open("/")  # JSON, for which the browser asks for /favicon.ico
    visitor.open("/api/docs/")
    assert "/ready" in visitor.wait_for(".opblock-summary-path").find_element(By.XPATH, "//body").text
    visitor.click_until(".opblock-summary", ".try-out__btn")
    visitor.click_until(".try-out__btn", ".execute")
    visitor.click_until(".execute", ".live-responses-table")


@needs_chromium
@pytest.mark.django_db(transaction=True)
def test_browser_enforces_policy(browser: Chrome, live_server: LiveServer) -> None:
    """Without this, the test above could pass in a browser that ignores the policy."""
    browser.get(live_server.url + "/admin/login/")
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">')")
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert any("Content Security Policy" in entry["message"] for entry in entries)
