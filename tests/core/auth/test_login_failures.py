"""Limits of networks, emergency accounts, and the rows that failures leave behind."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.crypto import salted_hmac
from prometheus_client import REGISTRY

from core.auth import login_failures, login_throttling
from core.auth.login_failures import LIMITS, hashed_username, network_range, reached_limits
from core.models import AuditEvent, User

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).resolve().parents[3]
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


def test_limits_are_those_of_the_documentation() -> None:
    """The table in docs/SECURITY_COMPLIANCE.md."""
    numbers = {
        "account_at_address": 5,
        "account_in_56": 10,
        "account_in_48": 20,
        "account": 50,
        "address": 100,
        "network_56": 200,
        "network_48": 400,
        "account_on_device": 5,
    }
    text = (ROOT / "docs" / "SECURITY_COMPLIANCE.md").read_text()
    assert "| of one account | 5 | 10 | 20 | 50 |" in text
    assert "| of all accounts | 100 | 200 | 400 | |" in text
    assert "its own failures count, at most 5," in text
    assert numbers == LIMITS
    users = None, User(), User(is_emergency=True)
    for scope, number in numbers.items():
        for user in users:
            assert reached_limits({**dict.fromkeys(numbers, 0), scope: number - 1}, user) == []
            is_exempt = user is users[2] and scope == "account"
            assert reached_limits({**dict.fromkeys(numbers, 0), scope: number}, user) == ([] if is_exempt else [scope])


def attempt(rf: RequestFactory, address: str) -> Any:
    request: Any = rf.post("/", REMOTE_ADDR=address)
    request.axes_attempt_time = timezone.now()
    return request


# Address of a row and who failed there: the number of failures, of which each is another bit.
FAILURES = {
    ("2001:db8:0:100::", EMAIL): 1,
    ("2001:db8:0:1ff::", EMAIL): 2,
    ("2001:db8:0:ffff::", EMAIL): 4,
    ("2001:db8:1::", EMAIL): 8,
    ("2001:db8:0:100::", "other@example.org"): 16,
    ("2001:db8:0:1ff::", "other@example.org"): 32,
    ("2001:db8:0:ffff::", "other@example.org"): 64,
    ("2001:db8:1::", "other@example.org"): 128,
}


def test_counts_what_an_attempt_has_in_common_with_failures(rf: RequestFactory) -> None:
    for (address, email), number in FAILURES.items():
        create_failures(email, address, number)
    create_failures(EMAIL, "2001:db8:0:101::", 256)
    expired = timezone.now() - timedelta(minutes=15)
    AccessAttempt.objects.filter(failures_since_start=256).update(attempt_time=expired)
    AccessAttempt.objects.create(
        username="network", ip_address="2001:db8:0:100::", user_agent="window", failures_since_start=512
    )
    assert login_failures.count(attempt(rf, "2001:db8:0:100:8000::1"), {"username": f" {EMAIL.upper()} "}) == {
        "account_at_address": 1,
        "account_in_56": 1 + 2,
        "account_in_48": 1 + 2 + 4,
        "account": 1 + 2 + 4 + 8,
        "address": 1 + 16,
        "network_56": 1 + 2 + 16 + 32,
        "network_48": 1 + 2 + 4 + 16 + 32 + 64,
    }
    nothing = login_failures.count(attempt(rf, "192.0.2.1"), None)
    assert set(nothing.values()) == {0}


def remaining() -> int:
    """Return which of FAILURES are left."""
    return sum(AccessAttempt.objects.filter(user_agent="").values_list("failures_since_start", flat=True))


@pytest.mark.parametrize(
    ("arguments", "deleted"),
    [
        ({"username": EMAIL, "address": None}, 1 + 2 + 4 + 8),
        ({"username": None, "address": "2001:db8:0:7::7"}, 1 + 2 + 4 + 16 + 32 + 64),
        ({"username": EMAIL, "address": "2001:db8:1::7"}, 8),
    ],
    ids=["account", "network", "both"],
)
def test_reset_deletes_these_failures_only(arguments: dict[str, Any], deleted: int) -> None:
    for (address, email), number in FAILURES.items():
        create_failures(email, address, number)
    assert login_failures.reset(**arguments) == deleted.bit_count()
    assert remaining() == 255 - deleted


def test_login_forgets_the_failures_of_this_account_at_this_address(rf: RequestFactory, user: User) -> None:
    for (address, email), number in FAILURES.items():
        create_failures(email, address, number)
    AccessAttempt.objects.create(
        username=hashed_username(None, {"username": EMAIL}),
        ip_address="2001:db8:0:100::",
        user_agent="window",
        failures_since_start=1,
    )
    login_failures.forget(attempt(rf, "2001:db8:0:100::7"), user)
    assert remaining() == 255 - 1
    assert AccessAttempt.objects.filter(user_agent="window").exists()


def test_deletes_expired_rows_only(rf: RequestFactory) -> None:
    for number, minutes in enumerate((14, 15, 16)):
        create_failures(EMAIL, f"192.0.2.{number}", 1 << number)
        time = timezone.now() - timedelta(minutes=minutes)
        AccessAttempt.objects.filter(ip_address=f"192.0.2.{number}").update(attempt_time=time)
    assert login_failures.delete_expired() == 2
    assert remaining() == 1


def test_failed_login_deletes_expired_rows(user: User) -> None:
    create_failures("other@example.org", ELSEWHERE, 1)
    expired = hashed_username(None, {"username": "other@example.org"})
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=15))
    log_in("192.0.2.7", password="wrong")
    assert not AccessAttempt.objects.filter(username=expired).exists()
    assert AccessAttempt.objects.exists()


def test_user_is_found_by_the_whole_name_once_per_request(rf: RequestFactory, user: User) -> None:
    request = rf.post("/")
    with CaptureQueriesContext(connection) as queries:
        assert login_failures.find_user(request, {"username": f" {EMAIL} "}) == user
        assert login_failures.find_user(request, {"username": EMAIL}) == user
    assert len(queries) == 1
    longest = User.objects.create_user(f"{'a' * 242}@example.org")  # 254 characters
    assert login_failures.find_user(request, {"username": longest.email}) == longest
    assert login_failures.find_user(request, {"username": f"{longest.email}x"}) is None


def test_failures_are_still_counted_after_an_upgrade() -> None:
    expected = salted_hmac("voiceassist.logins", EMAIL, algorithm="sha256").hexdigest()
    assert hashed_username(None, {"username": f" {EMAIL.upper()} "}) == expected


def test_each_failure_adds_one_and_an_expired_row_starts_again(rf: RequestFactory) -> None:
    first = attempt(rf, "192.0.2.7")
    for number in range(1, 4):
        login_failures.add(first, {"username": EMAIL})
        assert remaining() == number
    later = attempt(rf, "192.0.2.7")
    later.axes_attempt_time += timedelta(minutes=14)
    login_failures.add(later, {"username": EMAIL})
    row = AccessAttempt.objects.get()
    assert (row.failures_since_start, row.attempt_time) == (4, later.axes_attempt_time)
    later.axes_attempt_time += timedelta(minutes=15)  # the row expires in this moment
    login_failures.add(later, {"username": EMAIL})
    row = AccessAttempt.objects.get()
    assert (row.failures_since_start, row.attempt_time) == (1, later.axes_attempt_time)
    assert row.username == hashed_username(None, {"username": EMAIL})
    assert re.fullmatch("[0-9a-f]{64}", row.username)


def test_window_of_a_network_ends_a_fixed_time_after_its_first_failure(rf: RequestFactory) -> None:
    assert login_failures.add_to_network(attempt(rf, "2001:db8:0:1::7"), 2) == 1
    start = AccessAttempt.objects.get().attempt_time
    for minutes, number in ((14, 2), (15, 1), (29, 2), (30, 1)):
        request = attempt(rf, "2001:db8:0:1::7")
        request.axes_attempt_time = start + timedelta(minutes=minutes)
        assert login_failures.add_to_network(request, 2) == number, minutes
    assert AccessAttempt.objects.get().ip_address == "2001:db8::"


def test_two_networks_are_counted_and_all_others_together(rf: RequestFactory) -> None:
    numbers = [
        login_failures.add_to_network(attempt(rf, address), 2)
        for address in ("2001:db8::7", "2001:db8:0:2::7", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1", "")
    ]
    assert numbers == [1, 2, 1, 1, 2, 2, 3]


def test_lock_of_expired_failures_ends_after_at_most_fifteen_minutes(rf: RequestFactory) -> None:
    """The failures may expire between the check of the limit and the response."""
    request = attempt(rf, "192.0.2.7")
    login_failures.find_user(request, {"username": EMAIL})
    assert 890 <= login_throttling.seconds_locked(request) <= 900


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
    (line,) = (line for line in caplog.text.splitlines() if "an emergency account logged in" in line)
    assert str(emergency_user.pk) in line


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
