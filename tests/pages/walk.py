"""Open every kind of page of the product, in every state that looks different.

`walk` yields the name of each page while the browser shows it. The browser has to be logged out at the beginning.
"""

from collections.abc import Iterator

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.pages.data import ADMIN, PASSWORD
from tests.pages.site import Site
from tests.support.second_factor import code_of

TIMEOUT = 20  # seconds, for a page after a click and for the status page to notice a failure


def walk(browser: Chrome, site: Site) -> Iterator[str]:
    browser.implicitly_wait(TIMEOUT)
    visitor = Visitor(browser, site)
    yield from visitor.log_in()
    yield from visitor.open_pages()
    yield from visitor.reveal()
    yield from visitor.open_error_pages()
    yield from visitor.open_status_page()
    yield from visitor.log_out()


class Visitor:
    def __init__(self, browser: Chrome, site: Site) -> None:
        self.browser, self.site = browser, site

    def open(self, path: str) -> None:
        self.browser.get(self.site.url + path)

    def fill_in(self, **fields: str) -> None:
        for name, value in fields.items():
            self.browser.find_element(By.NAME, name).send_keys(value)
        self.browser.find_element(By.CSS_SELECTOR, "#content [type=submit]").click()

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
        self.browser.find_element(By.CLASS_NAME, "errornote")
        yield "login, wrong password"
        self.browser.find_element(By.NAME, "username").clear()
        self.fill_in(username=ADMIN, password=PASSWORD)
        secret = self.browser.find_element(By.CLASS_NAME, "key").get_attribute("textContent") or ""
        yield "login, set up the second factor"
        self.fill_in(code=code_of(secret))
        self.browser.find_element(By.CLASS_NAME, "recovery-codes")
        yield "login, recovery codes"
        self.click("[type=submit]")
        self.browser.find_element(By.ID, "logout-form")

    def open_pages(self) -> Iterator[str]:
        for name, path in pages(self.site).items():
            self.open(path)
            yield name
        self.open("/admin/core/user/add/")
        self.fill_in(email="not an address")
        self.browser.find_element(By.CLASS_NAME, "errorlist")
        yield "add user, errors"

    def reveal(self) -> Iterator[str]:
        for model in ("session", "message"):
            self.open(self.site.change(model))
            self.click("button.reveal")
            self.browser.find_element(By.CSS_SELECTOR, "[data-phi]")
            yield f"reveal {model}"

    def open_error_pages(self) -> Iterator[str]:
        for name, path in (("not found", "/admin/nothing/"), ("server error", "/admin/fail/")):
            self.open(path)
            yield f"error, {name}"
        self.open("/admin/password_change/")
        self.browser.delete_cookie("csrftoken")
        self.fill_in(old_password=PASSWORD)
        yield "error, CSRF"
        self.site.postgres.mode = "refuse"
        self.open("/admin/core/user/")
        yield "error, database down"
        self.site.postgres.mode = "pass"

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
        self.wait_for(".overall h2", "Ready")
        self.click("#status-pause")
        yield "status, paused"

    def log_out(self) -> Iterator[str]:
        """Log out, and open what somebody without a login sees."""
        self.open("/admin/")
        self.click("#logout-form button")
        self.wait_for("body", "Logged out")
        yield "logged out"
        self.open("/api/docs/")
        self.browser.find_element(By.CLASS_NAME, "opblock")
        yield "API documentation"
        self.open("/admin/")
        self.fill_in(username=ADMIN, password=PASSWORD)
        self.browser.find_element(By.NAME, "code")
        yield "login, code"
        self.browser.delete_all_cookies()
        self.site.postgres.mode = "refuse"
        self.open("/admin/login/")
        yield "login, database down"
        self.site.postgres.mode = "pass"


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
        "list, invalid filter": "/admin/core/message/?role__exact=nonsense",
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
    }
