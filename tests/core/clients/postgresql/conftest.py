from collections.abc import Iterator

import pytest

from core.clients.postgresql.circuit_breaker import circuit_breaker
from core.models import Session, User
from tests.support.plugin import drop_readiness_connections


@pytest.fixture(autouse=True)
def closed_breaker() -> Iterator[None]:
    circuit_breaker.close()
    yield
    circuit_breaker.close()


@pytest.fixture
def session() -> Session:
    return Session.objects.create(user=User.objects.create_user("ann@example.org"))


@pytest.fixture(autouse=True, scope="module")
def close_readiness_connections() -> Iterator[None]:
    yield
    drop_readiness_connections()
