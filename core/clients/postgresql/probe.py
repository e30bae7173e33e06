"""Check whether PostgreSQL can be read and written."""

from typing import Any

import psycopg
from psycopg.abc import PQGen

from core.clients.postgresql.connection import MIN_TIMEOUT, WAIT_INTERVAL, Connection
from core.clients.postgresql.errors import CommitNotReplicated, ReadOnly
from core.clients.postgresql.servers import preference

# Emits a transactional WAL record, so that there is something to commit and to replicate, without writing to a table:
# https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION
EMIT_WAL = "pg_logical_emit_message(true, 'voiceassist', '')"
_CHECK_WRITABLE = (
    f"SELECT CASE WHEN current_setting('transaction_read_only') = 'off' THEN {EMIT_WAL} IS NOT NULL ELSE false END"
)


class ProbeConnection(Connection):
    """A connection that checks whether PostgreSQL can be read and written, and cancels statements that time out.

    Cancelling is safe here, because a probe's WAL record has no effect. It is necessary, because PostgreSQL does not
    notice a closed socket while a commit waits for a standby, so each probe would leave a server process behind.
    """

    def check_writable(self, seconds: float) -> None:
        """Commit one small WAL record within `seconds`.

        Raises ReadOnly, CommitNotReplicated, NoResponse or another psycopg.Error.
        """
        with self.time_limit(seconds * 0.8):  # the rest is for cancelling
            row = self.execute(_CHECK_WRITABLE).fetchone()
        if not row or not row[0]:
            raise ReadOnly("The session is read-only. The server is a standby, or configured as read-only.")
        if self.address == preference.cannot_commit:
            preference.cannot_commit = None

    def _handle_timeout(self, gen: PQGen[Any]) -> None:
        assert self.timeout is not None
        seconds = max(MIN_TIMEOUT, self.timeout / 8)
        try:
            self.cancel_safe(timeout=seconds)
            super(Connection, self).wait(gen, WAIT_INTERVAL, seconds)
        except psycopg.errors.QueryCanceled:
            pass  # the server was only busy, so the connection can be used again
        except psycopg.Error:
            super()._handle_timeout(gen)
        if self._notices.has_cancelled_replication:
            self._notices.has_cancelled_replication = False
            preference.cannot_commit = self.address
            raise CommitNotReplicated("A commit waits for a synchronous standby that does not confirm it.")
