"""`manage.py checkpoint_audit`: write a checkpoint of the audit trail now. The worker does this every 30 seconds."""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from core.audit_checkpoints import is_settled, take_mark, write_checkpoints

_TIMEOUT = 60.0  # seconds that transactions may take to end
_INTERVAL = 0.2


class Command(BaseCommand):
    help = "Writes and logs a checkpoint of the audit events that have none. The worker does this too."

    def handle(self, **options: Any) -> None:
        connection.ensure_connection()
        with connection.wrap_database_errors:
            mark = take_mark(connection.connection)
            deadline = time.monotonic() + _TIMEOUT
            while not is_settled(connection.connection, mark):
                if time.monotonic() > deadline:
                    raise CommandError("A transaction has been open for a minute. End it, and try again.")
                time.sleep(_INTERVAL)
            for checkpoint in write_checkpoints(connection.connection, mark):
                self.stdout.write(f"Checkpoint {checkpoint.number}: {checkpoint.events} events, {checkpoint.digest}")
