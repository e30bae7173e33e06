"""No value in a URL or a form makes a page of the admin respond 500. Superusers see every page."""

from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import quote

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from core.models import AuditEvent, Backup, Job, Message, User

pytestmark = pytest.mark.django_db

VALUES = {
    "NUL": "\0",
    "surrogate": "\ud83d",  # half of a pair, which is not valid UTF-8
    "too large for bigint": "9" * 20,
    "too long for int()": "9" * 5000,
    "digit that int() refuses": "²",
    "year 10000": "10000-01-01",
    "not a UUID": "0198c000-0000-7000-8000-00000000000g",
    "empty": "",
}
each_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
MODELS = [model for model in apps.get_models() if admin.site.is_registered(model)]
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def client(admin_client: Client) -> Client:
    admin_client.raise_request_exception = False
    return admin_client


@pytest.fixture(autouse=True)
def rows(message: Message) -> list[Model]:
    """Return a row of each model that has pages."""
    group = Group.objects.create(name="reviewers")
    event = AuditEvent.objects.all()[0]
    now = timezone.now()
    backup = Backup.objects.create(kind="base", name="x", started_at=now, finished_at=now, size=1, product_version="1")
    job = Job.objects.create(task="core.tasks.clear_exports")
    rows = [message, message.session, message.session.user, group, event, backup, job]
    assert {type(row) for row in rows} == set(MODELS)
    return rows


def encode(*parameters: tuple[str, str]) -> str:
    """Return a query or a form, in which surrogates are encoded as UTF-8 does other characters."""
    return "&".join(f"{name}={quote(value, safe='', errors='surrogatepass')}" for name, value in parameters)


def page_of(model: type[Model]) -> str:
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/"


def list_parameters(model: type[Model]) -> Iterator[str]:
    """Yield parameters of a list whose values are parsed: lookups that links use, one filter, and Django's own."""
    model_admin: Any = admin.site.get_model_admin(model)
    yield from ("q", "_to_field", "older_than", "created_at__gte", "created_at__around", "created_at__year")
    yield from getattr(model_admin, "allowed_lookups", ())
    yield from (f"{item if isinstance(item, str) else item[0]}__exact" for item in model_admin.list_filter[:1])


@each_value
@pytest.mark.parametrize("model", MODELS)
def test_lists(client: Client, model: type[Model], value: str) -> None:
    for parameter in list_parameters(model):
        response = client.get(f"{page_of(model)}?{encode((parameter, value))}")
        assert response.status_code in (200, 302, 400), parameter


def test_dates(client: Client) -> None:
    years, months, days = ("0", "2026", "9999", "10000"), ("0", "2", "13"), ("0", "30", "9" * 20)
    for values in (*product(years), *product(years, months), *product(("2026", "9999"), ("2", "12"), days)):
        parameters = zip(("created_at__year", "created_at__month", "created_at__day"), values, strict=False)
        response = client.get(f"/admin/core/message/?{encode(*parameters)}")
        assert response.status_code in (200, 302), values


@each_value
@pytest.mark.parametrize("model", [User, Message, Group, Job])
def test_keys_in_urls(client: Client, model: type[Model], value: str) -> None:
    """`User` and `Job` have more pages than others, and the key of `Group` is an integer."""
    page = f"{page_of(model)}{quote(value, safe='', errors='surrogatepass') or '%20'}"
    for view in ("", "change/", "history/", "password/", "export/"):
        assert client.get(f"{page}/{view}").status_code in (301, 302, 400, 404), view
    for view in ("delete/", "reveal/", "read/", "export/", "cancel/", "download/"):
        assert client.post(f"{page}/{view}", {"post": "yes"}).status_code in (302, 400, 403, 404), view


@each_value
def test_actions(client: Client, rows: list[Model], value: str) -> None:
    for row, action in product(rows, ("delete_selected", value)):
        selected = (("_selected_action", value), ("_selected_action", str(row.pk)), ("index", value))
        form = encode(("action", action), *selected, ("select_across", "0"))
        response = client.post(page_of(type(row)), form, content_type=FORM)
        assert response.status_code in (200, 302, 403), (row, action)


@each_value
def test_forms(client: Client, admin_user: User, rows: list[Model], value: str) -> None:
    user = User.objects.get(email="ann@example.org")
    group = Group.objects.get(name="reviewers")
    fields = ("email", "full_name", "groups", "is_staff", "_saveasnew")
    passwords = (("password1", "a long password 7"), ("password2", "a long password 7"), ("usable_password", "true"))
    forms: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = {
        f"/admin/core/user/{user.pk}/change/": (fields, (("email", "ann@example.org"),)),
        "/admin/core/user/add/": (("email", "specialty"), passwords),
        f"/admin/core/user/{user.pk}/password/": (("password1",), passwords),
        f"/admin/auth/group/{group.pk}/change/": (("name", "permissions", "_saveasnew"), ()),
    }
    for url, (names, others) in forms.items():
        for name in names:
            form = dict(others) | {name: value}
            response = client.post(url, encode(*form.items()), content_type=FORM)
            assert response.status_code in (200, 302, 400), (url, name)


@each_value
def test_other_pages(client: Client, value: str) -> None:
    quoted = quote(value, safe="", errors="surrogatepass") or "%20"
    user_type = ContentType.objects.get_for_model(User).pk
    for url in (
        f"/admin/{quoted}/",
        f"/admin/r/{quoted}/{quoted}/",
        f"/admin/r/{user_type}/{quoted}/",
        f"/{quoted}",
    ):
        assert client.get(url).status_code in (301, 302, 400, 404), url
    anonymous = Client(raise_request_exception=False)
    form = encode(("username", value), ("password", value), ("next", value))
    assert anonymous.post("/admin/login/", form, content_type=FORM).status_code in (200, 400)
    anonymous = Client(raise_request_exception=False, headers={"cookie": f"sessionid={quoted}; csrftoken={quoted}"})
    assert anonymous.get("/admin/").status_code == 302
