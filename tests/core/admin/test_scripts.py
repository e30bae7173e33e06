"""Each page loads only the scripts that it uses."""

import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group
from django.test import Client

pytestmark = pytest.mark.django_db

OWN = {"/static/admin/js/theme.js", "/static/core/session.js"}  # on every page
FILTERS = {"/static/admin/js/filters.js"}
ACTIONS = {"/static/admin/js/actions.js", "/admin/jsi18n/"}
VIEW = ("view_user", "view_session", "view_message", "view_auditevent", "view_job", "view_backup", "view_group")


def scripts(client: Client, page: str) -> set[str]:
    response = client.get(page)
    assert response.status_code == 200
    # Others may be added to all pages of the admin, but not by Django.
    found = set(re.findall(r'<script[^>]* src="([^"]+)"', response.content.decode()))
    return {url for url in found if not url.startswith("/static/core/") or url in OWN}


def test_page_that_can_only_be_viewed(staff_client: Callable[..., Client], pages: dict[str, str]) -> None:
    client, group = staff_client(*VIEW), Group.objects.create(name="group")
    for page in (pages["user"], pages["session"], pages["message"], f"/admin/auth/group/{group.pk}/change/"):
        assert scripts(client, page) == OWN, page


def test_list_without_actions(staff_client: Callable[..., Client], pages: dict[str, str]) -> None:
    client = staff_client(*VIEW)
    lists = [pages["users"], pages["sessions"], pages["messages"], "/admin/core/auditevent/", "/admin/core/job/"]
    for page in [*lists, "/admin/core/backup/"]:
        assert scripts(client, page) == OWN | FILTERS, page


def test_list_with_actions_and_page_that_can_be_edited(admin_client: Client, pages: dict[str, str]) -> None:
    assert scripts(admin_client, pages["users"]) == OWN | FILTERS | ACTIONS
    assert scripts(admin_client, pages["session"]) == OWN  # even a superuser can't edit it
    assert {"/static/admin/js/SelectFilter2.js", "/admin/jsi18n/"} < scripts(admin_client, pages["user"])
