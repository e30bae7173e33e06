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
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 10**9:
        raise ArgumentTypeError("must be a whole number from 0 to 1,000,000,000")
    return value


class Command(BaseCommand):
    help = (
        "Adds synthetic users, sessions and messages, all or none. The same numbers and seed generate the same rows. "
        "Exit code 0: added; 1: nothing was added; 2: wrong usage."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        for name, default in (("users", 100), ("sessions", 2000), ("messages", 40_000)):
            parser.add_argument(
                f"--{name}", type=number, default=default, metavar="N", help=f"number of {name} (default: %(default)s)"
            )
        parser.add_argument(
            "--seed", type=number, default=1, metavar="N",
            help="use a different seed to add more rows (default: %(default)s)",
        )  # fmt: skip
        parser.add_argument("--force", action="store_true", help="allow in production")

    def handle(self, *, users: int, sessions: int, messages: int, seed: int, force: bool, **options: Any) -> None:
        if settings.PRODUCTION and not force:
            raise CommandError("Refused to add demo data to production data. Use --force to do it anyway.")
        if sessions and not users:
            raise CommandError("--sessions needs --users. Add at least one user.", returncode=2)
        if messages and not sessions:
            raise CommandError("--messages needs --sessions. Add at least one session.", returncode=2)
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
                f"Demo data for seed {seed} already exists; nothing added. Use another --seed to add more."
            ) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # 128 + SIGINT, the convention of shells
        added = f"{users:,} users, {sessions:,} sessions and {messages:,} messages"
        self.stdout.write(f"Added {added}: {total / (time.monotonic() - started_at):,.0f} rows/s.")
