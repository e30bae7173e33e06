"""Cookies over HTTPS, and what a browser still has of the site after a logout."""

import ssl
from collections.abc import Iterator
from http.cookies import SimpleCookie

import httpx
import pytest
import trustme
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.security.production import ADMIN, PASSWORD, create_database, environment
from tests.support.browser import needs_chromium
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.proxy import TlsProxy
from tests.support.voiceassist_server import VoiceAssistServer

SESSION, CSRF, STATUS = "__Host-sessionid", "__Host-csrftoken", "__Secure-status_access"
DEVICE = "__Host-device"  # it outlives the login and the browser, so that strangers do not lock its user out
VIA_PROXY = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1"}  # as a proxy would add


@pytest.fixture(scope="module")
def url(servers: Servers) -> Iterator[str]:
    """Return the HTTPS address of a production server behind a proxy."""
    settings = environment(create_database(servers.postgres, "cookies"), servers.redis.url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with (
        VoiceAssistServer(**{**settings, "HTTPS_ONLY": "true", "BEHIND_PROXY": "true"}) as app,
        TlsProxy(app.port, context) as proxy,
    ):
        yield f"https://127.0.0.1:{proxy.port}"


def set_cookies(response: httpx.Response) -> SimpleCookie:
    return SimpleCookie("\r\n".join(response.headers.get_list("set-cookie")))


def test_cookies_have_prefixes_and_end_with_the_browser(url: str) -> None:
    with httpx.Client(base_url=url, headers={**VIA_PROXY, "Referer": url}, verify=False, timeout=30) as client:  # noqa: S501
        cookies = set_cookies(client.get("/admin/login/"))
        token = cookies[CSRF].value
        form = {"username": ADMIN, "password": PASSWORD, "csrfmiddlewaretoken": token}
        cookies.update(set_cookies(client.post("/admin/login/?next=/admin/", data=form)))
        cookies.update(set_cookies(client.get("/admin/")))
        assert set(cookies) == {SESSION, CSRF, STATUS, DEVICE}
        for name, cookie in cookies.items():
            assert cookie["secure"] is True, name
            assert cookie["domain"] == "", name
            assert (cookie["max-age"] == cookie["expires"] == "") == (name != DEVICE), name
            assert cookie["path"] == ("/admin/" if name == STATUS else "/")
            assert (cookie["httponly"] is True) == (name != CSRF)
        renamed = "; ".join(f"{name.rpartition('-')[2]}={cookie.value}" for name, cookie in cookies.items())
        assert httpx.get(f"{url}/admin/", headers={**VIA_PROXY, "Cookie": renamed}, verify=False).status_code == 302  # noqa: S501
        response = client.post("/admin/logout/", headers={"X-CSRFToken": client.cookies[CSRF]})
        assert response.headers["clear-site-data"] == '"cache", "storage"'
        deleted = set_cookies(response)
        assert {name for name, cookie in deleted.items() if cookie["max-age"] == "0"} == {SESSION, STATUS}
        assert all(cookie["secure"] for cookie in deleted.values())  # otherwise a browser ignores the deletion


def log_in(browser: Chrome, url: str) -> None:
    browser.get(f"{url}/admin/login/?next=/admin/")
    browser.find_element(By.NAME, "username").send_keys(ADMIN)
    browser.find_element(By.NAME, "password").send_keys(PASSWORD)
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    assert succeeds_within(20, lambda: bool(browser.find_elements(By.ID, "logout-form")))


@needs_chromium
def test_browser_deletes_what_it_has_stored_at_logout(browser: Chrome, url: str) -> None:
    browser.execute_cdp_cmd("Security.setIgnoreCertificateErrors", {"ignore": True})
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": VIA_PROXY})
    log_in(browser, url)
    names = {cookie["name"] for cookie in browser.get_cookies()}
    assert names == {SESSION, CSRF, DEVICE, STATUS}
    browser.execute_script("document.cookie = '__Host-csrftoken=x; secure; path=/admin/'")
    browser.execute_script("document.cookie = '__Secure-status_access=x; path=/admin/'")
    assert "=x" not in browser.execute_script("return document.cookie")
    browser.execute_script("localStorage.patient = sessionStorage.patient = 'name'")
    browser.find_element(By.CSS_SELECTOR, "#logout-form button").click()
    assert succeeds_within(20, lambda: not browser.find_elements(By.ID, "logout-form"))
    assert browser.execute_script("return [localStorage.patient, sessionStorage.patient]") == [None, None]
    assert {cookie["name"] for cookie in browser.get_cookies()} <= {CSRF, DEVICE}
    log_in(browser, url)  # the CSRF cookie still works
