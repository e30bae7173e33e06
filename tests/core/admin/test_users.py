"""Creating, changing and deleting users and groups, and which permissions that takes."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from core.admin.permission_picker import OFFERED
from core.deletion import delete_user
from core.models import AuditEvent, Message, User

pytestmark = pytest.mark.django_db


def test_creates_and_changes_a_user(admin_client: Client) -> None:
    form = {
        "email": "New@Example.org",
        "usable_password": "true",
        "password1": "hunter 2 hunter",
        "password2": "hunter 2 hunter",
        "confirmation": "password",  # of the fixture `admin_client`
    }
    response = admin_client.post("/admin/core/user/add/", form)
    assert response.status_code == 302, response.context["errors"]
    user = User.objects.get(email="new@example.org")
    assert user.check_password("hunter 2 hunter")
    response = admin_client.post(f"/admin/core/user/{user.pk}/change/", {"email": "new@example.org", "full_name": "N"})
    assert response.status_code == 302
    user.refresh_from_db()
    assert (user.full_name, user.is_active) == ("N", False)
    response = admin_client.post("/admin/core/user/add/", {**form, "email": "NEW@example.org"})
    assert "A user with this email already exists." in response.content.decode()


def test_staff_cannot_escalate_privileges(message: Message, staff_client: Callable[..., Client]) -> None:
    client = staff_client("view_user", "change_user", "delete_user", "delete_session", "delete_message")
    user = message.session.user
    staff = User.objects.get(email="staff@example.org")
    superuser = User.objects.create_superuser("root@example.org", "secret")
    privileges = {"is_staff": "on", "is_superuser": "on", "user_permissions": [Permission.objects.all()[0].pk]}
    form: dict[str, Any] = {"email": "ann@example.org", "full_name": "Changed", "is_active": "on", **privileges}
    assert client.post(f"/admin/core/user/{user.pk}/change/", form).status_code == 302
    user.refresh_from_db()
    assert user.full_name == "Changed"
    assert not user.is_staff and not user.is_superuser and not user.user_permissions.exists()
    for account in (staff, superuser):
        page = f"/admin/core/user/{account.pk}"
        assert client.get(f"{page}/change/").status_code == 200
        assert client.post(f"{page}/change/", {**form, "email": account.email}).status_code == 403
        assert client.post(f"{page}/password/", {"password1": "x"}).status_code == 403
        assert client.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    keys = [str(superuser.pk), str(user.pk)]
    client.post("/admin/core/user/", {"action": "delete_selected", "_selected_action": keys, "post": "yes"})
    assert User.objects.filter(pk__in=[*keys, staff.pk]).count() == 3


@pytest.mark.parametrize("permissions", [("view_user",), ("view_user", "change_user")])
def test_password_hash_is_not_shown(
    message: Message, staff_client: Callable[..., Client], permissions: tuple[str, ...]
) -> None:
    user = message.session.user
    user.set_password("a long password")
    user.save()
    page = staff_client(*permissions).get(f"/admin/core/user/{user.pk}/change/").content.decode()
    assert "argon2" not in page
    for part in user.password.split("$")[-2:]:
        assert part[:6] not in page


def test_deletion_requires_permission_for_every_affected_model(
    message: Message, staff_client: Callable[..., Client]
) -> None:
    client = staff_client("view_user", "delete_user", "delete_session")
    page = f"/admin/core/user/{message.session.user_id}/delete/"
    assert "permission to delete" in client.get(page).content.decode()
    assert client.post(page, {"post": "yes"}).status_code == 403
    assert Message.objects.exists()


def test_deleting_a_user_twice_does_nothing(message: Message) -> None:
    user = message.session.user
    stale = User.objects.get(pk=user.pk)
    delete_user(user)
    delete_user(stale)


def test_staff_cannot_add_permissions_to_a_group(admin_client: Client, staff_client: Callable[..., Client]) -> None:
    """Otherwise its members could give themselves access to PHI."""
    group = Group.objects.create(name="reviewers")
    staff = staff_client("view_group", "add_group", "change_group")
    page = f"/admin/auth/group/{group.pk}/change/"
    form = {"name": "reviewers", "permissions": [Permission.objects.get(codename="view_phi").pk]}
    assert staff.get(page).status_code == 200  # read only
    assert staff.post(page, form).status_code == 403
    assert staff.get("/admin/auth/group/add/").status_code == 403
    assert staff.post("/admin/auth/group/add/", {**form, "name": "others"}).status_code == 403
    assert not group.permissions.exists()
    assert admin_client.post(page, form).status_code == 302
    assert group.permissions.count() == 1


def test_deletes_a_group_without_loading_its_members(admin_client: Client) -> None:
    group = Group.objects.create(name="reviewers")
    group.user_set.set([User.objects.create_user(f"{number}@example.org") for number in range(30)])
    page = f"/admin/auth/group/{group.pk}/delete/"
    text = admin_client.get(page).content.decode()
    assert "User_groups object" not in text
    with CaptureQueriesContext(connection) as queries:
        assert admin_client.post(page, {"post": "yes"}).status_code == 302
    assert len(queries) < 20
    assert AuditEvent.objects.filter(action="delete", table="users_groups").count() == 30


def test_every_page_can_be_permitted() -> None:
    pages = {f"view_{model._meta.model_name}" for model in admin.site._registry}
    assert pages <= {codename for codenames in OFFERED.values() for codename in codenames}
    for app, codenames in OFFERED.items():
        for codename in codenames:
            assert Permission.objects.filter(content_type__app_label=app, codename=codename).count() == 1


def test_specialty_is_words(admin_client: Client) -> None:
    user = User.objects.create_user("ann@example.org")
    page = f"/admin/core/user/{user.pk}/change/"
    for specialty, is_valid in (
        ("Obstetrics & gynecology (high-risk)", True),
        ("Médecine d’urgence, nuit", True),
        ("", True),
        ("HIV since 1970", False),
        ("jane@example.org", False),
        ("a=b", False),
    ):
        response = admin_client.post(page, {"email": "ann@example.org", "specialty": specialty})
        assert (response.status_code == 302) is is_valid, specialty


def test_offers_only_permissions_that_mean_something_here(admin_client: Client) -> None:
    web_session = Permission.objects.get(codename="view_session", content_type__app_label="sessions")
    group = Group.objects.create(name="reviewers")
    user = User.objects.create_user("ann@example.org")
    for page, field in (
        (f"/admin/auth/group/{group.pk}/", "permissions"),
        (f"/admin/core/user/{user.pk}/", "user_permissions"),
    ):
        form = admin_client.get(f"{page}change/").context["adminform"].form
        names = [name for _, name in form.fields[field].choices]
        assert names.count("Can view session") == 1
        assert "Can reveal PHI, each time with an audit record" in names
        assert not [name for name in names if "log entry" in name or "content type" in name or "permission" in name]
    # A permission that the group has already is not lost when the form is saved.
    group.permissions.add(web_session)
    page = f"/admin/auth/group/{group.pk}/change/"
    chosen = admin_client.get(page).context["adminform"].form.initial["permissions"]
    admin_client.post(page, {"name": "reviewers", "permissions": [permission.pk for permission in chosen]})
    assert list(group.permissions.all()) == [web_session]
