"""What stands between pytest-django's fixtures and ours."""

from collections.abc import Iterator

import pytest

from tests.plugin import forget


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """pytest-django drops the test database at the end: nothing may be connected to it then."""
    yield
    forget()
