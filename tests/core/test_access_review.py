"""The access review lists every account that can use the admin, reveal PHI or export a user's data, and no other."""

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from core import access_review
from core.models import Authenticator, User

pytestmark = pytest.mark.django_db

PAGE = "/admin/access-review/"


def create(name: str, **fields: Any) -> User:
    defaults = {"is_staff": True, "last_login": timezone.now()}
    return User.objects.create_user(f"{name}@example.org", **{**defaults, **fields})


@pytest.fixture
def users() -> None:
    """Create users of every kind, each with its remarks as the name."""
    permission = Permission.objects.get(codename="view_phi")
    reviewers, others = Group.objects.create(name="reviewers"), Group.objects.create(name="others")
    reviewers.permissions.add(permission)
    others.permissions.add(Permission.objects.get(codename="view_message"))
    create("user", is_staff=False)
    create("root", is_superuser=True, full_name="=1+1")
    create("direct").user_permissions.add(permission)
    export = Permission.objects.get(codename="export_user")
    exporters = Group.objects.create(name="exporters")
    exporters.permissions.add(export)
    create("exporter", is_staff=False).user_permissions.add(export)
    both = create("both")
    both.user_permissions.add(permission)
    both.groups.add(reviewers, exporters, others)
    create("member", is_staff=False).groups.add(reviewers)
    create("never", last_login=None).groups.add(others)
    create("old", last_login=timezone.now() - timedelta(days=91), must_change_password=True)
    recent = create("recent", last_login=timezone.now() - timedelta(days=89))
    Authenticator.objects.create(user=recent, confirmed=True)
    Authenticator.objects.create(user=both, confirmed=False)
    create("gone", is_active=False, last_login=None)
    create("emergency", is_staff=False, is_emergency=True)


EXPECTED = {
    "both": ("directly, group reviewers", "no second factor"),
    "direct": ("directly", "no second factor"),
    "emergency": ("", "no second factor"),
    "exporter": ("", "no second factor"),
    "gone": ("", "inactive, but keeps its rights"),
    "member": ("group reviewers", "no second factor, may reveal PHI, but is not staff"),
    "never": ("", "no second factor, never logged in"),
    "old": ("", "no second factor, no login for 90 days, must change the password"),
    "recent": ("", ""),
    "root": ("superuser", "no second factor"),
}


def test_lists_privileged_accounts_with_remarks(users: None) -> None:
    listed = list(access_review.accounts())
    assert {row.email.split("@")[0]: (row.view_phi, row.remarks) for row in listed} == EXPECTED
    assert [row.email for row in listed] == sorted(row.email for row in listed)
    exporters = {row.email.split("@")[0]: row.export_user for row in listed if row.export_user}
    assert exporters == {"both": "group exporters", "exporter": "directly", "root": "superuser"}


def test_number_of_queries_does_not_depend_on_the_accounts(
    users: None, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(4):
        list(access_review.accounts())
    for number in range(20):
        create(f"staff{number}")
    with django_assert_num_queries(4):
        assert len(list(access_review.accounts())) == len(EXPECTED) + 20


@pytest.mark.parametrize("format", ["text", "json", "csv"])
def test_command(users: None, format: str) -> None:
    output = io.StringIO()
    call_command("access_review", format=format, stdout=output)
    text = output.getvalue()
    if format == "json":
        rows = [(row["email"], row["view_phi"], row["remarks"]) for row in json.loads(text)]
    elif format == "csv":
        rows = [(row["email"], row["view_phi"], row["remarks"]) for row in csv.DictReader(io.StringIO(text))]
        assert "'=1+1" in text  # a spreadsheet would compute it
    else:
        assert len(text.splitlines()) == 1 + len(EXPECTED)
        assert all(f"{name}@example.org" in text for name in EXPECTED)
        return
    assert rows == [(f"{name}@example.org", *expected) for name, expected in EXPECTED.items()]


def test_page(users: None, admin_client: Client) -> None:
    assert f'href="{PAGE}"' in admin_client.get("/admin/").content.decode()
    text = admin_client.get(PAGE).content.decode()
    for name, (view_phi, remarks) in EXPECTED.items():
        assert f">{name}@example.org</span></a>" in text
        assert view_phi in text
        assert remarks in text
    assert "user@example.org" not in text
    response = admin_client.get(PAGE, {"format": "csv"})
    assert response["Content-Type"] == "text/csv"
    assert response["Content-Disposition"].startswith('attachment; filename="access-review-2')
    assert "no-store" in response["Cache-Control"]
    emails = [row["email"] for row in csv.DictReader(io.StringIO(response.content.decode()))]
    assert len(emails) == len(EXPECTED) + 1  # the superuser of `admin_client`


def test_page_is_bounded(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.admin.access_review.MAX_ROWS", 2)
    for number in range(3):
        create(f"staff{number}")
    text = admin_client.get(PAGE).content.decode()
    assert text.count("/change/") == 2
    assert "The first 2 are shown." in text


def test_only_superusers_may_see_it(client: Client) -> None:
    assert client.get(PAGE)["Location"].startswith("/admin/login/")
    user = create("staff")
    user.user_permissions.set(Permission.objects.all())
    client.force_login(user)
    assert client.get(PAGE).status_code == 403
    assert PAGE not in client.get("/admin/").content.decode()
