"""Search terms in the web session. tests/security/test_links.py tests that no URL contains one."""

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client

from core.models import User

pytestmark = pytest.mark.django_db

LIST = "/admin/core/user/"


def search(client: Client, term: str, query: str = "") -> str:
    """Search as the form does, and return the value of `q` in the URL of the results."""
    response = client.post(f"{LIST}{query}", {"q": term})
    assert response.status_code == 302
    (token,) = parse_qs(urlsplit(response["Location"]).query)["q"]
    return token


def read(client: Client, token: str) -> Any:
    """Return the term that the list with this value of `q` has searched for, None if the search has expired."""
    response = client.get(LIST, {"q": token})
    if response.status_code == 302:
        assert response["Location"] == f"{LIST}?e=1"
        assert "The search has expired. Search again." in client.get(response["Location"]).content.decode()
        return None
    return response.context["cl"].query


def test_term_is_stored_encrypted_under_the_digest_of_its_token(admin_client: Client) -> None:
    tokens = [search(admin_client, "ann@example.org") for _ in range(2)]
    assert tokens[0] != tokens[1]
    for token in tokens:
        assert re.fullmatch(r"~[A-Za-z0-9_-]{22}", token)  # 128 random bits
    stored = admin_client.session["searches"]
    assert len(stored) == len(set(stored.values())) == 2
    assert not [text for text in ("ann", *tokens, *(token[1:] for token in tokens)) if text in json.dumps(stored)]
    assert [read(admin_client, token) for token in tokens] == ["ann@example.org"] * 2


@pytest.mark.parametrize("token", ["~", "~x", "~" + "A" * 22])
def test_unknown_token_has_expired(admin_client: Client, token: str) -> None:
    assert read(admin_client, token) is None


def test_keeps_the_last_20_searches_of_a_login(admin_client: Client) -> None:
    tokens = [search(admin_client, f"term {number}") for number in range(20)]
    assert read(admin_client, tokens[0]) == "term 0"
    tokens.append(search(admin_client, "term 20"))
    assert read(admin_client, tokens[0]) is None
    assert [read(admin_client, token) for token in tokens[1:]] == [f"term {number}" for number in range(1, 21)]


@pytest.mark.parametrize(
    ("term", "stored"),
    [
        (" a b ", "a b"),
        ("x" * 255, "x" * 255),
        ("x" * 256, "x" * 255),
        ("a\0b", "a\ufffdb"),
        ("~x", "~x"),
    ],
    ids=["blanks", "255", "256", "NUL", "prefix"],
)
def test_term_is_stored_as_text_that_postgresql_accepts(admin_client: Client, term: str, stored: str) -> None:
    token = search(admin_client, term)
    assert token.startswith("~") and token != term
    assert read(admin_client, token) == stored


def test_search_keeps_the_filters_and_starts_at_the_first_page(admin_client: Client) -> None:
    query = "?is_staff__exact=0&older_than=a&newer_than=b&q=~old"
    for term, expected in (("ann", ["is_staff__exact", "q"]), ("", ["is_staff__exact"])):
        location = admin_client.post(f"{LIST}{query}", {"q": term})["Location"]
        assert sorted(parse_qs(urlsplit(location).query)) == expected
    # A typed term is one that was sent by an earlier version's form.
    typed = admin_client.get(f"{LIST}?is_staff__exact=0&q=ann&older_than=a")["Location"]
    parameters = parse_qs(urlsplit(typed).query)
    assert sorted(parameters) == ["is_staff__exact", "q"]
    assert read(admin_client, parameters["q"][0]) == "ann"


def test_key_stays_readable(admin_client: Client) -> None:
    key = str(User.objects.get().pk)
    assert search(admin_client, f" {key} ") == key
    assert "searches" not in admin_client.session
    response = admin_client.get(LIST, {"q": key})
    assert response.context["cl"].query == key
    assert [row.pk for row in response.context["cl"].result_list] == [User.objects.get().pk]


def test_list_without_a_search_is_not_redirected(admin_client: Client) -> None:
    for query in ("", "?q=", "?q=%20", "?is_staff__exact=1"):
        assert admin_client.get(LIST + query).status_code == 200
