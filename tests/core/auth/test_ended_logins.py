"""All logins of a user end when the account is deactivated, loses staff access, or somebody ends them."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.contrib.sessions.models import Session as WebSession
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from core.auth.ended_logins import end_logins
from core.models import AuditEvent, User

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"


def create_staff(email: str, **fields: Any) -> User:
    return User.objects.create_user(email, PASSWORD, is_staff=True, **fields)


@pytest.fixture
def user() -> User:
    return create_staff("user@example.org")


def log_in(user: User) -> Client:
    client = Client()
    assert client.post("/admin/login/", {"username": user.email, "password": PASSWORD}).status_code == 302
    return client


def is_logged_in(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def update(user: User, **values: Any) -> None:
    User.objects.filter(pk=user.pk).update(**values)


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.parametrize("column", ["is_active", "is_staff"])
def test_losing_access_ends_logins_for_good(user: User, column: str) -> None:
    first, second = log_in(user), log_in(user)
    cookie = second.cookies["sessionid"].value
    update(user, **{column: False})
    assert not is_logged_in(first)
    update(user, **{column: True})
    assert not is_logged_in(first)
    assert not is_logged_in(second)
    second.cookies["sessionid"] = cookie  # as a client that ignores the deletion of the cookie
    assert not is_logged_in(second)
    assert not WebSession.objects.exists()
    assert AuditEvent.objects.filter(action="logoff", actor_id=user.pk, object_id=str(user.pk)).count() == 2
    assert is_logged_in(log_in(user))


def test_plain_sql_ends_logins(user: User) -> None:
    client = log_in(user)
    execute("UPDATE users SET is_active = false")
    execute("UPDATE users SET is_active = true")
    assert not is_logged_in(client)


def test_other_changes_end_no_login(user: User) -> None:
    client = log_in(user)
    update(user, full_name="Another", is_active=True, is_superuser=True)
    user.refresh_from_db()
    user.save()
    update(user, is_superuser=False)
    assert is_logged_in(client)
    user.refresh_from_db()
    assert user.logins_ended_at is None


def test_deleted_user_is_logged_out(user: User) -> None:
    client = log_in(user)
    user.delete()
    assert not is_logged_in(client)
    assert not WebSession.objects.exists()


def test_ends_current_logins_only(user: User) -> None:
    other = create_staff("other@example.org")
    clients, another = [log_in(user), log_in(user)], log_in(other)
    end_logins(user)
    assert not any(map(is_logged_in, clients))
    assert is_logged_in(another)
    assert is_logged_in(log_in(user))  # in the same second


def test_login_that_began_before_the_end_is_over(user: User) -> None:
    client = Client()
    end_logins(user)
    client.force_login(user)  # `user` was loaded before
    assert not is_logged_in(client)


def test_saving_an_old_copy_does_not_revive_logins(user: User) -> None:
    client = log_in(user)
    end_logins(user)
    user.save()
    assert not is_logged_in(client)


@pytest.mark.parametrize("end", [end_logins, lambda user: update(user, is_staff=False)], ids=["call", "trigger"])
def test_logins_end_even_if_the_clock_was_set_back(user: User, end: Callable[[User], None]) -> None:
    future = timezone.now() + timedelta(days=1)
    update(user, logins_ended_at=future)
    client = log_in(user)
    end(user)
    update(user, is_staff=True)
    assert not is_logged_in(client)
    assert User.objects.get().logins_ended_at == future + timedelta(microseconds=1)


# The admin and the command


@pytest.fixture
def manager() -> User:
    """Return a user who may change users without staff access."""
    manager = create_staff("manager@example.org")
    manager.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "change_user"]))
    return manager


def url(user: User) -> str:
    return f"/admin/core/user/{user.pk}/end-logins/"


def ended_events() -> list[tuple[Any, str]]:
    return list(AuditEvent.objects.filter(action="logins_ended").values_list("actor_email", "object_id"))


def test_button(admin_user: User, user: User) -> None:
    client, admin = log_in(user), Client()
    admin.force_login(admin_user)
    page = admin.get(f"/admin/core/user/{user.pk}/change/").content.decode()
    assert f'action="{url(user)}"' in page
    assert admin.get(url(user))["Location"] == f"/admin/core/user/{user.pk}/change/"
    assert is_logged_in(client)
    page = admin.post(url(user), follow=True).content.decode()
    assert "All logins of this user have ended." in page
    assert not is_logged_in(client)
    assert ended_events() == [(admin_user.email, str(user.pk))]
    assert admin.post(url(User())).status_code == 404


def test_ending_your_own_logins(admin_user: User) -> None:
    admin = Client()
    admin.force_login(admin_user)
    assert admin.post(url(admin_user)).status_code == 302
    assert not is_logged_in(admin)


def test_action(admin_user: User, user: User) -> None:
    other, admin = create_staff("other@example.org"), Client()
    clients = [log_in(user), log_in(other)]
    admin.force_login(admin_user)
    form = {"action": "end_logins_of_selected", "_selected_action": [str(user.pk), str(other.pk)]}
    assert admin.post("/admin/core/user/", form).status_code == 302
    assert not any(map(is_logged_in, clients))
    assert is_logged_in(admin)
    assert len(ended_events()) == 2


def test_only_who_may_change_the_user_may_end_logins(manager: User, user: User) -> None:
    client, target = log_in(manager), User.objects.create_user("clinician@example.org", PASSWORD)
    staff = log_in(user)
    assert url(user) not in client.get(f"/admin/core/user/{user.pk}/change/").content.decode()
    assert client.post(url(user)).status_code == 403
    form = {"action": "end_logins_of_selected", "_selected_action": [str(target.pk), str(user.pk)]}
    assert client.post("/admin/core/user/", form).status_code == 403
    assert is_logged_in(staff)
    assert ended_events() == []
    assert client.post(url(target)).status_code == 302
    assert ended_events() == [(manager.email, str(target.pk))]
    manager.user_permissions.set(Permission.objects.filter(codename="view_user"))
    assert client.post(url(target)).status_code == 403
    form["_selected_action"] = [str(target.pk)]
    client.post("/admin/core/user/", form)
    assert len(ended_events()) == 1


def test_command(user: User) -> None:
    client, output = log_in(user), StringIO()
    call_command("end_logins", "USER@example.org", stdout=output)
    assert output.getvalue() == "All logins of this user have ended.\n"
    assert not is_logged_in(client)
    assert ended_events() == [("", str(user.pk))]
    with pytest.raises(CommandError, match="No user has this email"):
        call_command("end_logins", "nobody@example.org")
