"""Asks PostgreSQL whether it can be read and written now."""

from typing import Any

import psycopg
from psycopg.abc import PQGen

from core.clients.postgresql.connection import INTERVAL, MIN_TIMEOUT, Connection
from core.clients.postgresql.errors import CommitNotReplicated, ReadOnly
from core.clients.postgresql.servers import preference

# Emits a transactional WAL record, so that the transaction has something to commit and to replicate. It leaves nothing
# behind in any table: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION
EMIT_WAL = "pg_logical_emit_message(true, 'voiceassist', '')"
_CHECK_WRITABLE = (
    f"SELECT CASE WHEN current_setting('transaction_read_only') = 'off' THEN {EMIT_WAL} IS NOT NULL ELSE false END"
)


class ProbeConnection(Connection):
    """A connection that asks whether PostgreSQL can be read and written, and cancels a question without an answer.

    Cancelling is safe here, because nothing depends on what a probe wrote. It is needed, because PostgreSQL does not
    notice a closed socket while a commit waits for a standby: each probe would leave a server process behind.
    """

    def check_writable(self, seconds: float) -> None:
        """Commit one small WAL record within `seconds`.

        Raises ReadOnly, CommitNotReplicated, NoAnswer, or whatever else went wrong.
        """
        with self.time_limit(seconds * 0.8):  # the rest is for cancelling
            row = self.execute(_CHECK_WRITABLE).fetchone()
        if not row or not row[0]:
            raise ReadOnly("the session is read-only: the server is a standby, or is configured so")
        if self.address == preference.cannot_commit:
            preference.cannot_commit = None

    def _give_up(self, gen: PQGen[Any]) -> None:
        assert self.timeout is not None
        seconds = max(MIN_TIMEOUT, self.timeout / 8)
        try:
            self.cancel_safe(timeout=seconds)
            super(Connection, self).wait(gen, INTERVAL, seconds)
        except psycopg.errors.QueryCanceled:
            pass  # it was busy with the statement; the connection can be used again
        except psycopg.Error:
            super()._give_up(gen)
        if self._notices.has_cancelled_replication:
            self._notices.has_cancelled_replication = False
            preference.cannot_commit = self.address
            raise CommitNotReplicated("a commit waits for a synchronous standby that does not confirm it")
