"""`manage.py drill BACKUP`: restore a backup into a throw-away PostgreSQL, and prove that it is whole."""

import signal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from core import drill


def _stop(*args: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # so that the server is stopped and its data removed


class Command(BaseCommand):
    help = (
        "Restores a backup into a throw-away PostgreSQL, checks it, prints how long the recovery took and how old the "
        "data is, and records that the backup is verified. Exit code 1: the backup is not proven."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("backup", type=Path, help="the folder of a base backup or a dump")
        parser.add_argument("--identity", type=Path, required=True, metavar="FILE", help="age's private key")

    def handle(self, *, backup: Path, identity: Path, **options: Any) -> None:
        signal.signal(signal.SIGTERM, _stop)
        try:
            outcome = drill.verify(backup, identity, self._report)
        except drill.DrillError as error:
            raise CommandError(f"The backup is not proven. {error}") from None
        except KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT) from None
        self.stdout.write(
            f"The backup is whole. Recovery took {outcome.recovery_seconds:.1f} s (RTO). The last restored change was "
            f"{outcome.data_age_seconds:.0f} s old when the drill began (RPO)."
        )
        try:
            drill.record(outcome)
        except DatabaseError as error:
            raise CommandError(
                f"The success could not be recorded ({type(error).__name__}), so the alert stays. Check DATABASE_URL."
            ) from None

    def _report(self, name: str, seconds: float, detail: str) -> None:
        self.stdout.write(f"{name:<32} {seconds:8.1f} s  {detail}".rstrip())
        self.stdout.flush()
