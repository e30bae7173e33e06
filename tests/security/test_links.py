"""No URL that the admin makes contains personal data, whatever was searched. The last test uses a browser."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, unquote, urljoin, urlsplit

import pytest
from django.test import Client
from pytest_django.live_server_helper import LiveServer
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from core.admin import search_terms
from core.models import AuditEvent, Message, Session, User
from tests.support.browser import needs_chromium
from tests.support.second_factor import log_in

pytestmark = pytest.mark.django_db

EMAIL, NAME, ADDRESS = "zephyr@quillfeather.example", "Zephyrine Quill", "198.51.100.77"
PERSONAL = ("zephyr", "quill", ADDRESS)
LISTS = ("user", "session", "message", "auditevent")
TERMS = (EMAIL, EMAIL.upper(), NAME[:9], ADDRESS, "Zephyr, nobody with that name")


class Links(HTMLParser):
    """The URLs in a page, and those that its GET forms would make."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.followed: list[str] = []
        self.urls: list[str] = []
        self._is_get_form = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.urls += [
            values[name] for name in ("href", "action", "src", "formaction", "data-login-url") if name in values
        ]
        if tag == "a":
            self.followed.append(values.get("href", ""))
        elif tag == "form":
            self._is_get_form = values.get("method", "get").lower() == "get"
        elif tag == "input" and self._is_get_form:
            self.urls.append(values.get("value", ""))


def assert_impersonal(url: str, origin: str) -> None:
    plain = unquote(unquote(unquote(url))).lower()
    assert not [word for word in PERSONAL if word in plain], f"{url} on {origin}"


@pytest.fixture
def user(admin_client: Client) -> User:
    """Create a user with a conversation and audit events, by a request from the address."""
    user = User.objects.create_user(EMAIL, full_name=NAME, is_staff=True)
    session = Session.objects.create(user=user, title="title")
    for number in range(60):  # more than a page
        Message.objects.create(session=session, role="user", client_message_id=str(number))
    form = {"email": EMAIL, "full_name": NAME, "is_active": "on"}
    admin_client.post(f"/admin/core/user/{user.pk}/change/", form, REMOTE_ADDR=ADDRESS)
    assert AuditEvent.objects.filter(address=ADDRESS).exists()
    return user


def search(client: Client, model: str, term: str, query: str = "") -> str:
    """Search as the form does, and return the URL of the results."""
    response = client.post(f"/admin/core/{model}/{query}", {"q": term})
    assert response.status_code == 302
    return str(response["Location"])


def kind_of(url: str) -> str:
    """Return the URL with the names of its parameters and of its parts that are not ids."""
    parts = urlsplit(url)
    names = sorted(name.split("__")[0] for name in parse_qs(parts.query))
    return f"{re.sub('[0-9a-f-]{36}', 'ID', parts.path)} {names[:3]}"


def crawl(client: Client, start: str, limit: int) -> Iterator[tuple[str, Any]]:
    """Yield at most `limit` pages of different kinds that links lead to, and assert that no URL is personal."""
    waiting, seen = [start], {kind_of(start)}
    while waiting:
        url = waiting.pop(0)
        response = client.get(url)
        yield url, response
        if "Location" in response:
            assert_impersonal(response["Location"], url)
        if not response.get("Content-Type", "").startswith("text/html"):
            continue
        links = Links(response.content.decode())
        for link in links.urls:
            assert_impersonal(link, url)
        for target in (urljoin(url, link) for link in links.followed if "#" not in link):
            if target.startswith("/admin/core/") and kind_of(target) not in seen and len(seen) < limit:
                seen.add(kind_of(target))
                waiting.append(target)


@pytest.mark.parametrize("model", LISTS)
def test_no_link_contains_personal_data(admin_client: Client, user: User, model: str) -> None:
    for term in TERMS:
        url = search(admin_client, model, term)
        assert_impersonal(url, f"search for {term}")
        pages = [page for page, _ in crawl(admin_client, url, limit=25 if term == EMAIL else 2)]
        assert len(pages) > (10 if term == EMAIL else 1), pages


def test_links_of_the_results_repeat_the_search(admin_client: Client, user: User) -> None:
    User.objects.create_user("somebody@example.org", is_staff=True)
    url = search(admin_client, "user", EMAIL, "?is_active__exact=1&older_than=x")
    assert set(parse_qs(urlsplit(url).query)) == {"is_active__exact", "q"}
    response = admin_client.get(url)
    assert [row.pk for row in response.context["cl"].result_list] == [user.pk]
    assert f'value="{EMAIL}"' in response.content.decode()
    filtered = [link for link in Links(response.content.decode()).followed if "is_superuser__exact=0" in link]
    response = admin_client.get(urljoin(url, filtered[0]))
    assert [row.pk for row in response.context["cl"].result_list] == [user.pk]
    (row,) = {link for link in Links(response.content.decode()).followed if f"{user.pk}/change/" in link}
    form = {"email": EMAIL, "full_name": NAME, "is_active": "on", "_save": ""}
    back = admin_client.post(row, form)["Location"]
    assert_impersonal(back, row)
    assert [row.pk for row in admin_client.get(back).context["cl"].result_list] == [user.pk]


def test_search_for_an_id_can_be_shared(admin_client: Client, user: User) -> None:
    assert search(admin_client, "user", f" {user.pk} ") == f"/admin/core/user/?q={user.pk}"
    assert search(admin_client, "user", " ") == "/admin/core/user/?"


def test_typed_url_is_replaced(admin_client: Client, user: User) -> None:
    """Bookmarks and forms of an earlier version have the search term in their URL."""
    response = admin_client.get("/admin/core/user/", {"q": EMAIL, "is_staff__exact": "0"})
    assert response.status_code == 302
    assert_impersonal(response["Location"], "")
    assert [row.pk for row in admin_client.get(response["Location"]).context["cl"].result_list] == [user.pk]


def test_search_expires_with_the_login(admin_client: Client, user: User) -> None:
    url = search(admin_client, "user", EMAIL)
    other = Client()
    other.force_login(User.objects.create_superuser("other@example.org"))
    for client in (other, admin_client):
        if client is admin_client:
            client.logout()
            assert_impersonal(client.get(url)["Location"], url)
            client.force_login(User.objects.get(email="other@example.org"))
        response = client.get(url, follow=True)
        text = response.content.decode()
        assert "The search has expired. Search again." in text
        assert EMAIL.upper() not in text
        assert response.context["cl"].query == ""
        assert response.context["cl"].result_count > 1  # the whole list


def test_search_without_a_login_is_not_in_the_url_of_the_login(client: Client) -> None:
    response = client.post("/admin/core/user/", {"q": EMAIL})
    assert response["Location"] == "/admin/login/?next=/admin/core/user/"


def test_stored_searches_are_encrypted_and_limited(admin_client: Client, user: User) -> None:
    urls = [search(admin_client, "user", f"{EMAIL}{number}") for number in range(search_terms._MAX_SEARCHES + 5)]
    stored = admin_client.session["searches"]
    assert len(stored) == search_terms._MAX_SEARCHES
    assert "zephyr" not in json.dumps(stored)
    texts = [admin_client.get(url, follow=True).content.decode() for url in (urls[0], urls[-1])]
    assert "The search has expired." in texts[0]
    assert f'value="{EMAIL}{search_terms._MAX_SEARCHES + 4}"' in texts[1]


@pytest.mark.parametrize("term", ["\0", "a\0b@x.org", "\ud800", "~", "~x", "😀" * 300, "x" * 3000, "%", "'; --", "\\"])
def test_odd_terms_match_nothing(admin_client: Client, user: User, term: str) -> None:
    for model in LISTS:
        data = f"q={term}".encode(errors="surrogatepass")
        response = admin_client.post(
            f"/admin/core/{model}/", data, content_type="application/x-www-form-urlencoded", follow=True
        )
        assert response.status_code == 200
        assert response.context["cl"].result_count == 0


@needs_chromium
@pytest.mark.django_db(transaction=True)
def test_browser_goes_back_and_forward(browser: Chrome, live_server: LiveServer) -> None:
    browser.implicitly_wait(20)  # for the page after a click
    User.objects.create_superuser("root@example.org", "correct horse battery")
    user = User.objects.create_user(EMAIL, full_name=NAME)
    log_in(browser, f"{live_server.url}/admin/core/user/", "root@example.org", "correct horse battery")
    browser.find_element(By.ID, "searchbar").send_keys(EMAIL, Keys.ENTER)
    assert "Quill" in browser.find_element(By.CSS_SELECTOR, "#result_list tbody").text
    results = browser.current_url
    browser.find_element(By.LINK_TEXT, EMAIL).click()
    browser.find_element(By.NAME, "full_name")
    assert_impersonal(browser.current_url, "the page of the user")
    browser.back()
    assert browser.find_element(By.ID, "searchbar").get_attribute("value") == EMAIL
    assert browser.current_url == results
    browser.back()
    assert browser.find_element(By.ID, "searchbar").get_attribute("value") == ""
    browser.forward()
    assert browser.find_element(By.ID, "searchbar").get_attribute("value") == EMAIL
    browser.refresh()
    assert str(user.pk) in browser.page_source
    for entry in browser.execute_cdp_cmd("Page.getNavigationHistory", {})["entries"]:
        assert_impersonal(entry["url"], "history")
