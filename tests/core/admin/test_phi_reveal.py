"""Revealing PHI takes a permission and a POST, and leaves an audit event. The last test uses a browser."""

from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from pytest_django.live_server_helper import LiveServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from core.models import AuditEvent, Message, User
from tests.core.admin.conftest import CANARY
from tests.core.clients.postgresql.connections import separate_connection
from tests.support.browser import needs_chromium
from tests.support.dependency_servers import SUPERUSER
from tests.support.reveal import REASON, RECORDED_REASON, choose_reason
from tests.support.second_factor import log_in

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
OTHER_PERMISSIONS = ("view_user", "view_session", "view_message", "view_auditevent", "delete_message")


def create_staff(email: str, *permissions: str) -> User:
    user = User.objects.create_user(email, PASSWORD, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


@pytest.fixture
def reviewer(client: Client) -> User:
    user = create_staff("reviewer@example.org", "view_phi", *OTHER_PERMISSIONS)
    client.force_login(user)
    return user


def reveal_events() -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action="reveal").order_by("created_at"))


def page_url(row: Any, view: str = "reveal") -> str:
    return f"/admin/core/{row._meta.model_name}/{row.pk}/{view}/"


def test_reveal_is_recorded_and_not_cached(client: Client, reviewer: User, message: Message) -> None:
    for row, column in ((message, "Content"), (message.session, "Title")):
        response = client.post(page_url(row), REASON, REMOTE_ADDR="192.0.2.7")
        assert CANARY in response.content.decode()
        assert column in response.content.decode()
        assert "no-store" in response["Cache-Control"]
        event = reveal_events()[-1]
        assert (event.table, event.object_id) == (row._meta.db_table, str(row.pk))
        assert (event.actor_id, event.actor_email, event.address) == (reviewer.pk, reviewer.email, "192.0.2.7")
        assert event.trace_id == response["X-Request-ID"]
        for fact in ("ann@example.org", f"{message.session.created_at:%Y-%m-%d %H:%M:%S} UTC"):
            assert fact in response.content.decode()
        assert event.changes["reason"] == [None, RECORDED_REASON]
    page = client.post(page_url(message), REASON).content.decode()
    for fact in ('<strong class="role">User</strong>', f"{message.created_at:%Y-%m-%d %H:%M:%S} UTC", ">PHI</span>"):
        assert fact in page
    assert len(reveal_events()) == 3  # every access, also a repeated one


@pytest.mark.parametrize("method", ["get", "head", "options", "put", "delete"])
def test_only_post_reveals(client: Client, reviewer: User, message: Message, method: str) -> None:
    """Logging in again leads here by GET, which redirects to the masked page."""
    response = getattr(client, method)(page_url(message))
    assert response.status_code == 302
    assert response["Location"] == page_url(message, "change")
    assert not reveal_events()


@pytest.mark.parametrize("missing", ["view_phi", "view_message"])
def test_requires_both_permissions(client: Client, message: Message, missing: str) -> None:
    client.force_login(create_staff("staff@example.org", *({"view_phi", *OTHER_PERMISSIONS} - {missing})))
    response = client.post(page_url(message), REASON)
    assert response.status_code == 403
    assert CANARY not in response.content.decode()
    assert not reveal_events()


def test_requires_staff_and_a_csrf_token(client: Client, message: Message) -> None:
    assert client.post(page_url(message), REASON)["Location"].startswith("/admin/login/")
    client.force_login(message.session.user)  # not staff
    assert client.post(page_url(message), REASON)["Location"].startswith("/admin/login/")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_superuser("root@example.org", PASSWORD))
    assert strict.post(page_url(message), REASON).status_code == 403
    assert not reveal_events()


@pytest.mark.parametrize("key", ["x", "0198c000-0000-7000-8000-000000000000", "%00", "1' OR '1'='1"])
def test_missing_row_is_not_found(client: Client, reviewer: User, key: str) -> None:
    assert client.post(f"/admin/core/message/{key}/reveal/", REASON).status_code == 404
    assert not reveal_events()


def test_everything_else_works_without_view_phi(client: Client, message: Message) -> None:
    client.force_login(create_staff("staff@example.org", *OTHER_PERMISSIONS))
    for row in (message, message.session, message.session.user):
        for path in (f"/admin/core/{row._meta.model_name}/", page_url(row, "change")):
            response = client.get(path)
            assert response.status_code == 200
            assert CANARY not in response.content.decode()
            assert "Reveal" not in response.content.decode()
    assert client.get(page_url(message, "history"), follow=True).status_code == 200
    assert client.get("/admin/core/message/", {"q": str(message.pk)}).context["cl"].result_count == 1
    assert CANARY not in client.get(page_url(message, "delete")).content.decode()
    assert client.post(page_url(message, "delete"), {"post": "yes"}).status_code == 302
    assert not Message.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_audit_event_is_committed_before_rendering(
    client: Client, reviewer: User, message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If rendering fails, there is an audit event and no page."""

    def fail(*args: Any) -> None:
        assert not connection.in_atomic_block
        raise RuntimeError

    monkeypatch.setattr("django.template.response.SimpleTemplateResponse.render", fail)
    client.raise_request_exception = False
    response = client.post(page_url(message), REASON)
    assert response.status_code == 500
    assert CANARY not in response.content.decode()
    assert len(reveal_events()) == 1


@pytest.mark.django_db(transaction=True)
def test_reveals_nothing_if_the_audit_event_is_rejected(client: Client, reviewer: User, message: Message) -> None:
    with separate_connection(user=SUPERUSER) as owner:
        owner.execute("ALTER TABLE audit_events ADD CONSTRAINT full_disk CHECK (action <> 'reveal') NOT VALID")
    try:
        client.raise_request_exception = False
        response = client.post(page_url(message), REASON)
        assert response.status_code == 500
        assert CANARY not in response.content.decode()
    finally:
        with separate_connection(user=SUPERUSER) as owner:
            owner.execute("ALTER TABLE audit_events DROP CONSTRAINT full_disk")


@needs_chromium
@pytest.mark.django_db(transaction=True)
def test_browser_masks_phi_on_leaving_and_returning(browser: Chrome, live_server: LiveServer, message: Message) -> None:
    browser.implicitly_wait(20)  # for the page after a click
    create_staff("reviewer@example.org", "view_phi", *OTHER_PERMISSIONS)
    log_in(browser, f"{live_server.url}/admin/", "reviewer@example.org", PASSWORD)

    # HTML markup, and a character that reverses the text direction.
    content = f"<script>document.title = 'run'</script> \u202e{CANARY}"
    Message.objects.update(content=content)
    browser.get(live_server.url + page_url(message, "change"))
    assert CANARY not in browser.page_source
    choose_reason(browser)
    browser.find_element(By.XPATH, "//button[text()='Reveal PHI']").click()
    assert browser.find_element(By.CSS_SELECTOR, "[data-phi]").text == content
    assert browser.title.startswith("PHI of message")
    assert len(reveal_events()) == 1

    browser.refresh()  # sends the form again, which is recorded again
    assert browser.find_element(By.CSS_SELECTOR, "[data-phi]").text == content
    assert len(reveal_events()) == 2

    # A browser that caches the page in spite of `no-store` caches it masked.
    browser.execute_script("dispatchEvent(new Event('pagehide'))")
    assert CANARY not in browser.page_source
    browser.find_element(By.LINK_TEXT, "Back to the message").click()
    browser.find_element(By.CLASS_NAME, "field-masked_content")
    browser.back()
    assert urlsplit(browser.current_url).path == page_url(message)
    assert CANARY not in browser.page_source  # Chromium prompts before it sends the form again
    browser.get(browser.current_url)
    browser.find_element(By.CLASS_NAME, "field-masked_content")
    assert CANARY not in browser.page_source
    assert len(reveal_events()) == 2

    browser.get(live_server.url + page_url(message.session, "change"))
    choose_reason(browser)
    browser.find_element(By.XPATH, "//button[text()='Read conversation']").click()
    assert browser.find_element(By.CSS_SELECTOR, ".transcript [data-phi]").text == content
    assert len(reveal_events()) == 3
    browser.execute_script("dispatchEvent(new Event('pagehide'))")
    assert CANARY not in browser.page_source

    browser.get(f"{live_server.url}/admin/")
    browser.find_element(By.LINK_TEXT, "PHI access").click()
    row = browser.find_element(By.CSS_SELECTOR, "#result_list tbody tr:last-child").text
    for expected in ("Reveal", "message ann@example.org", "reviewer@example.org", "127.0.0.1"):
        assert expected in row
    assert "Content Security Policy" not in str(browser.get_log("browser"))  # type: ignore[no-untyped-call]
