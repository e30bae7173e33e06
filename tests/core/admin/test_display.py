"""Lists as a browser shows them: no column is hidden, times are in the chosen zone, and ids can be copied."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from core import tasks
from core.models import Backup, Message, Session, User
from tests.support.browser import needs_chromium
from tests.support.screen import PHONE, show_on
from tests.support.second_factor import log_in

PASSWORD = "correct horse battery"
EMAIL = f"{'long' * 27}@example.org"  # 120 characters
SENT = datetime(2026, 1, 25, 14, 0, 40, tzinfo=UTC)
SENT_IN_UTC, SENT_IN_BERLIN = "2026-01-25 14:00:40 UTC", "2026-01-25 15:00:40 GMT+1"

TIME_WITHOUT_ZONE = re.compile(r">[^<]*\d\d:\d\d(?!:?\d|[^<]*UTC)[^<]*<")

# The columns and cells that are not visible in the window, and those with a text of one letter per line.
HIDDEN = """
const results = document.querySelector("#result_list, .access-review table"), hidden = [];
for (const cell of results.querySelectorAll("th, td")) {
    const box = cell.getBoundingClientRect(), lines = cell.clientHeight / 20;
    if (box.right > document.documentElement.clientWidth + 1) hidden.push(["right", cell.outerHTML]);
    if (lines > 5 && cell.textContent.trim().length / lines < 3) hidden.push(["narrow", cell.outerHTML]);
}
const box = results.closest(".results") ?? results;
if (box.scrollWidth > box.clientWidth + 1) hidden.push(["scrolls", box.scrollWidth, box.clientWidth]);
return hidden;
"""


@pytest.fixture
def message() -> Message:
    """Create rows whose values are as long as the columns allow."""
    user = User.objects.create_user(EMAIL, full_name="Freifrau von " * 15, specialty="long words " * 9)
    session = Session.objects.create(user=user, mode="case_workspace", created_at=SENT, is_archived=True)
    Backup.objects.create(
        kind="qdrant", name="x", started_at=SENT, finished_at=SENT, size=10**12, product_version="1", verified_at=SENT
    )
    tasks.delete_user.enqueue(str(user.pk))
    return Message.objects.create(
        session=session,
        role="assistant",
        created_at=SENT,
        model="m" * 100,
        tokens=2**31 - 1,
        client_message_id="c" * 128,
    )


@pytest.fixture
def staff_browser(browser: Chrome, live_server: Any, message: Message) -> Iterator[Chrome]:
    """Yield a browser in Berlin that is logged in as a superuser, whose lists have the most columns."""
    User.objects.create_superuser("admin@example.org", PASSWORD)
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Europe/Berlin"})
    log_in(browser, f"{live_server.url}/admin/", "admin@example.org", PASSWORD)
    yield browser


@needs_chromium
@pytest.mark.django_db(transaction=True)
def test_no_list_hides_a_column(staff_browser: Chrome, live_server: Any, message: Message) -> None:
    for page in (
        "/admin/core/user/",
        "/admin/core/session/",
        f"/admin/core/session/?user__id__exact={message.session.user_id}",
        "/admin/core/message/",
        f"/admin/core/message/?session__id__exact={message.session_id}",
        "/admin/core/auditevent/",
        "/admin/core/job/",
        "/admin/core/backup/",
        "/admin/access-review/",
    ):
        for width in (1440, 1280, 375):
            show_on(staff_browser, width)
            staff_browser.get(f"{live_server.url}{page}")
            assert staff_browser.execute_script(HIDDEN) == [], (page, width)
            assert staff_browser.execute_script("return document.documentElement.scrollWidth") <= width, page
    show_on(staff_browser, PHONE)
    for page in (
        f"/admin/core/session/{message.session_id}/change/",
        f"/admin/core/message/{message.pk}/change/",
        f"/admin/core/user/{message.session.user_id}/change/",
    ):
        staff_browser.get(f"{live_server.url}{page}")
        assert staff_browser.execute_script("return document.documentElement.scrollWidth") == 375, page


@needs_chromium
@pytest.mark.django_db(transaction=True)
def test_times_are_shown_in_the_chosen_zone(staff_browser: Chrome, live_server: Any, message: Message) -> None:
    def sent() -> str:
        return staff_browser.find_element(By.CSS_SELECTOR, "#result_list .field-sent time").text

    switch = (By.CSS_SELECTOR, "#time-zone button")
    staff_browser.get(f"{live_server.url}/admin/core/message/")
    assert sent() == SENT_IN_UTC
    staff_browser.find_element(*switch).click()
    assert (sent(), staff_browser.find_element(*switch).text) == (SENT_IN_BERLIN, "TIMES: GMT+1")
    # A later refresh of a part of the page is shown in the same zone.
    change = "document.querySelector('.field-sent time').textContent = '14:00:40 UTC'"
    staff_browser.execute_script(change)
    WebDriverWait(staff_browser, 20).until(lambda _: sent() == "15:00:40 GMT+1")
    staff_browser.refresh()
    assert sent() == SENT_IN_BERLIN
    staff_browser.find_element(By.CSS_SELECTOR, "#logout-form button").click()
    WebDriverWait(staff_browser, 20).until(lambda browser: browser.current_url.endswith("/admin/logout/"))
    assert staff_browser.get_cookie("browser_time_zone")["value"] == "1"  # type: ignore[index]


@needs_chromium
@pytest.mark.django_db(transaction=True)
def test_ids_are_copied(staff_browser: Chrome, live_server: Any, message: Message) -> None:
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    profile = staff_browser.execute_cdp_cmd("Target.getTargetInfo", {})["targetInfo"]["browserContextId"]
    staff_browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": permissions, "browserContextId": profile})
    staff_browser.get(f"{live_server.url}/admin/core/message/")
    staff_browser.find_element(By.CSS_SELECTOR, "#result_list button.copy").click()
    announced = "return document.body.lastElementChild.textContent"
    WebDriverWait(staff_browser, 20).until(lambda browser: browser.execute_script(announced) == "Copied")
    paste = "navigator.clipboard.readText().then(arguments[0])"
    assert staff_browser.execute_async_script(paste) == str(message.pk)


@pytest.mark.django_db
def test_every_time_names_its_zone(admin_client: Client, message: Message) -> None:
    pages = ["user", "session", "message", "auditevent", "job", "backup"]
    for page in [
        *(f"/admin/core/{page}/" for page in pages),
        f"/admin/core/user/{message.session.user_id}/change/",
        f"/admin/core/session/{message.session_id}/change/",
        f"/admin/core/message/{message.pk}/change/",
        f"/admin/core/backup/{Backup.objects.get().pk}/change/",
        "/admin/access-review/",
    ]:
        text = admin_client.get(page).content.decode()
        assert re.search(r"\d UTC<", text), page
        assert not TIME_WITHOUT_ZONE.findall(text), page
