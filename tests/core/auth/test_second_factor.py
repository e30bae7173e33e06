"""The second factor: who needs one, when a code is asked for again, and what the database stores.

`tests/security/test_second_factor.py` attacks it.
"""

import base64
import time
from io import StringIO
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import Group, Permission
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from core.auth import pending_login, second_factor
from core.auth.ended_logins import end_logins
from core.models import AuditEvent, Authenticator, Message, RecoveryCodes, Session, User
from core.models.second_factor import decrypt, encrypt, new_secret
from tests.support.browser import needs_chromium
from tests.support.reveal import REASON
from tests.support.screen import PHONE, show_on
from tests.support.second_factor import CONTINUE, code_of

pytestmark = pytest.mark.django_db

EMAIL, PASSWORD, NEW_PASSWORD = "ann@example.org", "correct horse battery", "another passphrase"
FORM = {"username": EMAIL, "password": PASSWORD}
PAGE, VERIFY = "/admin/second-factor/", "/admin/second-factor/verify/"


@pytest.fixture
def user() -> User:
    user = User.objects.create_user(EMAIL, PASSWORD, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=("view_phi", "view_message")))
    return user


@pytest.fixture
def message(user: User) -> Message:
    session = Session.objects.create(user=user)
    return Message.objects.create(session=session, role="user", content="PHI-content")


@pytest.fixture
def codes(user: User) -> list[str]:
    """Enrol the user, and return the recovery codes."""
    Authenticator.new(user, encrypt(new_secret(), user.pk)).save()
    return RecoveryCodes.issue(user)


@pytest.fixture
def required(settings: Settings) -> None:
    settings.ADMIN_MFA = "required"


def log_in_with(client: Client, code: str) -> Any:
    client.post("/admin/login/", FORM)
    return client.post(CONTINUE, {"step": "code", "code": code})


def is_logged_in(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def age_verification(client: Client, seconds: int) -> None:
    session = client.session
    session[second_factor.VERIFIED_AT_KEY] -= seconds
    session.save()


def reveal(client: Client, message: Message) -> Any:
    return client.post(f"/admin/core/message/{message.pk}/reveal/", REASON)


# Who needs one


@pytest.mark.usefixtures("required")
def test_is_required_of_superusers_and_holders_of_view_phi(user: User) -> None:
    assert second_factor.is_required(user)
    assert second_factor.is_required(User.objects.create_superuser("root@example.org"))
    staff = User.objects.create_user("staff@example.org", is_staff=True)
    assert not second_factor.is_required(staff)
    group = Group.objects.create(name="readers")
    group.permissions.set(Permission.objects.filter(codename="view_phi"))
    staff.groups.add(group)
    assert second_factor.is_required(User.objects.get(pk=staff.pk))


def test_is_optional_in_development(client: Client, user: User) -> None:
    assert django_settings.ADMIN_MFA == "optional"
    assert client.post("/admin/login/", FORM)["Location"] == "/admin/"
    assert is_logged_in(client)


def test_is_asked_for_where_it_is_optional_and_set_up(client: Client, user: User, codes: list[str]) -> None:
    assert client.post("/admin/login/", FORM)["Location"] == CONTINUE
    assert not is_logged_in(client)
    assert log_in_with(client, codes[0])["Location"] == "/admin/"
    assert is_logged_in(client)


@pytest.mark.usefixtures("required")
def test_user_who_gains_view_phi_while_logged_in_has_to_enrol(client: Client, user: User, message: Message) -> None:
    permissions = list(user.user_permissions.all())
    user.user_permissions.clear()
    assert client.post("/admin/login/", FORM)["Location"] == "/admin/"
    assert is_logged_in(client)
    user.user_permissions.set(permissions)
    response = reveal(client, message)
    assert response["Location"] == f"{VERIFY}?next=/admin/core/message/{message.pk}/reveal/"
    assert client.get(response["Location"])["Location"].startswith(PAGE)
    assert client.get("/admin/core/message/")["Location"].startswith(VERIFY)
    assert client.post("/admin/logout/").status_code == 200


def test_setting_up_voluntarily_needs_the_password(client: Client, user: User) -> None:
    client.post("/admin/login/", FORM)
    secret = client.get(PAGE).context["secret"]
    assert "Wrong password" in client.post(PAGE, {"code": code_of(secret), "password": "wrong"}).content.decode()
    assert not second_factor.is_enrolled(user)
    response = client.post(PAGE, {"code": code_of(secret), "password": PASSWORD})
    assert len(response.context["codes"]) == 10
    assert second_factor.is_enrolled(user)


def test_can_be_removed_and_replaced_with_a_code(client: Client, user: User, codes: list[str]) -> None:
    log_in_with(client, codes.pop())
    old = Authenticator.objects.get(user=user).key
    client.post(PAGE, {"code": codes.pop(), "replace": "1"})
    secret = client.get(PAGE).context["secret"]
    assert "Wrong code" in client.post(PAGE, {"code": "000000"}).content.decode()
    assert Authenticator.objects.get(user=user).key == old
    codes = client.post(PAGE, {"code": code_of(secret)}).context["codes"]
    assert Authenticator.objects.get(user=user).key != old
    more = client.post(PAGE, {"code": codes.pop(), "codes": "1"}).context["codes"]
    assert "Wrong code" in client.post(PAGE, {"code": codes.pop(), "remove": "1"}).content.decode()
    client.post(PAGE, {"code": more.pop(), "remove": "1"})
    assert not second_factor.is_enrolled(user)
    assert not RecoveryCodes.objects.exists()


def test_user_without_the_phone_finds_the_field_for_a_recovery_code(
    client: Client, user: User, codes: list[str]
) -> None:
    """On a telephone, the field for the app's code shows a keypad without letters."""
    log_in_with(client, codes.pop())
    assert 'href="?recovery=1"' in client.get(PAGE).content.decode()
    response = client.get(f"{PAGE}?recovery=1")
    assert "inputmode" not in response.content.decode()
    assert client.post(f"{PAGE}?recovery=1", {"code": codes.pop(), "replace": "1"})["Location"] == PAGE
    assert "secret" in client.get(PAGE).context


def test_page_for_another_app_closes(client: Client, user: User, codes: list[str]) -> None:
    """Otherwise an unattended computer would suffice to replace the app if its user has left this page open."""
    log_in_with(client, codes.pop())
    client.post(PAGE, {"code": codes.pop(), "replace": "1"})
    secret = client.get(PAGE).context["secret"]
    session = client.session
    session["replaces_second_factor"] -= pending_login.MAX_STEP_AGE
    session.save()
    old = Authenticator.objects.get(user=user).key
    client.post(PAGE, {"code": code_of(secret)})
    assert "secret" not in client.get(PAGE).context
    assert Authenticator.objects.get(user=user).key == old


# Login


def test_pending_login_ends_after_five_minutes(
    client: Client, codes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/admin/login/", FORM)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + pending_login.MAX_STEP_AGE + 1)
    response = client.post(CONTINUE, {"step": "code", "code": codes[0]})
    assert response["Location"] == "/admin/login/?next=/admin/"
    assert not is_logged_in(client)
    assert not AuditEvent.objects.filter(action=AuditEvent.Action.RECOVERY_CODE_USED).exists()


def test_pending_login_ends_with_all_logins_whatever_the_clocks_say(
    client: Client, user: User, codes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's clock is ten seconds behind that of the server."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10)
    client.post("/admin/login/", FORM)
    end_logins(user)
    assert client.post(CONTINUE, {"step": "code", "code": codes.pop()})["Location"] == "/admin/login/?next=/admin/"
    assert not is_logged_in(client)
    monkeypatch.setattr(time, "time", lambda: now - 10)  # it is ahead: the next login works at once
    assert log_in_with(client, codes.pop())["Location"] == "/admin/"
    assert is_logged_in(client)


def test_last_wrong_code_before_the_lock_says_so(client: Client, codes: list[str]) -> None:
    responses = [log_in_with(client, "aaaa-bbbb")]
    responses += [client.post(CONTINUE, {"step": "code", "code": "aaaa-bbbb"}) for _ in range(4)]
    assert [response.status_code for response in responses] == [200, 200, 200, 200, 429]
    assert "Wrong code" in responses[-2].content.decode()
    assert (
        "Too many failed attempts. Try again in 15 minutes, or ask an administrator." in responses[-1].content.decode()
    )


def test_login_has_a_new_session_key_at_each_end(client: Client, user: User, codes: list[str]) -> None:
    client.get("/admin/login/")
    keys = []
    for _ in range(2):
        client.post("/admin/login/", FORM)
        keys.append(client.session.session_key)
        client.post(CONTINUE, {"step": "code", "code": codes.pop()})
        keys.append(client.session.session_key)
    assert len(set(keys)) == 4
    logins = AuditEvent.objects.filter(action=AuditEvent.Action.LOGIN, object_id=user.pk)
    assert logins.count() == 2


def test_warns_when_few_recovery_codes_are_left(client: Client, codes: list[str]) -> None:
    for left in range(9, 1, -1):
        log_in_with(client, codes.pop())
        text = client.get("/admin/").content.decode()
        assert (f"Recovery codes left: {left}" in text) is (left <= second_factor.FEW_RECOVERY_CODES)


@pytest.mark.parametrize("code", ["", "12345", "1234567", "+12345", "1_2_3_4", "١٢٣٤٥٦", "x" * 51, "\0", "aaaa-bbbb"])
def test_malformed_code_is_wrong(client: Client, codes: list[str], code: str) -> None:
    assert log_in_with(client, code).status_code == 200
    assert not is_logged_in(client)


# Step-up


def test_reveal_asks_again_after_an_hour(client: Client, message: Message, codes: list[str]) -> None:
    log_in_with(client, codes.pop())
    assert "PHI-content" in reveal(client, message).content.decode()
    age_verification(client, second_factor.MAX_VERIFICATION_AGE)
    response = reveal(client, message)
    assert response["Location"].startswith(VERIFY)
    assert AuditEvent.objects.filter(action=AuditEvent.Action.REVEAL).count() == 1
    assert "Wrong code" in client.post(response["Location"], {"code": "aaaa"}).content.decode()
    assert reveal(client, message).status_code == 302
    after = client.post(response["Location"], {"code": codes.pop()}, follow=True)
    assert after.redirect_chain[-1][0] == f"/admin/core/message/{message.pk}/change/"  # PHI takes another POST
    assert "PHI-content" not in after.content.decode()
    assert "PHI-content" in reveal(client, message).content.decode()


# Storage


def test_secret_is_encrypted_again_with_a_new_key(user: User, settings: Settings) -> None:
    secret = new_secret()
    settings.SECRET_KEY = "old" * 20
    device = Authenticator.new(user, encrypt(secret, user.pk))
    device.save()
    old = device.key
    assert len(old) <= 80
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new" * 20, ["old" * 20]
    assert device.verify_token(code_of(base64.b32encode(secret).decode()))
    device.refresh_from_db()
    assert device.key != old
    settings.SECRET_KEY_FALLBACKS = []
    assert decrypt(device.key, user.pk) == (secret, True)
    settings.SECRET_KEY = "lost" * 20
    assert not device.verify_token("123456")


def test_command_encrypts_secrets_of_users_who_did_not_log_in(user: User, settings: Settings) -> None:
    secret, other = new_secret(), User.objects.create_user("bob@example.org")
    settings.SECRET_KEY = "old" * 20
    Authenticator.new(user, encrypt(secret, user.pk)).save()
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new" * 20, ["old" * 20]
    Authenticator.new(other, encrypt(secret, other.pk)).save()
    output = StringIO()
    call_command("encrypt_second_factors", stdout=output)
    assert output.getvalue() == "Encrypted 1 second factors with the current key.\n"
    settings.SECRET_KEY_FALLBACKS = []
    for device in Authenticator.objects.all():
        assert decrypt(device.key, device.user_id) == (secret, True)
    settings.SECRET_KEY = "lost" * 20
    with pytest.raises(CommandError, match=r"2 second factors can't be decrypted\. .*SECRET_KEY_FALLBACKS"):
        call_command("encrypt_second_factors", stdout=output)


def test_changes_are_audited_without_secrets(user: User, codes: list[str]) -> None:
    user_codes = RecoveryCodes.objects.get(user=user)
    user_codes.user = user
    assert user_codes.use(codes[0])
    second_factor.reset(user)
    events = AuditEvent.objects.filter(object_id=user.pk, table__in=("otp_totp_totpdevice", "recovery_codes"))
    assert sorted(events.values_list("table", "action")) == [
        ("otp_totp_totpdevice", "create"),
        ("otp_totp_totpdevice", "delete"),
        ("recovery_codes", "change"),
        ("recovery_codes", "create"),
        ("recovery_codes", "delete"),
    ]
    for event in events:
        for name in ("key", "digests"):
            if name in event.changes:
                assert set(event.changes[name]) <= {"●●●●●●", None}
    user.refresh_from_db()
    assert user.logins_ended_at is not None


def test_command_resets(user: User, codes: list[str]) -> None:
    with pytest.raises(CommandError, match="No user has this email"):
        call_command("reset_second_factor", "nobody@example.org")
    call_command("reset_second_factor", EMAIL.upper(), stdout=StringIO())
    assert not second_factor.is_enrolled(user)
    assert AuditEvent.objects.filter(action=AuditEvent.Action.LOGINS_ENDED, object_id=user.pk).exists()


def test_pages_of_django_otp_are_off(admin_client: Client) -> None:
    """These pages would show secrets, and could add a device to any account."""
    assert admin_client.get("/admin/otp_totp/totpdevice/").status_code == 404


def test_django_otp_refuses_our_secrets(user: User) -> None:
    """`match_token` of django-otp uses the model of the table, not ours, and can't read the encrypted secret."""
    from django_otp import match_token

    secret = new_secret()
    device = Authenticator.new(user, encrypt(secret, user.pk))
    device.save()
    valid = code_of(base64.b32encode(secret).decode())
    with pytest.raises(ValueError, match="Non-hexadecimal"):
        match_token(user, valid)
    assert device.verify_token(valid)


# In a browser


@needs_chromium
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_pages_work_in_a_browser(browser: Chrome, live_server: LiveServer) -> None:
    user = User.objects.create_superuser(EMAIL, PASSWORD)
    user.must_change_password = True
    user.save()
    message = Message.objects.create(session=Session.objects.create(user=user), role="user", content="PHI-content")

    def type_into(name: str, text: str) -> None:
        browser.find_element(By.NAME, name).send_keys(text)

    def focused() -> str:
        return str(browser.execute_script("return document.activeElement.name"))

    def fits_a_phone() -> bool:
        return bool(browser.execute_script("return document.documentElement.scrollWidth <= 375"))

    show_on(browser, PHONE)
    browser.implicitly_wait(20)
    browser.get(f"{live_server.url}/admin/core/message/{message.pk}/change/")
    type_into("username", EMAIL)
    type_into("password", PASSWORD + Keys.ENTER)
    browser.find_element(By.NAME, "new_password1")
    assert focused() == "new_password1"
    assert fits_a_phone()
    type_into("new_password1", NEW_PASSWORD)
    type_into("new_password2", NEW_PASSWORD + Keys.ENTER)
    secret = browser.find_element(By.CLASS_NAME, "key").get_attribute("textContent") or ""
    assert fits_a_phone()
    qr_code = browser.find_element(By.CSS_SELECTOR, "svg.qr-code")
    assert qr_code.size["width"] > 150
    assert qr_code.get_dom_attribute("viewBox")  # otherwise most of it is cut off
    type_into("code", "000000" + Keys.ENTER)
    assert "Wrong code" in browser.find_element(By.CLASS_NAME, "errorlist").text
    type_into("code", code_of(secret) + Keys.ENTER)
    codes = [item.text for item in browser.find_elements(By.CSS_SELECTOR, ".recovery-codes code")]
    assert fits_a_phone()
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    browser.find_element(By.XPATH, "//button[text()='Reveal PHI']")  # the page that was asked for
    browser.find_element(By.CSS_SELECTOR, "#logout-form button").click()

    WebDriverWait(browser, 20).until(lambda b: b.current_url.endswith("/admin/logout/"))
    browser.get(f"{live_server.url}/admin/second-factor/verify/")
    type_into("username", EMAIL)
    type_into("password", NEW_PASSWORD + Keys.ENTER)
    browser.find_element(By.LINK_TEXT, "Use a recovery code").click()
    browser.find_element(By.LINK_TEXT, "Use the authenticator app")
    assert focused() == "code"
    type_into("code", codes.pop() + Keys.ENTER)
    browser.find_element(By.ID, "logout-form")
    assert focused() == "code"  # of the step-up
    assert fits_a_phone()
    type_into("code", codes.pop() + Keys.ENTER)
    assert "Code accepted" in browser.find_element(By.CLASS_NAME, "messagelist").text
    assert "Content Security Policy" not in str(browser.get_log("browser"))  # type: ignore[no-untyped-call]
