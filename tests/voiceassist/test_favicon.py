"""Every page has an icon, so that no browser logs a missing /favicon.ico."""

import pytest
from django.test import Client


@pytest.mark.django_db
def test_pages_name_the_icon(client: Client) -> None:
    for page in ("/admin/login/", "/api/docs/"):
        assert (
            '<link rel="icon" type="image/svg+xml" href="/static/core/favicon.svg">'
            in client.get(page).content.decode()
        )


def test_favicon_ico_leads_to_the_icon(client: Client) -> None:
    response = client.get("/favicon.ico")
    assert (response.status_code, response["Location"]) == (302, "/static/core/favicon.svg")
