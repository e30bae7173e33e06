"""A new password does not undo what an administrator did to the account while its hash was computed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.hashers import make_password
from django.db import connection
from django.test import Client

from core.models import User
from tests.support.second_factor import CONTINUE

pytestmark = pytest.mark.django_db(transaction=True)  # the administrator has another connection

EMAIL, PASSWORD, NEW = "user@example.org", "correct horse battery", "another long password"


@pytest.fixture
def user() -> User:
    return User.objects.create_user(EMAIL, PASSWORD, is_staff=True)


def change_account(user: User, **columns: Any) -> None:
    """Change the account as another process does."""

    def update() -> None:
        User.objects.filter(pk=user.pk).update(**columns)
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(update).result()


@pytest.fixture
def client(client: Client, user: User) -> Client:
    client.post("/admin/login/", {"username": EMAIL, "password": PASSWORD})
    return client


def change_own(client: Client, user: User) -> Any:
    form = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}
    return client.post("/admin/password_change/", form)


def choose_at_login(client: Client, user: User) -> Any:
    User.objects.filter(pk=user.pk).update(must_change_password=True)
    client.post("/admin/login/", {"username": EMAIL, "password": PASSWORD})
    return client.post(CONTINUE, {"step": "password", "new_password1": NEW, "new_password2": NEW})


def set_in_admin(client: Client, user: User) -> Any:
    User.objects.create_superuser("root@example.org", PASSWORD)
    root = Client()
    root.post("/admin/login/", {"username": "root@example.org", "password": PASSWORD})
    form = {"password1": NEW, "password2": NEW, "usable_password": "true", "confirmation": PASSWORD}
    return root.post(f"/admin/core/user/{user.pk}/password/", form)


@pytest.mark.parametrize("page", [change_own, choose_at_login, set_in_admin])
@pytest.mark.parametrize("change", [{"is_active": False}, {"password": "set by an administrator"}])
def test_keeps_what_changed_meanwhile(
    client: Client,
    user: User,
    page: Callable[..., Any],
    change: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "password" in change:
        change = {"password": make_password(change["password"])}
    set_password = User.set_password

    def while_hashing(self: User, raw_password: str | None) -> None:
        if self.pk == user.pk:
            change_account(user, **change)
        set_password(self, raw_password)

    monkeypatch.setattr(User, "set_password", while_hashing)
    assert page(client, user).status_code == 403
    user.refresh_from_db()
    assert {name: getattr(user, name) for name in change} == change
    assert not user.check_password(NEW)


@pytest.mark.parametrize("page", [change_own, choose_at_login, set_in_admin])
def test_saves_no_other_column(
    client: Client, user: User, page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_password = User.set_password

    def while_hashing(self: User, raw_password: str | None) -> None:
        change_account(user, full_name="Ann", is_emergency=True)
        set_password(self, raw_password)

    monkeypatch.setattr(User, "set_password", while_hashing)
    assert page(client, user).status_code == 302
    user.refresh_from_db()
    assert (user.full_name, user.is_emergency, user.check_password(NEW)) == ("Ann", True, True)
    assert user.must_change_password is (page is set_in_admin)


def test_own_password_set_on_the_page_of_the_user_keeps_the_device_known(client: Client, user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_superuser=True)
    form = {"password1": NEW, "password2": NEW, "usable_password": "true", "confirmation": PASSWORD}
    before = client.cookies["device"].value
    assert client.post(f"/admin/core/user/{user.pk}/password/", form).status_code == 302
    assert client.get("/admin/").status_code == 200
    after = client.cookies["device"].value
    assert before.split(".")[0] == after.split(".")[0]
    assert before != after
