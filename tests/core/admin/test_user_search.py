"""The search for users by words of their names and emails. test_large_tables.py tests that it reads few rows."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from core.admin import base
from core.admin.user_search import find_users
from core.models import User

pytestmark = pytest.mark.django_db

SCHWARZENBERG = "Prof. Dr. med. Dr. h.c. Friederike Freifrau von Schwarzenberg-Lüdenscheidt, geb. Strauß"


@pytest.fixture(autouse=True)
def users() -> None:
    for email, name in {
        "f.schwarzenberg@klinikum.example.org": SCHWARZENBERG,
        "ann.lee42@example.org": "Ann Lee",
        "brien@example.org": "Máire O’Brien",
        "mueller_jan+test@example.org": "Jan Mueller",
        "soren@example.org": "SØREN ŁUKASIEWICZ",
        "ivan@example.org": "Иван Ёлкин",
        "li@example.org": "李伟",
        "drexler@example.org": "Eva Drexler",
    }.items():
        User.objects.create_user(email, full_name=name)


def found(term: str) -> list[str]:
    return sorted(user.email.partition("@")[0] for user in find_users(term))


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("schwarzenberg", "f.schwarzenberg"),
        ("SCHWARZ", "f.schwarzenberg"),
        ("Prof. Dr. Schwarzenberg", "f.schwarzenberg"),
        ("Dr. med. Lee", "ann.lee42"),  # a title that the stored name does not have
        ("lüdenscheidt", "f.schwarzenberg"),
        ("ludenscheidt", "f.schwarzenberg"),
        ("luedenscheidt", "f.schwarzenberg"),
        ("strauss", "f.schwarzenberg"),
        ("Strauß", "f.schwarzenberg"),
        ("schwarzenberg-lüd", "f.schwarzenberg"),
        ("friederike strauß", "f.schwarzenberg"),
        ("friederike lee", None),  # every word has to match
        ("berg", None),  # not the beginning of a word
        ("klinikum", "f.schwarzenberg"),
        ("f.schwarz", "f.schwarzenberg"),
        ("lee42", "ann.lee42"),
        ("42", "ann.lee42"),
        ("lee 42", "ann.lee42"),
        ("LEE42@example.org", "ann.lee42"),
        ("o'brien", "brien"),
        ("O’Brien", "brien"),
        ("obrien", "brien"),
        ("brien", "brien"),
        ("maire", "brien"),
        ("müller", "mueller_jan+test"),
        ("Muller", "mueller_jan+test"),
        ("jan test", "mueller_jan+test"),
        ("søren", "soren"),
        ("soeren lukas", "soren"),
        ("елкин", "ivan"),
        ("李", "li"),
        ("le", "ann.lee42"),
        ("dr", "drexler f.schwarzenberg"),  # a title, but the only word
        ("", None),
        (" .,;-'\"\\/%_*:&|!()<> ", None),
        ("lee' | 'x", None),  # not an OR
        ("x" * 255, None),
        ("\ufdfa" * 255, None),
    ],
)
def test_finds_users_by_words(term: str, expected: str | None) -> None:
    assert found(term) == (expected or "").split()


def test_titles_are_ignored() -> None:
    titles = [
        "prof",
        "pd",
        "priv",
        "doz",
        "dr",
        "med",
        "dent",
        "vet",
        "phil",
        "rer",
        "nat",
        "habil",
        "dipl",
        "ing",
        "md",
        "phd",
        "mr",
        "mrs",
        "ms",
        "herr",
        "frau",
    ]
    assert {title: found(f"{title}. Lee") for title in titles} == {title: ["ann.lee42"] for title in titles}


def test_key_finds_its_user() -> None:
    user = User.objects.get(email="ivan@example.org")
    assert found(str(user.pk)) == found(user.pk.hex.upper()) == ["ivan"]
    assert found("0198c000-0000-7000-8000-000000000000") == []


def test_email_is_found_by_its_beginning() -> None:
    assert found("ann.lee42@EXAMPLE.org") == ["ann.lee42"]
    assert found("ann.lee42@ex") == ["ann.lee42"]
    assert found("ann@example.org") == ["ann.lee42"]  # no email begins like this, but the words match


def test_finds_what_plain_sql_changed() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE users SET full_name = 'Zoë Quist' WHERE email = 'li@example.org'")
    assert found("zoe quist") == ["li"]


def test_longest_name_can_be_stored() -> None:
    """PostgreSQL refuses long words in the index, and NFKD turns one of these letters into six."""
    User.objects.create_user("long@example.org", full_name="㌖" * 200)
    assert found("㌖" * 200) == ["long"]


@pytest.mark.parametrize("accents", ["NFC", "NFD"])
def test_index_and_search_split_words_alike(accents: str) -> None:
    """Whatever a name contains, the whole name finds it."""
    with connection.cursor() as cursor:
        for start in range(0x21, 0x2100, 7):
            name = "".join(chr(code) for code in range(start, start + 7))
            cursor.execute(
                f"SELECT search_words(normalize(%s, {accents})) <@ search_words(normalize(%s, {accents}), 'x')",
                [name, name],
            )
            assert cursor.fetchone() == (True,), name


def test_states_that_matches_are_limited(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_MATCHES", 3)
    response = admin_client.get("/admin/core/user/?q=example", follow=True)
    assert response.context["cl"].result_count == 3
    assert "More than 3 match; showing an arbitrary 3." in response.content.decode()
    assert "Add another word of the name or the email." in response.content.decode()


def test_as_many_matches_as_are_shown_are_all(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_MATCHES", 9)  # the eight users and the fixture's
    response = admin_client.get("/admin/core/user/?q=example", follow=True)
    assert response.context["cl"].result_count == 9
    assert "showing an arbitrary" not in response.content.decode()


def test_no_match_says_what_to_search_by(admin_client: Client) -> None:
    text = admin_client.get("/admin/core/user/?q=nobody", follow=True).content.decode()
    assert "No user matches. Search by ID, email or any part of a name." in text


def test_names_lead_to_sessions(admin_client: Client, staff_client: Any) -> None:
    user = User.objects.get(email="ann.lee42@example.org")
    for page in ("session", "message"):
        text = admin_client.get(f"/admin/core/{page}/?q=lee", follow=True).content.decode()
        assert f'Sessions of <a href="/admin/core/session/?user__id__exact={user.pk}">{user.email}</a>.' in text
    with CaptureQueriesContext(connection) as queries:
        text = admin_client.get("/admin/core/session/?q=example", follow=True).content.decode()
    assert text.count("user__id__exact=") == 5
    assert any(query["sql"].endswith(" LIMIT 6") for query in queries)  # one more shows that there are more
    assert " More users match. Add another word of the name or the email." in text
    User.objects.filter(email__in=("li@example.org", "ivan@example.org", "soren@example.org")).delete()
    text = admin_client.get("/admin/core/session/?q=example.org", follow=True).content.decode()
    links = re.search(r"Sessions of (<a [^>]*>[^<]*</a>(, )?){5}[.]", text)
    assert links and text.count("user__id__exact=") == 5
    assert "More users match" not in text
    client = staff_client("view_message")
    staff = User.objects.get(email="staff@example.org")
    for permissions, is_named in (
        ((), False),
        (("view_user",), False),
        (("view_session",), False),
        (("view_user", "view_session"), True),
    ):
        allowed = Permission.objects.filter(codename__in=("view_message", *permissions), content_type__app_label="core")
        staff.user_permissions.set(allowed)
        text = client.get("/admin/core/message/?q=lee", follow=True).content.decode()
        assert (user.email in text) is ("Choose whose sessions to show" in text) is is_named, permissions


def test_emails_of_links_are_not_stored(admin_client: Client) -> None:
    """An invalid cursor redirects after the search, and Django would keep a message in the web session until then."""
    results = admin_client.get("/admin/core/message/?q=lee")["Location"]
    assert admin_client.get(f"{results}&older_than=x")["Location"].endswith("?e=1")
    assert "ann.lee42" not in str(dict(admin_client.session.items()))
