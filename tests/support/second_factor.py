"""Log in with the second factor, in a browser or by HTTP, as a user with an authenticator app does."""

import base64
import re
import time

import httpx
from django_otp.oath import TOTP
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from core.auth.password_hashing import RETRY_AFTER

CONTINUE = "/admin/login/continue/"
SECRET = re.compile(r'<code class="key">([A-Z2-7 ]+)</code>')
RECOVERY_CODE = re.compile(r"<li><code>([a-z2-7-]+)</code></li>")


def code_of(secret: str, steps: int = 0) -> str:
    """Return the code for a secret as the page shows it. `steps` of 30 seconds later if it is positive."""
    totp = TOTP(base64.b32decode(secret.replace(" ", "")))
    totp.time = time.time() + 30 * steps
    return f"{totp.token():06}"


def log_in(browser: Chrome, url: str, email: str, password: str) -> list[str]:
    """Log in to the admin in a browser, set up an authenticator app, and return the recovery codes.

    `url` may be any page of the admin. The user has no second factor yet, and needs one.
    """
    wait_before = browser.timeouts.implicit_wait
    browser.implicitly_wait(20)  # for the page after a click
    browser.get(url)
    browser.find_element(By.NAME, "username").send_keys(email)
    browser.find_element(By.NAME, "password").send_keys(password)
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    secret = browser.find_element(By.CLASS_NAME, "key").get_attribute("textContent") or ""
    browser.find_element(By.NAME, "code").send_keys(code_of(secret))
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    codes = [item.text for item in browser.find_elements(By.CSS_SELECTOR, ".recovery-codes code")]
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    browser.find_element(By.ID, "logout-form")
    browser.implicitly_wait(wait_before)
    return codes


class Person:
    """A user of a server, with a telephone that shows codes and a list of recovery codes."""

    def __init__(self, url: str, email: str, password: str) -> None:
        self.url, self.email, self.password = url, email, password
        self.secret = ""
        self.recovery_codes: list[str] = []

    def browser(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def enter_password(self, client: httpx.Client, next_url: str = "/admin/") -> httpx.Response:
        """Send the login form, again as long as the server is busy with the passwords of other logins."""
        form = {"username": self.email, "password": self.password, "next": next_url}
        while (response := submit(client, "/admin/login/", **form)).headers.get("Retry-After") == str(RETRY_AFTER):
            time.sleep(RETRY_AFTER)
        return response

    def enrol(self, client: httpx.Client) -> None:
        """Set up the telephone in a pending login, and log in."""
        self.secret = secret_of(client.get(CONTINUE))
        response = submit(client, CONTINUE, step="enrol", code=code_of(self.secret))
        self.recovery_codes = RECOVERY_CODE.findall(response.text)
        assert submit(client, CONTINUE).status_code == 302

    def log_in(self) -> httpx.Client:
        """Return a client that is logged in.

        The first login enrols. Later ones use recovery codes, because a code of the app works only once in 30 seconds.
        """
        client = self.browser()
        assert self.enter_password(client).headers["Location"] == CONTINUE
        if self.recovery_codes:
            assert submit(client, CONTINUE, step="code", code=self.recovery_codes.pop()).status_code == 302
        else:
            self.enrol(client)
        assert client.get("/admin/").status_code == 200
        return client


def submit(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Send a form with the CSRF token of the client's cookie."""
    if "csrftoken" not in client.cookies:
        client.get("/admin/login/")
    return client.post(path, data={"csrfmiddlewaretoken": client.cookies["csrftoken"], **fields})


def secret_of(response: httpx.Response) -> str:
    match = SECRET.search(response.text)
    assert match, response.text
    return match[1]
