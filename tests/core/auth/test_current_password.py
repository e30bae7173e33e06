"""The form that asks for the current password does not let the holder of a stolen session guess it."""

from typing import Any

import pytest
from django.test import Client
from prometheus_client import REGISTRY

from core.auth.login_failures import LIMITS
from core.models import AuditEvent, User

pytestmark = pytest.mark.django_db

EMAIL, PASSWORD, NEW = "user@example.org", "correct horse battery", "another long password"
PAGE = "/admin/password_change/"


@pytest.fixture
def user() -> User:
    return User.objects.create_user(EMAIL, PASSWORD, is_staff=True)


def log_in(client: Client) -> Any:
    return client.post("/admin/login/", {"username": EMAIL, "password": PASSWORD})


@pytest.fixture
def session(user: User) -> Client:
    """Return a client with a stolen web session, without the cookie of the device."""
    client = Client()
    log_in(client)
    del client.cookies["device"]
    return client


def change(client: Client, old: str) -> Any:
    return client.post(PAGE, {"old_password": old, "new_password1": NEW, "new_password2": NEW})


def test_changes_password(session: Client, user: User) -> None:
    assert session.get(PAGE).status_code == 200
    assert change(session, PASSWORD)["Location"] == "/admin/password_change/done/"
    user.refresh_from_db()
    assert user.check_password(NEW)
    assert session.get("/admin/").status_code == 200


def test_wrong_passwords_are_recorded_and_end_the_session(session: Client, user: User) -> None:
    responses = [change(session, "wrong") for _ in range(LIMITS["account_at_address"])]
    assert [response.status_code for response in responses] == [200, 200, 200, 200, 429]
    assert "Your old password was entered incorrectly" in responses[0].content.decode()
    assert (
        "You have been logged out. Too many failed attempts. Try again in 15 minutes" in responses[-1].content.decode()
    )
    assert 890 <= int(responses[-1]["Retry-After"]) <= 900
    assert session.get("/admin/").status_code == 302
    assert change(session, PASSWORD).status_code == 302  # to the login page
    user.refresh_from_db()
    assert user.check_password(PASSWORD)
    events = AuditEvent.objects.filter(action__in=["password_failed", "login_locked", "logout"]).order_by("id")
    assert [event.action for event in events] == ["password_failed"] * 5 + ["login_locked", "logout"]
    assert {event.actor_id for event in events if event.action != "login_locked"} == {user.pk}
    assert {event.object_id for event in events} == {str(user.pk)}
    assert log_in(Client()).status_code == 429


def test_failures_count_for_all_sessions_together(session: Client, user: User) -> None:
    other = Client()
    log_in(other)
    del other.cookies["device"]
    for _ in range(LIMITS["account_at_address"]):
        change(session, "wrong")
    assert change(other, PASSWORD).status_code == 429
    assert other.get("/admin/").status_code == 302
    user.refresh_from_db()
    assert user.check_password(PASSWORD)


def test_strangers_do_not_end_the_session_of_a_known_device(user: User) -> None:
    owner = Client()
    log_in(owner)
    for _ in range(LIMITS["account_at_address"]):
        Client().post("/admin/login/", {"username": EMAIL, "password": "wrong"})
    assert log_in(Client()).status_code == 429
    assert change(owner, PASSWORD).status_code == 302


def test_right_password_deletes_the_failures(session: Client) -> None:
    for _ in range(LIMITS["account_at_address"] - 1):
        change(session, "wrong")
    assert change(session, PASSWORD).status_code == 302
    assert change(session, "wrong").status_code == 200


def test_counts_in_the_metric(session: Client) -> None:
    def failures() -> float:
        return REGISTRY.get_sample_value("voiceassist_logins_total", {"outcome": "failure"}) or 0

    before = failures()
    change(session, "wrong")
    assert failures() == before + 1
