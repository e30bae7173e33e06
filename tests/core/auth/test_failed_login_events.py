"""The audit trail has every failure of an account, and can't be filled by anonymous clients."""

import pytest
from axes.models import AccessAttempt
from django.test import Client

from core.auth import failed_login_events
from core.auth.login_failures import LIMITS
from core.models import AuditEvent, User

pytestmark = pytest.mark.django_db

EMAIL = "user@example.org"


def fail(email: str, address: str) -> int:
    form = {"username": email, "password": "wrong"}
    status: int = Client().post("/admin/login/", form, REMOTE_ADDR=address).status_code
    return status


def counts() -> list[int]:
    """Return the number of failures of the network in each event, in order."""
    events = AuditEvent.objects.filter(action="login_failed").order_by("id")
    return [event.changes["failures of the network"][1] for event in events]


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8:5:{number:x}::1"])
def test_failures_of_unknown_accounts_in_a_network_are_counted(address: str) -> None:
    for number in range(12):
        assert fail(f"{number}@example.org", address.format(number=number)) == 200
    assert counts() == [1, 10]


def test_failures_of_an_account_are_all_recorded() -> None:
    user = User.objects.create_user(EMAIL, "correct horse battery", is_staff=True)
    for number in range(12):
        fail(f"{number}@example.org", f"2001:db8::{number:x}")
        fail(EMAIL, f"2001:db8:{number}::1")
    events = AuditEvent.objects.filter(action="login_failed", object_id=str(user.pk)).order_by("id")
    assert [event.changes["failures of the account"][1] for event in events] == list(range(1, 13))


def test_events_of_an_emergency_account_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "account", 5)
    user = User.objects.create_superuser(EMAIL, "correct horse battery", is_emergency=True)
    for number in range(LIMITS["account"] + 10):
        assert fail(EMAIL, f"2001:db8:0:{number:x}00::1") == 200
    events = AuditEvent.objects.filter(action__startswith="login", object_id=str(user.pk))
    assert events.count() == LIMITS["account"] + 1  # and the tenth of the network


def test_number_of_networks_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_login_events, "MAX_NETWORKS", 2)
    for number in range(2 + 12):
        fail(f"{number}@example.org", f"2001:db8:{number:x}::1")
    assert counts() == [1, 1, 1, 10]
    assert AccessAttempt.objects.filter(user_agent="window").count() == 2 + 1


def test_window_ends_15_minutes_after_its_first_failure() -> None:
    for _ in range(2):
        fail("0@example.org", "192.0.2.7")
        row = AccessAttempt.objects.get(user_agent="window")
        row.attempt_time -= row.attempt_time.resolution * 8 * 60 * 10**6
        row.save()
    fail("0@example.org", "192.0.2.7")
    assert counts() == [1, 1]


def test_lock_is_recorded_only_with_its_failure() -> None:
    User.objects.create_user(EMAIL, "correct horse battery", is_staff=True)
    for email in ("unknown@example.org", EMAIL):
        for _ in range(LIMITS["account_at_address"] + 1):
            fail(email, "192.0.2.7")
    events = AuditEvent.objects.filter(address="192.0.2.7").exclude(object_id="")
    assert [event.action for event in events.order_by("id")] == ["login_failed"] * 5 + ["login_locked"]
    assert AuditEvent.objects.filter(action="login_locked").count() == 1
