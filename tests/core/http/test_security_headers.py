"""What browsers are told: the policy of each answer, and that every page works under it, in a real browser."""

from typing import Any

import pytest
from django.test import Client
from pytest_django.live_server_helper import LiveServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from core.models import Message, Session, User
from tests.support.browser import needs_chromium

PASSWORD = "correct horse battery"
PAGE = {
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
NO_PAGE = {"default-src": "'none'", "frame-ancestors": "'none'"}


def policy(response: Any) -> dict[str, str]:
    return dict(directive.split(" ", 1) for directive in response["Content-Security-Policy"].split("; "))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/admin/", 200, PAGE),
        ("/admin/login/", 302, PAGE),
        ("/admin/core/message/", 200, PAGE),
        ("/admin/core/message/none/", 302, PAGE),
        ("/admin/nothing/", 404, PAGE),
        ("/admin/nothing", 404, PAGE),
        ("/admin/jsi18n/", 200, NO_PAGE),
        ("/api/docs/", 200, PAGE),
        ("/api/schema/", 200, NO_PAGE),
        ("/", 200, NO_PAGE),
        ("/nothing", 404, NO_PAGE),
    ],
)
def test_headers(admin_client: Client, path: str, status: int, expected: dict[str, str]) -> None:
    response = admin_client.get(path)
    assert response.status_code == status
    assert policy(response) == expected
    assert response.get("Permissions-Policy", "").startswith("camera=()") is (expected is PAGE)
    assert response["Referrer-Policy"] == response["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response["X-Frame-Options"] == "DENY"
    if path.startswith("/admin/"):
        assert "no-store" in response["Cache-Control"]
        assert "Cookie" in response["Vary"]


@pytest.mark.django_db
def test_pages_before_a_login_are_not_kept_either(client: Client) -> None:
    for path in ("/admin/", "/admin/login/", "/admin/core/message/", "/admin/nothing/"):
        assert "no-store" in client.get(path)["Cache-Control"], path
    assert policy(client.get("/admin/login/")) == PAGE


class Visitor:
    """Goes from page to page; each has to be free of violations, and of errors in scripts."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser, self.url = browser, url

    def go(self, path: str) -> None:
        self.browser.get(self.url + path)
        self.look()

    def look(self) -> None:
        entries = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        wrong = [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]
        assert not [message for message in wrong if "favicon.ico" not in message], self.browser.current_url

    def there(self, selector: str) -> Any:
        return WebDriverWait(self.browser, 20).until(lambda b: b.find_element(By.CSS_SELECTOR, selector))

    def press(self, selector: str, shows: str) -> None:
        """Clicks until a script has answered: the first click may come before the script listens."""

        def answered(browser: Chrome) -> bool:
            if browser.find_elements(By.CSS_SELECTOR, shows):
                return True
            browser.find_element(By.CSS_SELECTOR, selector).click()
            return False

        WebDriverWait(self.browser, 20, poll_frequency=2).until(answered)
        self.look()

    def send(self, selector: str) -> None:
        self.there(selector).click()
        self.look()


@needs_chromium
@pytest.mark.django_db(transaction=True)
def test_every_page_works_under_its_policy(browser: Chrome, live_server: LiveServer) -> None:
    user = User.objects.create_superuser("ann@example.org", PASSWORD)
    session = Session.objects.create(user=user, title="title")
    message = Message.objects.create(session=session, role="user", content="what was said")
    visit = Visitor(browser, live_server.url)

    visit.go("/admin/")
    visit.there("#id_username").send_keys("ann@example.org")
    visit.there("#id_password").send_keys(PASSWORD)
    visit.send("[type=submit]")
    visit.there("#user-tools")
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
        "/admin/password_change/",
        "/admin/auth/group/",
    ):
        visit.go(path)
        visit.there("#content")

    visit.go("/admin/core/user/")
    visit.press("#action-toggle", "#result_list tr.selected")
    visit.go("/admin/core/user/add/")
    visit.there("#id_email").send_keys("new@example.org")
    visit.there("#id_password1").send_keys("short")
    visit.there("#id_password2").send_keys("other")
    visit.send("[name=_save]")
    assert visit.there(".errorlist")
    for path in (f"/admin/core/user/{user.pk}/change/", "/admin/auth/group/add/"):
        visit.go(path)
        assert visit.there(".selector-chosen")  # a script made two boxes of a select
        visit.send(".selector-chooseall")

    visit.go(f"/admin/core/message/{message.pk}/change/")
    visit.send("button.reveal")
    assert "what was said" in visit.there("[data-phi]").text
    visit.send("#logout-form button")
    # Otherwise the answer to the logout may come after the next page and replace it.
    WebDriverWait(browser, 20).until(lambda b: b.current_url.endswith("/admin/logout/"))

    visit.go("/api/docs/")
    assert "/ready" in visit.there(".opblock-summary-path").find_element(By.XPATH, "//body").text
    visit.press(".opblock-summary", ".try-out__btn")
    visit.press(".try-out__btn", ".execute")
    visit.press(".execute", ".live-responses-table")


@needs_chromium
@pytest.mark.django_db(transaction=True)
def test_the_browser_enforces_it(browser: Chrome, live_server: LiveServer) -> None:
    """Else the test before could not fail."""
    browser.get(live_server.url + "/admin/login/")
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">')")
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert any("Content Security Policy" in entry["message"] for entry in entries)
