"""The endpoint that `checkdeps`, the log and the status page show for PostgreSQL."""

import pytest
from django.db import connections

from core.clients import database_url
from health.checks.postgres import postgres_endpoint


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("postgres://user:password@db/va", "db:5432/va"),
        ("postgres://db1,db2:6000/va", "db1:5432,db2:6000/va"),
        ("postgres:///va", "localhost:5432/va"),
        ("postgres://%2Frun%2Fpostgresql/va", "/run/postgresql/va"),
        ("postgres:///va?hostaddr=10.0.0.1,10.0.0.2&port=1,2", "10.0.0.1:1,10.0.0.2:2/va"),
        ("postgres://db1,db2/va?hostaddr=10.0.0.1,10.0.0.2&port=6000", "db1:6000,db2:6000/va"),
    ],
)
def test_endpoint(monkeypatch: pytest.MonkeyPatch, url: str, endpoint: str) -> None:
    parsed = database_url.parse(url)
    for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS"):
        monkeypatch.setitem(connections["default"].settings_dict, name, parsed[name])
    assert postgres_endpoint() == endpoint
