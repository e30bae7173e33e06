"""`manage.py seed_demo`: reproducible synthetic conversations."""

import time
from argparse import ArgumentTypeError
from contextlib import closing
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import IntegrityError, connection, transaction

from core.clients.postgresql.owner import connected_as_owner
from core.demo import generator
from core.management.progress import report_rows


def number(text: str) -> int:
    if not 0 <= int(text) <= 10**9:
        raise ArgumentTypeError("must be a whole number from 0 to 1,000,000,000")
    return int(text)


class Command(BaseCommand):
    help = "Adds synthetic users, sessions and messages, all or none. The same numbers and seed generate the same rows."

    def add_arguments(self, parser: CommandParser) -> None:
        for name, default in (("users", 100), ("sessions", 2000), ("messages", 40_000)):
            parser.add_argument(f"--{name}", type=number, default=default, metavar="N", help="default: %(default)s")
        parser.add_argument(
            "--seed", type=number, default=1, metavar="N", help="changes the rows; default: %(default)s"
        )
        parser.add_argument("--force", action="store_true", help="run in production too")

    def handle(self, *, users: int, sessions: int, messages: int, seed: int, force: bool, **options: Any) -> None:
        if settings.PRODUCTION and not force:
            raise CommandError("Refused to add demo data to production data. Use --force to do it anyway.")
        if (sessions and not users) or (messages and not sessions):
            raise CommandError("Messages need at least one session, and sessions at least one user.", returncode=2)
        total, started_at = users + sessions + messages, time.monotonic()
        try:
            with connection.cursor() as cursor:
                steps = generator.write(cursor, users=users, sessions=sessions, messages=messages, seed=seed)
                with connection.wrap_database_errors, transaction.atomic(), closing(steps):
                    report_rows(steps, total, self.stderr)
            # For the query planner and the admin's counts. PostgreSQL skips it for a role that does not own the tables,
            # and does it automatically within minutes.
            with connected_as_owner(connection.alias), connection.cursor() as cursor:
                cursor.execute("ANALYZE users, sessions, messages, audit_events")
        except IntegrityError:
            raise CommandError(
                f"Demo data of --seed {seed} already exists. Nothing was added. Use a different seed to add more."
            ) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # 128 + SIGINT, the convention of shells
        added = f"{users:,} users, {sessions:,} sessions and {messages:,} messages"
        self.stdout.write(f"Added {added}: {total / (time.monotonic() - started_at):,.0f} rows/s.")
