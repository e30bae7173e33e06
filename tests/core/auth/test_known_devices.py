"""Known devices: strangers can't lock them, their cookie reveals nothing, and a new password ends it."""

import re
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.core.management import call_command
from django.http import HttpResponse
from django.test import Client, RequestFactory
from pytest_django import Settings

from core.auth import known_devices
from core.auth.login_failures import LIMITS, hashed_username
from core.models import User

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
EMAIL, OTHER_EMAIL = "user@example.org", "other@example.org"


@pytest.fixture
def user() -> User:
    return User.objects.create_user(EMAIL, PASSWORD, is_staff=True)


@pytest.fixture
def other_user() -> User:
    return User.objects.create_user(OTHER_EMAIL, PASSWORD, is_staff=True)


def log_in(client: Client, email: str = EMAIL, password: str = PASSWORD) -> Any:
    return client.post("/admin/login/", {"username": email, "password": password})


def device_of(*users: User) -> Client:
    """Return a client that these users have logged in on, and that is logged out."""
    client = Client()
    for user in users:
        assert log_in(client, user.email).status_code == 302
        client.post("/admin/logout/")
    return client


def lock(email: str) -> None:
    """Fail as often as lock the account everywhere and at the address of the test client."""
    AccessAttempt.objects.create(
        username=hashed_username(None, {"username": email}),
        ip_address="127.0.0.1",
        failures_since_start=LIMITS["account"],
    )


def test_strangers_do_not_lock_a_known_device(user: User) -> None:
    device = device_of(user)
    lock(EMAIL)
    assert log_in(Client()).status_code == 429
    assert log_in(device).status_code == 302


def test_failures_of_a_known_device_lock_only_the_device(user: User, other_user: User) -> None:
    device, second_device = device_of(user, other_user), device_of(user)
    statuses = [log_in(device, password="wrong").status_code for _ in range(LIMITS["account_on_device"] + 1)]
    assert statuses == [200, 200, 200, 200, 429, 429]
    assert log_in(device).status_code == 429
    assert log_in(device, OTHER_EMAIL).status_code == 302
    assert log_in(second_device).status_code == 302
    assert log_in(Client()).status_code == 302
    call_command("axes_reset_username", EMAIL)
    assert log_in(device).status_code == 302


def test_login_deletes_failures_on_the_device(user: User) -> None:
    device = device_of(user)
    for _ in range(LIMITS["account_on_device"] - 1):
        log_in(device, password="wrong")
    assert log_in(device).status_code == 302
    device.post("/admin/logout/")
    assert log_in(device, password="wrong").status_code == 200


def test_device_is_known_only_to_accounts_that_logged_in_on_it(user: User, other_user: User) -> None:
    device = device_of(user)
    lock(OTHER_EMAIL)
    assert log_in(device, OTHER_EMAIL).status_code == 429


def test_several_accounts_share_a_device(user: User, other_user: User) -> None:
    device = device_of(user, other_user)
    lock(EMAIL)
    lock(OTHER_EMAIL)
    for email in (EMAIL, OTHER_EMAIL):
        assert log_in(device, email).status_code == 302
        device.post("/admin/logout/")


def test_new_password_ends_the_cookie(user: User) -> None:
    device = device_of(user)
    user.set_password("another long password")
    user.save()
    lock(EMAIL)
    assert log_in(device, password="another long password").status_code == 429


def test_own_new_password_renews_the_cookie(user: User) -> None:
    device = Client()
    log_in(device)
    new = "another long password"
    form = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert device.post("/admin/password_change/", form).status_code == 302
    device.post("/admin/logout/")
    lock(EMAIL)
    assert log_in(device, password=new).status_code == 302


def test_cookie_survives_a_new_secret_key(user: User, settings: Settings) -> None:
    device = device_of(user)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a new key", [settings.SECRET_KEY]
    lock(EMAIL)
    assert log_in(device).status_code == 302
    device.post("/admin/logout/")
    settings.SECRET_KEY_FALLBACKS = []
    lock(EMAIL)
    assert log_in(device).status_code == 302  # the login has renewed it
    device.post("/admin/logout/")
    settings.SECRET_KEY = "another key"
    lock(EMAIL)
    assert log_in(device).status_code == 429


def test_cookie_contains_neither_email_nor_key(user: User) -> None:
    cookie = device_of(user).cookies["device"]
    assert re.fullmatch(r"[\w-]{22}\.[\w-]{22}", cookie.value)
    for secret in (EMAIL, str(user.pk), user.pk.hex):
        assert secret not in cookie.value
    assert device_of(user).cookies["device"].value.split(".")[1] != cookie.value.split(".")[1]


def test_attributes_of_the_cookie(user: User, settings: Settings) -> None:
    cookie = device_of(user).cookies["device"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Strict", "/", "")
    assert cookie["max-age"] == 365 * 24 * 3600
    settings.SESSION_COOKIE_SECURE, settings.DEVICE_COOKIE_NAME = True, "__Host-device"
    assert device_of(user).cookies["__Host-device"]["secure"]


@pytest.mark.parametrize("value", ["", "x", "." * 50, "a" * 22, f"{'a' * 22}.{'b' * 22}", f"{'é' * 22}.{'b' * 22}"])
def test_invalid_cookie_counts_as_none(user: User, value: str) -> None:
    client = Client()
    client.cookies["device"] = value
    lock(EMAIL)
    assert log_in(client).status_code == 429
    AccessAttempt.objects.all().delete()
    assert log_in(client).status_code == 302


def test_cookie_keeps_a_limited_number_of_accounts(user: User, rf: RequestFactory) -> None:
    request = rf.get("/")
    for number in range(known_devices.MAX_ACCOUNTS + 5):
        user.password = str(number)
        known_devices.remember(request, user)
        response = HttpResponse()
        known_devices.set_cookie(request, response)
        request = rf.get("/")
        request.COOKIES["device"] = response.cookies["device"].value
    assert request.COOKIES["device"].count(".") == known_devices.MAX_ACCOUNTS
    assert known_devices.device_of(request, user)
