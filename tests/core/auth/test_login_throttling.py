"""Login: attempts are limited, responses do not reveal which accounts exist, and credentials are never stored."""

import json
import re
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client import REGISTRY
from pytest_django import Settings

from core.auth.login_failures import LIMITS, client_network, hashed_username
from core.models import AuditEvent, User

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
EMAIL, OTHER_EMAIL = "user@example.org", "other@example.org"  # only the first one has an account
ADDRESS, OTHER_ADDRESS = "192.0.2.7", "198.51.100.7"


@pytest.fixture
def user() -> User:
    return User.objects.create_user(EMAIL, PASSWORD, full_name="Ann Lee", is_staff=True)


def log_in(client: Client, email: str, password: str = PASSWORD, *, address: str = ADDRESS, **extra: Any) -> Any:
    return client.post("/admin/login/", {"username": email, "password": password}, REMOTE_ADDR=address, **extra)


def is_logged_in(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def create_failures(email: str, address: str, number: int) -> None:
    AccessAttempt.objects.create(
        username=hashed_username(None, {"username": email}), ip_address=address, failures_since_start=number
    )


def expire_failures() -> None:
    for attempt in AccessAttempt.objects.all():
        AccessAttempt.objects.update(attempt_time=attempt.attempt_time - timedelta(minutes=15, seconds=1))


def login_count(outcome: str) -> float:
    count = REGISTRY.get_sample_value("voiceassist_logins_total", {"outcome": outcome})
    assert count is not None  # also before the first login, so that its increase is visible
    return count


# Limits


def test_locks_account_at_one_address(client: Client, user: User) -> None:
    statuses = [log_in(client, EMAIL, "wrong").status_code for _ in range(LIMITS["account_at_address"] + 1)]
    assert statuses == [200, 200, 200, 200, 429, 429]
    refused = log_in(client, EMAIL)
    assert refused.status_code == 429
    assert 890 <= int(refused["Retry-After"]) <= 900
    assert not is_logged_in(client)
    assert log_in(client, EMAIL, address=OTHER_ADDRESS).status_code == 302
    assert is_logged_in(client)


def test_locks_account_everywhere_after_failures_from_many_addresses(client: Client, user: User) -> None:
    for number in range(LIMITS["account"] // 4):
        create_failures(EMAIL, f"198.51.100.{number}", 4)
    assert log_in(client, EMAIL, "wrong").status_code == 200
    assert log_in(client, EMAIL, "wrong").status_code == 429
    assert log_in(client, EMAIL, address=OTHER_ADDRESS).status_code == 429


def test_locks_address_after_failures_of_many_accounts(client: Client, user: User) -> None:
    for number in range(LIMITS["address"] // 4):
        create_failures(f"{number}@example.org", ADDRESS, 4)
    assert log_in(client, EMAIL).status_code == 429
    assert log_in(client, EMAIL, address=OTHER_ADDRESS).status_code == 302


@pytest.mark.parametrize(
    ("minutes_ago", "left"),
    [(0.5, "15 minutes"), (0.8, "15 minutes"), (10.5, "5 minutes"), (14.2, "1 minute")],
    ids=str,
)
@pytest.mark.parametrize("email", [EMAIL, OTHER_EMAIL])
def test_lockout_says_when_it_ends(client: Client, user: User, email: str, minutes_ago: float, left: str) -> None:
    """Failures elsewhere and those of other accounts, which do not lock this one, do not count."""
    create_failures(email, ADDRESS, LIMITS["account_at_address"])
    age = timedelta(minutes=minutes_ago)
    AccessAttempt.objects.update(attempt_time=timezone.now() - age)
    create_failures(email, OTHER_ADDRESS, 1)
    create_failures("third@example.org", ADDRESS, 1)
    response = log_in(client, email)
    text = f"Too many failed attempts. Try again in {left}, or ask an administrator."
    assert text in response.content.decode()
    assert abs(int(response["Retry-After"]) - (timedelta(minutes=15) - age).total_seconds()) < 10


def test_lockout_ends_despite_further_attempts(client: Client, user: User) -> None:
    create_failures(EMAIL, ADDRESS, LIMITS["account_at_address"])
    before = list(AccessAttempt.objects.values())
    assert log_in(client, EMAIL, "wrong").status_code == 429
    assert list(AccessAttempt.objects.values()) == before
    expire_failures()
    assert log_in(client, EMAIL).status_code == 302
    assert not AccessAttempt.objects.exists()


def test_login_deletes_only_failures_of_this_account_at_this_address(client: Client, user: User) -> None:
    create_failures(EMAIL, ADDRESS, 4)
    create_failures(EMAIL, OTHER_ADDRESS, 4)
    create_failures(OTHER_EMAIL, ADDRESS, 4)
    assert log_in(client, EMAIL).status_code == 302
    remaining = {(row.username, row.ip_address) for row in AccessAttempt.objects.all()}
    expected = ((EMAIL, OTHER_ADDRESS), (OTHER_EMAIL, ADDRESS))
    assert remaining == {(hashed_username(None, {"username": email}), address) for email, address in expected}


def test_ignores_case_whitespace_and_headers_when_counting(client: Client, user: User) -> None:
    for number, email in enumerate((EMAIL, " USER@Example.org ", "User@example.org", EMAIL.upper())):
        assert log_in(client, email, "wrong", HTTP_USER_AGENT=f"browser {number}").status_code == 200
    assert log_in(client, EMAIL, "wrong", headers={"X-Forwarded-For": OTHER_ADDRESS}).status_code == 429


@pytest.mark.parametrize(
    ("sent", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", None),
    ],
)
def test_client_network(rf: RequestFactory, sent: str, counted: str | None) -> None:
    assert client_network(rf.get("/", REMOTE_ADDR=sent)) == counted


def test_client_network_behind_proxy(rf: RequestFactory, settings: Settings) -> None:
    request = rf.get("/", REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": f"{OTHER_ADDRESS}, {ADDRESS}"})
    assert client_network(request) == "10.0.0.1"
    settings.BEHIND_PROXY = True
    assert client_network(request) == ADDRESS


def test_command_unlocks_account(client: Client, user: User) -> None:
    create_failures(EMAIL, ADDRESS, LIMITS["account_at_address"])
    call_command("axes_reset_username", "User@Example.org")
    assert log_in(client, EMAIL).status_code == 302


@pytest.mark.parametrize("entered", ["2001:db8::8", "[2001:db8::8]:443", "2001:DB8:0::8"])
def test_command_unlocks_address(client: Client, user: User, entered: str) -> None:
    create_failures(OTHER_EMAIL, "2001:db8::", LIMITS["address"])
    assert log_in(client, EMAIL, address="2001:db8::7").status_code == 429
    call_command("axes_reset_ip", entered)
    assert log_in(client, EMAIL, address="2001:db8::7").status_code == 302


@pytest.mark.parametrize("entered", ["nonsense", "", "192.0.2.7.1", "192.0.2.0/24", "user@example.org"])
def test_command_refuses_what_is_not_an_address(user: User, entered: str) -> None:
    create_failures(EMAIL, ADDRESS, LIMITS["account_at_address"])
    with pytest.raises(CommandError, match="Invalid IP address. Enter one such as"):
        call_command("axes_reset_ip", entered)
    assert AccessAttempt.objects.count() == 1


# Responses


def normalized_text(response: Any, email: str) -> str:
    text = response.content.decode().replace(email, "EMAIL")
    return re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", text)


def test_response_is_the_same_for_unknown_accounts(user: User) -> None:
    for number in range(LIMITS["account_at_address"] + 1):
        responses = [
            log_in(Client(), name, "wrong", address=at) for name, at in ((EMAIL, ADDRESS), (OTHER_EMAIL, OTHER_ADDRESS))
        ]
        assert responses[0].status_code == responses[1].status_code
        assert normalized_text(responses[0], EMAIL) == normalized_text(responses[1], OTHER_EMAIL)
        wrong = "Wrong email or password, or not a staff account."
        assert (wrong in normalized_text(responses[0], EMAIL)) is (number <= 3)
        assert (
            "Too many failed attempts. Try again in 15 minutes, or ask an administrator."
            in normalized_text(responses[0], EMAIL)
        ) is (number > 3)


def test_every_failure_runs_the_same_queries_and_hashes(monkeypatch: pytest.MonkeyPatch, user: User) -> None:
    """Otherwise response times would reveal which accounts exist."""
    User.objects.create_user("inactive@example.org", PASSWORD, is_staff=True, is_active=False)
    User.objects.create_user("clinician@example.org", PASSWORD)
    User.objects.create_user("unusable@example.org", is_staff=True)
    hashes: Counter[str] = Counter()
    for name in ("encode", "verify"):
        original = getattr(Argon2PasswordHasher, name)

        def counted(*args: Any, _original: Any = original) -> Any:
            hashes["all"] += 1
            return _original(*args)

        monkeypatch.setattr(Argon2PasswordHasher, name, counted)
    Client().get("/admin/login/")  # checks the dependencies, which the following requests don't do again
    costs = {}
    for number, (email, password) in enumerate(
        [
            (EMAIL, "wrong"),
            (OTHER_EMAIL, "wrong"),
            ("inactive@example.org", PASSWORD),
            ("inactive@example.org", "wrong"),
            ("clinician@example.org", PASSWORD),
            ("clinician@example.org", "wrong"),
            ("unusable@example.org", "wrong"),
            ("my-password-in-the-wrong-field", "wrong"),
        ]
    ):
        hashes.clear()
        with CaptureQueriesContext(connection) as queries:
            assert log_in(Client(), email, password, address=f"198.51.100.{number}").status_code == 200
        costs[email, password] = (hashes["all"], [query["sql"].split('"')[0] for query in queries])
    expected = costs[EMAIL, "wrong"]
    assert expected[0] == 1
    assert costs == dict.fromkeys(costs, expected)


def test_does_not_reveal_right_password_of_non_staff_user(client: Client) -> None:
    User.objects.create_user(OTHER_EMAIL, PASSWORD)
    responses = [
        log_in(client, OTHER_EMAIL, password) for password in ("wrong", PASSWORD, PASSWORD, PASSWORD, PASSWORD)
    ]
    assert [response.status_code for response in responses] == [200, 200, 200, 200, 429]
    assert normalized_text(responses[0], OTHER_EMAIL) == normalized_text(responses[1], OTHER_EMAIL)


# Stored data


def test_neither_stores_nor_logs_request_data(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(LIMITS["account_at_address"] + 1):
        client.post(
            "/admin/login/?next=/admin/core/user/?q=canary-query",
            {"username": "canary-name", "password": "canary-password", "field": "canary-field"},
            headers={"User-Agent": "canary-agent", "Accept": "text/canary"},
        )
    rows = list(AccessAttempt.objects.values())
    assert [row["failures_since_start"] for row in rows] == [LIMITS["account_at_address"]] * 2  # account, network
    stored = json.dumps([*rows, *AuditEvent.objects.values()], default=str)
    out, errors = capsys.readouterr()
    assert "canary" not in stored + out + errors
    assert not AccessLog.objects.exists()
    assert not AccessFailureLog.objects.exists()


def test_deletes_old_failures(client: Client, user: User) -> None:
    create_failures(OTHER_EMAIL, OTHER_ADDRESS, 4)
    expire_failures()
    log_in(client, EMAIL)
    assert not AccessAttempt.objects.exists()


def test_records_lockout_once_and_no_attempts_during_it(
    client: Client, user: User, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(LIMITS["account_at_address"] + 3):
        log_in(client, EMAIL, "wrong")
    events = AuditEvent.objects.filter(action__startswith="login", object_id=str(user.pk), address=ADDRESS)
    assert Counter(events.values_list("action", flat=True)) == {"login_failed": 5, "login_locked": 1}
    assert caplog.text.count("login locked after repeated failures") == 1


def test_counts_login_attempts(client: Client, user: User) -> None:
    before = [login_count(outcome) for outcome in ("success", "failure", "locked")]
    log_in(client, EMAIL, address=OTHER_ADDRESS)
    for _ in range(LIMITS["account_at_address"] + 1):
        log_in(Client(), EMAIL, "wrong")
    after = [login_count(outcome) for outcome in ("success", "failure", "locked")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 4, 2]


# Passwords and addresses


@pytest.mark.parametrize(
    "password", ["eleven char", "password1234", "123456789012345", "user@example.org", "Ann Lee 1"]
)
def test_rejects_weak_password(user: User, password: str) -> None:
    with pytest.raises(ValidationError):
        validate_password(password, user)


def test_hashes_password_with_argon2id(user: User) -> None:
    assert user.password.startswith("argon2$argon2id$")


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "/\\evil.example"]
)
def test_login_does_not_redirect_to_other_hosts(client: Client, user: User, target: str) -> None:
    form = {"username": EMAIL, "password": PASSWORD, "next": target}
    assert client.post("/admin/login/", form)["Location"] == "/admin/"


def test_offers_no_password_reset(client: Client) -> None:
    page = client.get("/admin/login/").content.decode()
    assert "password_reset" not in page
    assert "Forgot your password? Ask an administrator." in page
    assert re.findall("<h1>(.*?)</h1>", page) == ["Log in"]
