"""Exceptions that psycopg does not have."""

import psycopg


class NoResponse(psycopg.OperationalError):
    """PostgreSQL did not respond in time. The statement may or may not have been executed."""


class CommitNotReplicated(NoResponse):
    """PostgreSQL responds, but the synchronous standby did not confirm a commit."""


class ReadOnly(psycopg.OperationalError):
    """The server is a standby, or configured as read-only."""
