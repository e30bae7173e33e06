"""Limits of networks, emergency accounts, and the rows that failures leave behind."""

from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.core.management import CommandError, call_command
from django.test import Client
from prometheus_client import REGISTRY

from core.auth.login_failures import LIMITS, hashed_username, network_range
from core.models import AuditEvent, User

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
EMAIL = "user@example.org"
ELSEWHERE = "198.51.100.7"


@pytest.fixture
def user() -> User:
    return User.objects.create_user(EMAIL, PASSWORD, is_staff=True)


def log_in(address: str, email: str = EMAIL, password: str = PASSWORD) -> int:
    form = {"username": email, "password": password}
    status: int = Client().post("/admin/login/", form, REMOTE_ADDR=address).status_code
    return status


def create_failures(email: str, address: str, number: int) -> None:
    AccessAttempt.objects.create(
        username=hashed_username(None, {"username": email}), ip_address=address, failures_since_start=number
    )


@pytest.mark.parametrize(
    ("address", "prefix", "first", "last"),
    [
        ("192.0.2.7", 48, "192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2345::9", 64, "2001:db8:1:2345::", "2001:db8:1:2345:ffff:ffff:ffff:ffff"),
        ("2001:db8:1:2345::9", 56, "2001:db8:1:2300::", "2001:db8:1:23ff:ffff:ffff:ffff:ffff"),
        ("2001:db8:1:2345::9", 48, "2001:db8:1::", "2001:db8:1:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_network_range(address: str, prefix: int, first: str, last: str) -> None:
    assert network_range(address, prefix) == (first, last)


@pytest.mark.parametrize(("scope", "step"), [("account_in_56", 1), ("account_in_48", 0x100)])
def test_locks_account_in_a_network_but_not_elsewhere(user: User, scope: str, step: int) -> None:
    for number in range(LIMITS[scope] // 2):
        create_failures(EMAIL, f"2001:db8:0:{number * step:x}::", 2)
    assert log_in(f"2001:db8:0:{99 * step:x}::1") == 429
    assert log_in("2001:db8:1::1") == 302


@pytest.mark.parametrize(("scope", "step"), [("network_56", 1), ("network_48", 0x100)])
def test_locks_a_network_after_failures_of_many_accounts(user: User, scope: str, step: int) -> None:
    for number in range(LIMITS[scope] // 4):
        create_failures(f"{number}@example.org", f"2001:db8:0:{number * step:x}::", 4)
    assert log_in(f"2001:db8:0:{199 * step:x}::1") == 429
    assert log_in("2001:db8:1::1") == 302


def test_a_single_network_can_not_lock_an_account_everywhere() -> None:
    assert LIMITS["account_at_address"] < LIMITS["account_in_56"] < LIMITS["account_in_48"] < LIMITS["account"]
    assert LIMITS["address"] < LIMITS["network_56"] < LIMITS["network_48"]


def test_command_unlocks_a_network(user: User) -> None:
    for number in range(LIMITS["account_in_48"]):
        create_failures(EMAIL, f"2001:db8:0:{number:x}::", 1)
    assert log_in("2001:db8::1") == 429
    call_command("axes_reset_ip", "2001:db8:0:ffff::1")
    assert log_in("2001:db8::1") == 302


def test_expired_failure_does_not_count_when_the_next_one_follows(user: User) -> None:
    create_failures(EMAIL, ELSEWHERE, LIMITS["account_at_address"] - 1)
    for attempt in AccessAttempt.objects.all():
        AccessAttempt.objects.update(attempt_time=attempt.attempt_time - timedelta(minutes=15, seconds=1))
    assert log_in(ELSEWHERE, password="wrong") == 200
    assert log_in(ELSEWHERE, password="wrong") == 200
    assert AccessAttempt.objects.get(username=hashed_username(None, {"username": EMAIL})).failures_since_start == 2


# Emergency accounts


def emergency_logins() -> float:
    return REGISTRY.get_sample_value("voiceassist_emergency_logins_total") or 0


@pytest.fixture
def emergency_user() -> User:
    return User.objects.create_superuser(EMAIL, PASSWORD, is_emergency=True)


def test_emergency_account_is_not_locked_from_everywhere(emergency_user: User) -> None:
    for number in range(LIMITS["account"]):
        create_failures(EMAIL, f"192.0.2.{number}", 2)
    assert log_in(ELSEWHERE) == 302


def test_emergency_account_is_locked_at_an_address_and_in_a_network(emergency_user: User) -> None:
    create_failures(EMAIL, ELSEWHERE, LIMITS["account_at_address"])
    create_failures(EMAIL, "2001:db8:0:ffff::", LIMITS["account_in_48"])
    assert log_in(ELSEWHERE) == 429
    assert log_in("2001:db8::1") == 429


def test_login_of_an_emergency_account_is_recorded_logged_and_counted(
    emergency_user: User, caplog: pytest.LogCaptureFixture
) -> None:
    before = emergency_logins()
    assert log_in(ELSEWHERE) == 302
    assert emergency_logins() == before + 1
    assert AuditEvent.objects.get(action="login").actor_id == emergency_user.pk
    assert "an emergency account logged in" in caplog.text


def test_other_logins_are_no_emergency(user: User) -> None:
    before = emergency_logins()
    assert log_in(ELSEWHERE) == 302
    assert emergency_logins() == before


@pytest.mark.parametrize("production", [False, True])
def test_command_creates_an_emergency_account(
    capsys: pytest.CaptureFixture[str], settings: Any, production: bool
) -> None:
    settings.PRODUCTION = production
    call_command("create_admin", "--emergency", "Sealed-4711@Example.org")
    password = capsys.readouterr().out.split("password ")[1].split()[0]
    user = User.objects.get(email="sealed-4711@example.org")
    assert user.is_emergency and user.is_staff and user.is_superuser
    assert user.check_password(password)
    with pytest.raises(CommandError, match="A user with this email already exists."):
        call_command("create_admin", "--emergency", "sealed-4711@example.org")
    with pytest.raises(CommandError, match="valid email"):
        call_command("create_admin", "--emergency", "sealed")


def test_only_superusers_make_an_account_an_emergency_account(client: Client) -> None:
    from core.admin.users import PRIVILEGED_FIELDS

    assert "is_emergency" in PRIVILEGED_FIELDS
    superuser = User.objects.create_superuser("root@example.org", PASSWORD)
    client.force_login(superuser)
    page = f"/admin/core/user/{superuser.pk}/change/"
    form = {"email": "root@example.org", "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    assert client.post(page, {**form, "is_emergency": "on"}).status_code == 302
    superuser.refresh_from_db()
    assert superuser.is_emergency
    assert AuditEvent.objects.filter(table="users").latest("created_at", "id").changes["is_emergency"] == [False, True]
