"""Tasks of three people, done in a browser as they would do them, with their clicks counted.

The third, a developer who is new to the service, starts with README.md: `tests/docs/test_readme.py`.
"""

from collections.abc import Iterator

import psycopg
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from tests.pages.data import ADMIN, AGENT, PASSWORD, SAID_AT_TWO, yesterday_at
from tests.pages.site import Site, running_site
from tests.support.browser import empty_profile, needs_chromium, wait_until_gone
from tests.support.plugin import Servers
from tests.support.screen import HEIGHTS, LIGHT, PHONE, show_on
from tests.support.second_factor import log_in

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def site(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(servers, tmp_path_factory.mktemp("site"), "tasks") as site:
        yield site


@pytest.fixture
def browser(chromium: Chrome) -> Iterator[Chrome]:
    with empty_profile(chromium) as browser:
        browser.implicitly_wait(20)  # for the page after a click
        yield browser


class Person:
    """Works in a browser. Counts the pages that are opened and the searches."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser
        self.pages = self.searches = 0

    def see(self, selector: str, text: str = "") -> WebElement:
        """Return the first element that contains the text. It has to be visible."""
        found = [item for item in self.browser.find_elements(By.CSS_SELECTOR, selector) if text in item.text]
        assert found, f"no {selector} contains {text!r}: {self.browser.find_element(By.TAG_NAME, 'body').text}"
        return found[0]

    def open_link(self, link: WebElement) -> None:
        link.click()
        wait_until_gone(self.browser, link)
        self.pages += 1

    def search(self, words: str) -> None:
        box = self.browser.find_element(By.ID, "searchbar")
        box.send_keys(words, Keys.ENTER)
        wait_until_gone(self.browser, box)
        self.pages += 1
        self.searches += 1


def test_agent_finds_what_a_clinician_said_yesterday_at_two(site: Site, browser: Chrome) -> None:
    log_in(browser, f"{site.url}/admin/", AGENT, PASSWORD)
    agent = Person(browser)
    agent.open_link(agent.see("#content-main a", "Users"))
    agent.search("schwarzenberg")
    (row,) = browser.find_elements(By.CSS_SELECTOR, "#result_list tbody tr")
    assert "Schwarzenberg" in row.text
    agent.open_link(row.find_element(By.PARTIAL_LINK_TEXT, "essions"))
    began = f"{yesterday_at(13, 40):%Y-%m-%d %H:%M}"
    agent.open_link(agent.see("#result_list tbody a", began))
    Select(browser.find_element(By.NAME, "reason")).select_by_value("support")
    agent.open_link(browser.find_element(By.CSS_SELECTOR, "button.read"))

    assert (agent.pages, agent.searches) == (5, 1)
    message = agent.see(".transcript > li", SAID_AT_TWO).text
    assert "User" in message  # who said it
    assert f"{yesterday_at(14, 0):%Y-%m-%d %H:%M:%S} UTC" in message
    assert "PHI" in message and "no PHI" not in message
    assert "no PHI" in agent.see(".transcript > li", f"{yesterday_at(13, 59):%Y-%m-%d %H:%M:%S} UTC").text
    with psycopg.connect(site.database) as database:
        reasons = database.execute("SELECT changes -> 'reason' ->> 1 FROM audit_events WHERE action = 'reveal'")
        assert reasons.fetchall() == [("Support request from the user",)]


def test_engineer_on_call_sees_the_cause_without_a_login(site: Site, browser: Chrome) -> None:
    show_on(browser, PHONE, LIGHT)
    site.postgres.mode = "refuse"
    try:
        browser.get(f"{site.url}/admin/status/")
        engineer = Person(browser)
        for text in (engineer.see("#content tr", "postgres"), engineer.see("#content time", "UTC")):
            assert text.rect["y"] + text.rect["height"] <= HEIGHTS[PHONE]  # on the first screen
        assert "connection_refused" in engineer.see("#content tr", "postgres").text
        assert not browser.execute_script("return document.querySelector('[name=password]')")  # nobody can log in
        assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE
    finally:
        site.restore_postgres()


def test_engineer_on_call_who_is_logged_in_sees_the_status_page(site: Site, browser: Chrome) -> None:
    show_on(browser, PHONE, LIGHT)
    log_in(browser, f"{site.url}/admin/", ADMIN, PASSWORD)
    site.postgres.mode = "refuse"
    try:
        engineer = Person(browser)
        browser.get(f"{site.url}/admin/")
        engineer.open_link(engineer.see("#content a", "tatus"))
        assert "connection_refused" in engineer.see("#dependency-postgres").text
        assert engineer.pages == 1
    finally:
        site.restore_postgres()
