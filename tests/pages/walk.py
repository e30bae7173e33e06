"""Open every kind of page of the product, in every state that looks different.

`walk` yields the name of each page while the browser shows it. The browser has to be logged out at the beginning.
"""

from collections.abc import Iterator

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from core.auth.login_failures import LIMITS
from tests.pages.data import ADMIN, NEWCOMER, PASSWORD
from tests.pages.site import Site
from tests.support.browser import wait_until_gone
from tests.support.second_factor import code_of

TIMEOUT = 20  # seconds, for a page after a click and for the status page to notice a failure


def walk(browser: Chrome, site: Site) -> Iterator[str]:
    browser.implicitly_wait(TIMEOUT)
    visitor = Visitor(browser, site)
    yield from visitor.log_in()
    yield from visitor.open_pages()
    yield from visitor.reveal()
    yield from visitor.open_error_pages()
    yield from visitor.log_out()
    yield from visitor.log_in_without_permissions()
    yield from visitor.open_status_page()
    yield from visitor.stop_server()


class Visitor:
    def __init__(self, browser: Chrome, site: Site) -> None:
        self.browser, self.site = browser, site

    def open(self, path: str) -> None:
        self.browser.get(self.site.url + path)

    def fill_in(self, **fields: str) -> None:
        """Fill in the form of the page and send it."""
        for name, value in fields.items():
            field = self.browser.find_element(By.NAME, name)
            field.clear()
            field.send_keys(value)
        button = self.browser.find_element(By.CSS_SELECTOR, "#content [type=submit]")
        button.click()
        wait_until_gone(self.browser, button)

    def click(self, selector: str) -> None:
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def wait_for(self, selector: str, text: str) -> None:
        """Wait until an element contains the text. A refresh may replace the element meanwhile."""
        script = "return document.querySelector(arguments[0])?.textContent.includes(arguments[1])"
        WebDriverWait(self.browser, TIMEOUT).until(lambda browser: browser.execute_script(script, selector, text))

    def log_in(self) -> Iterator[str]:
        self.open("/admin/")
        yield "login"
        self.fill_in(username=ADMIN, password="wrong")
        self.click(".errornote")
        yield "login, wrong password"
        self.fill_in(username=ADMIN, password=PASSWORD)
        secret = self.browser.find_element(By.CLASS_NAME, "key").get_attribute("textContent") or ""
        yield "login, set up the second factor"
        self.fill_in(code=code_of(secret))
        self.click(".recovery-codes")
        yield "login, recovery codes"
        self.click("[type=submit]")
        self.browser.find_element(By.ID, "logout-form")

    def open_pages(self) -> Iterator[str]:
        for name, path in pages(self.site).items():
            self.open(path)
            yield name
        self.open("/admin/core/user/add/")
        self.fill_in(email="not an address")
        self.click(".errorlist")
        yield "add user, errors"

    def reveal(self) -> Iterator[str]:
        for name, model, reason, button in (
            ("conversation", "session", "support", "button.read"),
            ("revealed session", "session", "support", "button.reveal"),
            ("revealed message", "message", "support", "button.reveal"),
            ("reason missing", "message", "other", "button.reveal"),
        ):
            self.open(self.site.change(model))
            Select(self.browser.find_element(By.NAME, "reason")).select_by_value(reason)
            self.click(button)
            self.browser.find_element(By.CSS_SELECTOR, ".errorlist" if reason == "other" else "[data-phi]")
            yield name

    def open_error_pages(self) -> Iterator[str]:
        self.open("/admin/nothing/")
        yield "error, not found"
        self.open("/admin/fail/")
        yield "error, server error"
        self.browser.get(f"http://localhost:{self.site.server.port}/admin/")  # not in ALLOWED_HOSTS
        yield "error, bad request"
        self.open("/admin/")
        self.browser.delete_cookie("csrftoken")
        self.click("#logout-form button")
        self.wait_for("h1", "The form was not accepted")
        yield "error, CSRF"
        self.site.postgres.mode = "refuse"
        self.open("/admin/core/user/")
        yield "error, database down"
        self.site.restore_postgres()

    def log_out(self) -> Iterator[str]:
        """Log out, and open what a person without a login sees."""
        self.open("/admin/")
        self.click("#logout-form button")
        self.wait_for("body", "Logged out")
        yield "logged out"
        self.open("/api/docs/")
        self.click(".opblock-summary")
        yield "API documentation"
        self.open("/admin/")
        self.fill_in(username=ADMIN, password=PASSWORD)
        self.browser.find_element(By.NAME, "code")
        yield "login, code"
        self.browser.delete_all_cookies()
        self.site.postgres.mode = "refuse"
        self.open("/admin/status/")
        yield "login, database down"
        self.site.restore_postgres()
        self.open("/admin/login/")
        for _ in range(LIMITS["account_at_address"] + 1):
            self.fill_in(username="nobody@example.org", password="wrong")
        self.wait_for(".errornote", "Too many failed")
        yield "login, locked"

    def log_in_without_permissions(self) -> Iterator[str]:
        self.open("/admin/")
        self.fill_in(username=NEWCOMER, password=PASSWORD)
        self.browser.find_element(By.ID, "logout-form")
        yield "index without permissions"
        self.open("/admin/core/user/")
        yield "error, forbidden"

    def open_status_page(self) -> Iterator[str]:
        self.open("/admin/status/")
        self.wait_for(".overall h2", "Ready")
        yield "status, ready"
        self.site.redis.mode = "refuse"
        self.wait_for(".overall h2", "Not ready")
        yield "status, Redis down"
        self.site.redis.mode = "pass"
        self.site.postgres.mode = "refuse"
        self.wait_for("#dependency-postgres", "connection_refused")
        yield "status, database down"
        self.site.postgres.mode = "pass"
        self.site.valkey.send_command("DEL voiceassist:queue:workers")
        self.wait_for(".overall h2", "Degraded")
        yield "status, degraded"
        self.click("#status-pause")
        yield "status, paused"
        self.click("#status-pause")

    def stop_server(self) -> Iterator[str]:
        self.site.server.terminate()
        self.wait_for(".overall h2", "Draining")
        yield "status, draining"
        self.site.server.process.kill()
        self.wait_for("#status-stale", "does not respond")
        yield "status, no response"


def pages(site: Site) -> dict[str, str]:
    """Return the paths of the pages that a superuser opens by GET, by name."""
    ids = site.ids
    lists = ("user", "session", "message", "auditevent", "job", "backup")
    objects = ("user", "session", "message", "auditevent", "job", "backup")
    user = f"/admin/core/user/{ids['user']}"
    return {
        "index": "/admin/",
        **{f"list of {model}s": f"/admin/core/{model}/" for model in lists},
        "list of groups": "/admin/auth/group/",
        "list, filtered by a session": f"/admin/core/message/?session__id__exact={ids['session']}",
        "list, filtered by a user": f"/admin/core/session/?user__id__exact={ids['user']}",
        "list, filtered by time": "/admin/core/session/?created_at__gte=2020-01-01T00:00Z",
        "list, nothing found": "/admin/core/user/?q=nobody-has-this-name",
        "list, invalid filter": "/admin/core/backup/?kind__exact=nonsense",
        **{f"page of a {model}": site.change(model) for model in objects},
        "page of a group": site.change("group", "auth"),
        "add user": "/admin/core/user/add/",
        "add group": "/admin/auth/group/add/",
        "password of a user": f"{user}/password/",
        "export of a user": f"{user}/export/",
        "reset of a second factor": f"{user}/reset-second-factor/",
        **{
            f"delete a {model}": f"/admin/core/{model}/{ids[model]}/delete/" for model in ("user", "session", "message")
        },
        "own password": "/admin/password_change/",
        "second factor": "/admin/second-factor/",
        "second factor, code": "/admin/second-factor/verify/",
        "access review": "/admin/access-review/",
        "page of the documentation": "/admin/status/docs/FIRST_HOUR.md",
    }
