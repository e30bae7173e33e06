"""Password hashing: parameters, upgrades of old hashes, and the limit of hashes at a time."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.hashers import Argon2PasswordHasher, make_password
from django.test import Client, RequestFactory
from prometheus_client import REGISTRY

from core.auth import password_hashing
from core.auth.middleware import LoginMiddleware
from core.auth.password_hashing import MAX_WAITING, PasswordHasher, TooManyHashesError
from core.models import AuditEvent, User
from tests.support.polling import ends_within, succeeds_within

PASSWORD = "correct horse battery"


class Hashes:
    """Hashes that end when `end` is set."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.running = self.max_running = 0

    def verify(self, *args: Any) -> bool:
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        self.end.wait(10)
        self.running -= 1
        return False


@pytest.fixture
def hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hashes]:
    """Let requests wait for a hash that does not end: as many as may, or the number in the parameter."""
    slow = Hashes()
    places = getattr(request, "param", 1 + MAX_WAITING)
    monkeypatch.setattr(Argon2PasswordHasher, "verify", slow.verify)
    with ThreadPoolExecutor() as clients:
        with monkeypatch.context() as patience:
            patience.setattr(password_hashing, "MAX_WAIT", 10)
            for _ in range(places):
                clients.submit(PasswordHasher().verify, "", "")
            assert succeeds_within(10, lambda: free_places() == 1 + MAX_WAITING - places and slow.running)
            time.sleep(0.1)  # they have read MAX_WAIT
        yield slow
        slow.end.set()


def free_places() -> int:
    return password_hashing._places._value


def test_parameters_are_owasps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the cheap hashes of the tests
    assert make_password(PASSWORD).startswith("argon2$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.django_db
def test_hash_with_other_parameters_is_valid_and_replaced_at_login(client: Client) -> None:
    old = Argon2PasswordHasher()
    old.memory_cost, old.parallelism = 128, 8
    user = User.objects.create_user("user@example.org", is_staff=True)
    user.password = old.encode(PASSWORD, "a-salt-of-22-characters")
    user.save()
    assert ",p=8$" in user.password
    assert client.post("/admin/login/", {"username": user.email, "password": PASSWORD}).status_code == 302
    user.refresh_from_db()
    assert ",p=1$" in user.password
    assert client.get("/admin/").status_code == 200


def test_one_hash_runs_at_a_time(hashes: Hashes) -> None:
    hashes.end.set()
    assert succeeds_within(10, lambda: free_places() == 1 + MAX_WAITING)
    assert hashes.max_running == 1


def test_some_request_threads_stay_free() -> None:
    assert MAX_WAITING == 2  # of four threads


def test_refuses_at_once_when_too_many_wait(hashes: Hashes) -> None:
    before = REGISTRY.get_sample_value("voiceassist_password_hashes_refused_total") or 0
    with ends_within(0), pytest.raises(TooManyHashesError):
        PasswordHasher().encode(PASSWORD, "salt-salt")
    assert REGISTRY.get_sample_value("voiceassist_password_hashes_refused_total") == before + 1


@pytest.mark.parametrize("hashes", [1], indirect=True)
def test_refuses_after_waiting_too_long(hashes: Hashes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password_hashing, "MAX_WAIT", 0.2)
    with pytest.raises(TooManyHashesError):
        PasswordHasher().encode(PASSWORD, "salt-salt")
    assert free_places() == MAX_WAITING  # the place is free again


@pytest.mark.django_db
def test_login_responds_the_same_page_whether_the_account_exists(hashes: Hashes) -> None:
    encoded = "argon2$argon2id$v=19$m=64,t=1,p=1$YWJjZGVmZ2g$YQ"
    User.objects.create(email="user@example.org", password=encoded, is_staff=True)
    responses = [
        Client(headers={"x-request-id": "same"}).post("/admin/login/", {"username": name, "password": PASSWORD})
        for name in ("user@example.org", "unknown@example.org")
    ]
    for response in responses:
        assert response.status_code == 429
        assert response["Retry-After"] == "2"
        assert "Wait a few seconds, then reload this page." in response.content.decode()
    assert responses[0].content == responses[1].content
    assert not AuditEvent.objects.filter(action="login_failed").exists()


def test_other_paths_respond_with_the_envelope(rf: RequestFactory) -> None:
    middleware = LoginMiddleware(lambda request: None)  # type: ignore[arg-type,return-value]
    response = middleware.process_exception(rf.post("/api/anything"), TooManyHashesError())
    assert response is not None
    assert (response.status_code, response["Retry-After"]) == (429, "2")
    assert b'"code":"RATE_LIMITED"' in response.content
    assert middleware.process_exception(rf.post("/"), ValueError()) is None
