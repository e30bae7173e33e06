"""`age --decrypt … | manage.py verify_archive -`: verify an archive of the audit trail, without the database."""

import argparse
from contextlib import nullcontext
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from core import audit_archive
from core.audit_verification import logged_digests


class Command(BaseCommand):
    help = "Verifies a decrypted archive of archive_audit, also against a log. Exit code 1: it is not whole."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        text = argparse.FileType("r", encoding="utf-8")
        parser.add_argument("archive", type=text, metavar="FILE", help="the decrypted archive; - reads stdin")
        log = argparse.FileType("r", encoding="utf-8", errors="replace")
        parser.add_argument("--log", type=log, metavar="FILE", help="a log of the server in JSON")

    def handle(self, *, archive: Any, log: Any, **options: Any) -> None:
        with log or nullcontext(()) as lines:
            logged = logged_digests(lines)
        if log and not logged:
            raise CommandError(f"{log.name} contains no checkpoint. Use a log with LOG_FORMAT=json.", returncode=2)
        try:
            with archive:
                summary = audit_archive.verify(archive, logged)
        except (audit_archive.ArchiveError, UnicodeDecodeError) as error:
            is_text = isinstance(error, audit_archive.ArchiveError)
            raise CommandError(
                str(error) if is_text else "The archive is encrypted. Decrypt it with age first."
            ) from None
        self.stdout.write(
            f"The archive is whole: {summary.events:,} events of checkpoints {summary.first} to {summary.last.number}. "
            f"The last digest is {summary.last.digest}."
        )
