"""`manage.py archive_audit --before DATE --recipient age1… --output FILE`: copy old audit events into a file."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.utils.dateparse import parse_date

from core import audit, audit_archive, exports
from core.audit import Origin, attributed_to
from core.management.new_file import new_file
from core.management.progress import RowProgress
from core.models import AuditEvent
from core.trace_id import get_or_create_trace_id


class Command(BaseCommand):
    help = (
        "Writes the audit events of all checkpoints before a day (UTC), encrypted with age for a public key, and "
        "records that in the audit trail. Removes nothing. verify_archive verifies the decrypted file."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--before", required=True, metavar="YYYY-MM-DD")
        parser.add_argument("--recipient", required=True, metavar="KEY", help="public key of age, age1…")
        parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="file that does not exist yet")
        parser.add_argument("--archived", metavar="DIGEST", help="last digest of the previous archive")

    def handle(self, *, before: str, recipient: str, output: Path, archived: str | None, **options: Any) -> None:
        try:
            key, day = str(exports.parse_recipient(recipient)), parse_date(before)
        except ValidationError as error:
            raise CommandError(error.messages[0]) from None
        except ValueError:
            day = None
        if day is None:
            raise CommandError("--before is not a date. Use the form 2026-12-31.")
        if output.exists():
            raise CommandError(f"{output} exists. Choose another file.")
        try:
            self._write(datetime(day.year, day.month, day.day, tzinfo=UTC), key, output, archived)
        except audit_archive.ArchiveError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(f"Could not write {output}: {error.strerror}.") from None

    def _write(self, before: datetime, key: str, output: Path, archived: str | None) -> None:
        connection.ensure_connection()
        with connection.wrap_database_errors:
            previous, chosen = audit_archive.select(connection.connection, before, archived)
            total = sum(checkpoint.events for checkpoint in chosen)
            with new_file(output) as file, RowProgress(total, self.stderr) as progress:
                _record(recipient=key)
                lines = audit_archive.lines(connection.connection, previous, chosen)
                exports.encrypt(lines, key, file.write, progress.add)
            # Not before the file is complete, because drills do not compare the events of a recorded archive.
            _record(recipient=key, digest=chosen[-1].digest)
        self.stdout.write(
            f"Wrote {output}: {total:,} events of checkpoints {chosen[0].number} to {chosen[-1].number}, encrypted. "
            f"The last digest is {chosen[-1].digest}."
        )


def _record(**values: str) -> None:
    changes: dict[str, list[Any]] = {name: [None, value] for name, value in values.items()}
    with attributed_to(Origin(trace_id=get_or_create_trace_id())):
        audit.record(AuditEvent.Action.EXPORT, None, user=None, changes=changes)
