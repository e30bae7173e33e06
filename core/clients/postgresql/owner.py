"""Connect as the role that owns the tables, where the settings name it."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import connections


@contextmanager
def connected_as_owner(alias: str) -> Iterator[None]:
    """Replace the connection `alias` by one of `settings.MIGRATION_ROLE` during the block.

    Only the embedded server of development sets that role, which needs no password there. Otherwise do nothing, because
    `DATABASE_URL` already names the right role.
    """
    if not settings.MIGRATION_ROLE:
        yield
        return
    # Undocumented: connections can be copied and replaced, as in `migration_locks`.
    original = connections[alias]
    owner = original.copy()
    owner.settings_dict["USER"] = settings.MIGRATION_ROLE
    connections[alias] = owner
    try:
        yield
    finally:
        owner.close()
        connections[alias] = original
