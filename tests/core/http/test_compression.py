"""Responses without a secret are compressed, others are not: the length of a compressed page could reveal its token."""

import gzip

import pytest
from django.test import Client

from core.models import User

pytestmark = pytest.mark.django_db

COMPRESSED = ("/metrics", "/metrics/", "/api/schema/", "/admin/status/part")
# Pages with a CSRF token, personal data or PHI, and what a login depends on.
NOT_COMPRESSED = ("/admin/login/", "/admin/", "/admin/core/user/", "/admin/core/auditevent/", "/admin/status/")


@pytest.mark.parametrize("path", COMPRESSED)
def test_response_is_compressed_on_request(admin_client: Client, path: str) -> None:
    plain = admin_client.get(path)
    compressed = admin_client.get(path, headers={"accept-encoding": "gzip, br"})
    assert "Content-Encoding" not in plain
    assert compressed["Content-Encoding"] == "gzip"
    for response in (plain, compressed):
        assert "accept-encoding" in response["Vary"].lower()
    text = gzip.decompress(compressed.content)
    assert text[:20] == plain.content[:20]
    assert len(compressed.content) < len(text) / 3


@pytest.mark.parametrize("path", NOT_COMPRESSED)
def test_page_with_a_token_is_not_compressed(admin_client: Client, path: str) -> None:
    response = admin_client.get(path, headers={"accept-encoding": "gzip, br"})
    assert "Content-Encoding" not in response


@pytest.mark.parametrize("path", COMPRESSED)
def test_compressed_response_contains_no_token(admin_client: Client, admin_user: User, path: str) -> None:
    text = admin_client.get(path).content.decode()
    assert "csrf" not in text.lower()
    assert admin_user.email not in text
