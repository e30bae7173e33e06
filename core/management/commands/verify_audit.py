"""`manage.py verify_audit`: find removed, changed and added audit events."""

import argparse
import time
from contextlib import nullcontext
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from core.audit_verification import Result, logged_digests, verify
from core.management.progress import show_line

_MAX_LISTED = 20  # problems
_INTERVAL = 0.5  # seconds between two messages on a terminal


class Command(BaseCommand):
    help = (
        "Compares the audit events with the checkpoints in the database, and those with the log. Exit code 0: no "
        "difference; 1: events or checkpoints were removed, changed or added; 2: there is nothing to verify."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        log = argparse.FileType("r", encoding="utf-8", errors="replace")
        parser.add_argument("--log", type=log, metavar="FILE", help="a log of the server in JSON; - reads stdin")
        parser.add_argument("--digest", action="append", default=[], help="a digest that must be in the trail")
        archived_help = "last digest of an archive, up to which events may be missing"
        parser.add_argument("--archived", metavar="DIGEST", help=archived_help)

    def handle(self, *, log: Any, digest: list[str], archived: str | None, **options: Any) -> None:
        with log or nullcontext(()) as lines:
            logged = logged_digests(lines)
        if log and not logged:
            raise CommandError(f"{log.name} contains no checkpoint. Use a log with LOG_FORMAT=json.", returncode=2)
        connection.ensure_connection()
        result, reported_at = Result(), time.monotonic()
        with connection.wrap_database_errors:
            for result in verify(connection.connection, logged, digest, archived=archived):
                if self.stderr.isatty() and time.monotonic() - reported_at >= _INTERVAL:
                    reported_at = time.monotonic()
                    show_line(self.stderr, f"{result.events:,} events up to {result.last.created_at:%Y-%m-%d %H:%M}")
        self._report(result, has_log=bool(log))

    def _report(self, result: Result, *, has_log: bool) -> None:
        if result.problems:
            listed = "\n".join(result.problems[:_MAX_LISTED])
            more = f"\nand {len(result.problems) - _MAX_LISTED} more." if len(result.problems) > _MAX_LISTED else ""
            raise CommandError(f"The audit trail was changed.\n{listed}{more}")
        if not result.checkpoints:
            raise CommandError(
                "There is no checkpoint yet. Start a worker or run checkpoint_audit, and try again.", returncode=2
            )
        self.stdout.write(
            f"No difference in {result.events:,} events and {result.checkpoints:,} checkpoints. The last one is number "
            f"{result.last.number} of {result.last.created_at:%Y-%m-%d %H:%M:%S} UTC, digest {result.last.digest}. "
            f"{result.uncovered:,} later events have no checkpoint yet, so their removal would not show."
        )
        if result.archived:
            self.stdout.write(f"{result.archived:,} older events are in an archive (--archived) and were not read.")
        if not has_log:
            self.stdout.write("Not compared with a log (--log), without which rewritten checkpoints would not show.")
