"""Getting in: guessing ends soon, no answer tells which accounts exist, and nothing that was typed is kept."""

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
from django.core.management import call_command
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from prometheus_client import REGISTRY
from pytest_django import Settings

from core.auth.login_throttling import LIMITS, client_network, hashed_username
from core.models import AuditEvent, User

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
ANN, NOBODY = "ann@example.org", "bob@example.org"
HERE, THERE = "192.0.2.7", "198.51.100.7"


@pytest.fixture
def ann() -> User:
    return User.objects.create_user(ANN, PASSWORD, full_name="Ann Lee", is_staff=True)


def log_in(client: Client, name: str, password: str = PASSWORD, *, at: str = HERE, **more: Any) -> Any:
    return client.post("/admin/login/", {"username": name, "password": password}, REMOTE_ADDR=at, **more)


def inside(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def failures(name: str, at: str, number: int) -> None:
    """As if so many attempts had failed just now."""
    AccessAttempt.objects.create(
        username=hashed_username(None, {"username": name}), ip_address=at, failures_since_start=number
    )


def cool_off() -> None:
    for attempt in AccessAttempt.objects.all():
        AccessAttempt.objects.update(attempt_time=attempt.attempt_time - timedelta(minutes=15, seconds=1))


def logins(outcome: str) -> float:
    return REGISTRY.get_sample_value("voiceassist_logins_total", {"outcome": outcome}) or 0


# How often


def test_an_account_is_closed_where_it_was_guessed_at_and_nowhere_else(client: Client, ann: User) -> None:
    statuses = [log_in(client, ANN, "wrong").status_code for _ in range(LIMITS["account_at_address"] + 1)]
    assert statuses == [200, 200, 200, 200, 429, 429]
    refused = log_in(client, ANN)
    assert refused.status_code == 429
    assert refused["Retry-After"] == "900"
    assert not inside(client)
    assert log_in(client, ANN, at=THERE).status_code == 302
    assert inside(client)


def test_an_account_is_closed_everywhere_if_guesses_come_from_many_addresses(client: Client, ann: User) -> None:
    for number in range(LIMITS["account"] // 4):
        failures(ANN, f"198.51.100.{number}", 4)
    assert log_in(client, ANN, "wrong").status_code == 200
    assert log_in(client, ANN, "wrong").status_code == 429
    assert log_in(client, ANN, at=THERE).status_code == 429


def test_an_address_is_closed_if_guesses_go_to_many_accounts(client: Client, ann: User) -> None:
    for number in range(LIMITS["address"] // 4):
        failures(f"{number}@example.org", HERE, 4)
    assert log_in(client, ANN).status_code == 429
    assert log_in(client, ANN, at=THERE).status_code == 302


def test_limits_fit_a_hospital_behind_one_address() -> None:
    assert LIMITS["account_at_address"] < LIMITS["account"] < LIMITS["address"]


def test_a_lock_ends_by_itself_also_while_somebody_goes_on_trying(client: Client, ann: User) -> None:
    failures(ANN, HERE, LIMITS["account_at_address"])
    before = list(AccessAttempt.objects.values())
    assert log_in(client, ANN, "wrong").status_code == 429
    assert list(AccessAttempt.objects.values()) == before
    cool_off()
    assert log_in(client, ANN).status_code == 302
    assert not AccessAttempt.objects.exists()


def test_logging_in_forgets_ones_own_failures_and_no_others(client: Client, ann: User) -> None:
    failures(ANN, HERE, 4)
    failures(ANN, THERE, 4)
    failures(NOBODY, HERE, 4)
    assert log_in(client, ANN).status_code == 302
    left = {(row.username, row.ip_address) for row in AccessAttempt.objects.all()}
    assert left == {(hashed_username(None, {"username": name}), at) for name, at in ((ANN, THERE), (NOBODY, HERE))}


def test_other_spellings_of_a_name_and_other_browsers_are_counted_together(client: Client, ann: User) -> None:
    for number, name in enumerate((ANN, " ANN@Example.org ", "Ann@example.org", ANN.upper())):
        assert log_in(client, name, "wrong", HTTP_USER_AGENT=f"browser {number}").status_code == 200
    assert log_in(client, ANN, "wrong", headers={"X-Forwarded-For": THERE}).status_code == 429


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
def test_what_counts_as_one_address(rf: RequestFactory, sent: str, counted: str | None) -> None:
    assert client_network(rf.get("/", REMOTE_ADDR=sent)) == counted


def test_behind_a_proxy_the_address_is_what_the_proxy_saw(rf: RequestFactory, settings: Settings) -> None:
    request = rf.get("/", REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": f"{THERE}, {HERE}"})
    assert client_network(request) == "10.0.0.1"
    settings.BEHIND_PROXY = True
    assert client_network(request) == HERE


def test_the_operator_opens_an_account(client: Client, ann: User) -> None:
    failures(ANN, HERE, LIMITS["account_at_address"])
    call_command("axes_reset_username", "Ann@Example.org")
    assert log_in(client, ANN).status_code == 302


def test_the_operator_opens_an_address(client: Client, ann: User) -> None:
    failures(NOBODY, "2001:db8::", LIMITS["address"])
    assert log_in(client, ANN, at="2001:db8::7").status_code == 429
    call_command("axes_reset_ip", "2001:db8::8")
    assert log_in(client, ANN, at="2001:db8::7").status_code == 302


# What an answer tells


def words(response: Any, name: str) -> str:
    text = response.content.decode().replace(name, "NAME")
    return re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", text)


def test_an_account_that_is_not_there_is_answered_like_one_that_is(ann: User) -> None:
    for number in range(LIMITS["account_at_address"] + 1):
        answers = [log_in(Client(), name, "wrong", at=at) for name, at in ((ANN, HERE), (NOBODY, THERE))]
        assert answers[0].status_code == answers[1].status_code
        assert words(answers[0], ANN) == words(answers[1], NOBODY)
        assert ("Too many attempts failed" in words(answers[0], ANN)) is (number > 3)


def test_every_failure_costs_the_same(monkeypatch: pytest.MonkeyPatch, ann: User) -> None:
    """The same statements and as many hashes, so the same time."""
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
    costs = {}
    for number, (name, password) in enumerate(
        [
            (ANN, "wrong"),
            (NOBODY, "wrong"),
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
            assert log_in(Client(), name, password, at=f"198.51.100.{number}").status_code == 200
        costs[name, password] = (hashes["all"], [query["sql"].split('"')[0] for query in queries])
    first = costs[ANN, "wrong"]
    assert first[0] == 1
    assert costs == dict.fromkeys(costs, first)


def test_the_right_password_of_somebody_who_is_no_staff_is_not_told(client: Client) -> None:
    User.objects.create_user(NOBODY, PASSWORD)
    answers = [log_in(client, NOBODY, password) for password in ("wrong", PASSWORD, PASSWORD, PASSWORD, PASSWORD)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429]
    assert words(answers[0], NOBODY) == words(answers[1], NOBODY)


# What is kept


def test_nothing_that_was_typed_or_sent_is_kept_or_logged(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(LIMITS["account_at_address"] + 1):
        client.post(
            "/admin/login/?next=/admin/core/user/?q=canary-query",
            {"username": "canary-name", "password": "canary-password", "field": "canary-field"},
            headers={"User-Agent": "canary-agent", "Accept": "text/canary"},
        )
    rows = list(AccessAttempt.objects.values())
    assert [row["failures_since_start"] for row in rows] == [LIMITS["account_at_address"]]
    kept = json.dumps([*rows, *AuditEvent.objects.values()], default=str)
    out, errors = capsys.readouterr()
    assert "canary" not in kept + out + errors
    assert not AccessLog.objects.exists()
    assert not AccessFailureLog.objects.exists()


def test_old_failures_are_deleted(client: Client, ann: User) -> None:
    failures(NOBODY, THERE, 4)
    cool_off()
    log_in(client, ANN)
    assert not AccessAttempt.objects.exists()


def test_a_lock_is_recorded_once_and_what_it_refuses_is_not(client: Client, ann: User) -> None:
    for _ in range(LIMITS["account_at_address"] + 3):
        log_in(client, ANN, "wrong")
    events = AuditEvent.objects.filter(action__startswith="login", object_id=str(ann.pk), address=HERE)
    assert Counter(events.values_list("action", flat=True)) == {"login_failed": 5, "login_locked": 1}


def test_attempts_are_measured(client: Client, ann: User) -> None:
    before = [logins(outcome) for outcome in ("success", "failure", "locked")]
    log_in(client, ANN, at=THERE)
    for _ in range(LIMITS["account_at_address"] + 1):
        log_in(Client(), ANN, "wrong")
    after = [logins(outcome) for outcome in ("success", "failure", "locked")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 4, 2]


# Passwords and addresses


@pytest.mark.parametrize("password", ["eleven char", "password1234", "123456789012345", "ann@example.org", "Ann Lee 1"])
def test_passwords_that_are_refused(ann: User, password: str) -> None:
    with pytest.raises(ValidationError):
        validate_password(password, ann)


def test_a_password_is_kept_as_argon2id(ann: User) -> None:
    assert ann.password.startswith("argon2$argon2id$")


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "/\\evil.example"]
)
def test_logging_in_leads_to_no_other_host(client: Client, ann: User, target: str) -> None:
    form = {"username": ANN, "password": PASSWORD, "next": target}
    assert client.post("/admin/login/", form)["Location"] == "/admin/"


def test_a_password_is_not_reset_by_mail(client: Client) -> None:
    assert "password_reset" not in client.get("/admin/login/").content.decode()
