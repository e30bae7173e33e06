"""In a browser: skip links lead to the filters and pages of a list, and links can be hit with a finger."""

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from pytest_django.live_server_helper import LiveServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from core.models import Message, User
from tests.support.browser import needs_chromium
from tests.support.screen import PHONE, show_on

pytestmark = [pytest.mark.django_db(transaction=True), needs_chromium]

MIN_TARGET = 24  # CSS pixels: https://www.w3.org/TR/WCAG22/#target-size-minimum
LIST = "/admin/core/message/"


@pytest.fixture
def url(browser: Chrome, live_server: LiveServer, message: Message) -> str:
    """Return the address of a server on which the browser is logged in, with two pages of messages."""
    Message.objects.bulk_create(Message(session=message.session, role="user") for _ in range(50))
    staff = User.objects.create_user("staff@example.org", "a long password", is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename="view_message"))
    client = Client()
    client.force_login(staff)
    browser.get(f"{live_server.url}/admin/login/")
    browser.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value})
    return str(live_server.url)


def press(browser: Chrome, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


@pytest.mark.parametrize(("number", "text", "target"), [(2, "filters", "changelist-filter"), (3, "pages", "pages")])
def test_skip_links(browser: Chrome, url: str, number: int, text: str, target: str) -> None:
    browser.get(url + LIST)
    press(browser, *[Keys.TAB] * number)
    link = browser.switch_to.active_element
    assert link.text == f"Skip to {text}"
    assert link.rect["y"] >= 0 and link.rect["height"] > 0
    press(browser, Keys.ENTER)
    press(browser, Keys.TAB)
    assert browser.execute_script(f"return document.getElementById('{target}').contains(document.activeElement)")


def test_filters_are_open_before_the_next_key(browser: Chrome, url: str) -> None:
    browser.get(url + LIST)
    filters = browser.find_element(By.ID, "changelist-filter")
    link = browser.find_element(By.CSS_SELECTOR, "[href='#changelist-filter']")
    assert not filters.is_displayed()
    assert browser.execute_script("arguments[0].click(); return !arguments[1].hidden", link, filters)


def test_touch_targets_on_a_phone(browser: Chrome, url: str) -> None:
    show_on(browser, PHONE)
    browser.get(url + LIST)
    targets = browser.find_elements(
        By.CSS_SELECTOR, "#header :is(a, button):not(.skip-to-content-link), .breadcrumbs a"
    )
    sizes = {element.accessible_name.upper(): element.rect for element in targets if element.is_displayed()}
    assert {"HOME", "STATUS", "LOG OUT"} <= set(sizes)
    assert {name: rect for name, rect in sizes.items() if min(rect["height"], rect["width"]) < MIN_TARGET} == {}
