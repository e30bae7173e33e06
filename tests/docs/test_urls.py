"""The server accepts the URLs and options of DATABASE_URL and REDIS_URL in the documentation."""

import re

import pytest

from core.clients import database_url, redis_url
from tests.docs.markdown import ROOT, pages

TEXT = "\n".join(path.read_text() for path in [*pages(), ROOT / ".env.example"])
DATABASE_URLS = {
    *re.findall(r"postgres://[^\s`]+\w", TEXT),
    *(f"postgres://host/name{options}" for options in re.findall(r"`(\?options=[^`]*)`", TEXT)),
}
REDIS_URLS = {*re.findall(r"rediss?(?:\+sentinel)?://[^\s`]*@[^\s`]+\w", TEXT)}


@pytest.mark.parametrize("url", sorted(DATABASE_URLS))
def test_database_url_is_accepted(url: str) -> None:
    database_url.parse(url)


@pytest.mark.parametrize("url", sorted(REDIS_URLS))
def test_redis_url_is_accepted(url: str) -> None:
    redis_url.parse(url)
