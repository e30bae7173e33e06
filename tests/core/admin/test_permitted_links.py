"""Pages offer no link, button or form whose page the reader may not open."""

import re
from collections.abc import Iterator
from functools import cache
from html import unescape
from urllib.parse import parse_qsl, urljoin, urlsplit

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.test import Client
from django.utils import timezone

from core.auth import enrolment
from core.models import AuditEvent, Backup, Export, Job, Message, User
from health import readiness
from health.status_page import runbook

pytestmark = pytest.mark.django_db

# Those of the admin's models, and those that its pages ask for.
PERMISSIONS = sorted(
    f"{action}_{model._meta.model_name}" for model in admin.site._registry for action in model._meta.default_permissions
) + ["export_user", "view_phi"]
FORMS_ONLY = {"/admin/logout/"}  # responds 405 to GET


# A page of the documentation has the same links for everyone, and the picture of a QR code has none.
render_documentation = cache(runbook.render)


@pytest.fixture(autouse=True)
def cheap_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render each page of the documentation once for all tests, and check the dependencies once."""
    monkeypatch.setattr(runbook, "render", render_documentation)
    monkeypatch.setattr(enrolment, "_qr_code", lambda text: "")
    monkeypatch.setattr(readiness.runner(), "max_age", 60)


@pytest.fixture(autouse=True)
def rows(message: Message) -> None:
    """Create a row of each model, and a job whose export can be downloaded and one that can be cancelled."""
    now, user = timezone.now(), str(message.session.user_id)
    Group.objects.create(name="reviewers")
    Backup.objects.create(kind="base", name="x", started_at=now, finished_at=now, size=1, product_version="1")
    export = Export.objects.create(user_id=user, recipient="age1", size=1, finished_at=now)
    done = {"status": "succeeded", "started_at": now, "finished_at": now, "trace_id": "a-trace-id"}
    Job.objects.create(task="core.tasks.export_user", arguments={"user_id": user, "export_id": str(export.pk)}, **done)
    Job.objects.create(task="core.tasks.delete_user", arguments={"user_id": user})


def targets(url: str, html: str) -> Iterator[str]:
    """Yield the URLs of the links and forms of a page."""
    for target in re.findall(r'<(?:a|form)\b[^>]*?\s(?:href|action)="([^"]*)"', html):
        absolute = urljoin(url, unescape(target))
        if absolute.startswith("/") and urlsplit(absolute).path not in FORMS_ONLY:
            yield absolute.partition("#")[0]


def crawl(client: Client) -> set[str]:
    """Follow every link and form from the start page.

    Of lists that differ in the value of a filter open one, none with several filters, and of audit events one a table.
    """
    queue, seen = [("/admin/", "")], set[tuple[str, ...]]()
    while queue:
        url, source = queue.pop()
        parts = urlsplit(url)
        names = {name for name, _ in parse_qsl(parts.query)} - {"_changelist_filters"}
        event = re.search(r"/auditevent/([^/]+)/change/", parts.path)
        key = (AuditEvent.objects.get(pk=event[1]).table if event else parts.path, *names)
        if key in seen or len(names) > 1:
            continue
        seen.add(key)
        response = client.get(url, follow=True)
        assert response.status_code == 200, f"{source} leads to {url}: {response.status_code}"
        if response["Content-Type"].startswith("text/html"):
            queue += [(target, url) for target in targets(response.request["PATH_INFO"], response.content.decode())]
    return {path for path, *_ in seen}


@pytest.mark.parametrize("others", [(), ("view_user", "view_session")], ids=["alone", "with views"])
@pytest.mark.parametrize("permission", PERMISSIONS)
def test_staff_with_a_permission(client: Client, permission: str, others: tuple[str, ...]) -> None:
    staff = User.objects.create_user("staff@example.org", "a long password", is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename__in=(permission, *others)))
    client.force_login(staff)
    paths = crawl(client)
    assert "/admin/status/" in paths
    if permission.startswith("view_") and permission != "view_phi":
        assert [path for path in paths if path.endswith(f"/{permission.removeprefix('view_')}/")]


def test_superuser(admin_client: Client) -> None:
    paths = crawl(admin_client)
    ends = ("add", "change", "delete", "password", "export", "reset-second-factor", "end-logins", "reveal", "cancel")
    assert [end for end in ends if not any(path.endswith(f"/{end}/") for path in paths)] == []
