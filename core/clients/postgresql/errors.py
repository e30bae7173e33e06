"""What psycopg has no exception for."""

import psycopg


class NoAnswer(psycopg.OperationalError):
    """PostgreSQL did not answer in time. What became of the statement is unknown."""


class CommitNotReplicated(NoAnswer):
    """PostgreSQL answers, but a commit waits for a synchronous standby that does not confirm it."""


class ReadOnly(psycopg.OperationalError):
    """The server is a standby, or is configured to be read-only."""
