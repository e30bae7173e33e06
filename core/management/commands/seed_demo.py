"""Demo data: conversations that nobody had, the same for the same numbers, in one transaction by COPY."""

import time
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import IntegrityError, connection, transaction
from rich.console import Console
from rich.progress import Progress

from core.demo import generator

_SAY_EVERY = 10  # seconds, where there is no terminal for a bar


def number(text: str) -> int:
    if not 0 <= int(text) <= 10**9:
        raise ArgumentTypeError("must be a whole number from 0 to 1,000,000,000")
    return int(text)


class Command(BaseCommand):
    help = "Adds synthetic users, sessions and messages, all or none. The same numbers and seed make the same rows."

    def add_arguments(self, parser: CommandParser) -> None:
        for name, default in (("users", 100), ("sessions", 2000), ("messages", 40_000)):
            parser.add_argument(f"--{name}", type=number, default=default, metavar="N", help="default: %(default)s")
        parser.add_argument("--seed", type=number, default=1, metavar="N", help="another one adds other rows")
        parser.add_argument("--force", action="store_true", help="also in production")

    def handle(self, *, users: int, sessions: int, messages: int, seed: int, force: bool, **options: Any) -> None:
        if settings.PRODUCTION and not force:
            raise CommandError("This is production. --force adds demo data to the real data all the same.")
        if (sessions and not users) or (messages and not sessions):
            raise CommandError("Messages need a session, and sessions need a user.", returncode=2)
        total, began = users + sessions + messages, time.monotonic()
        try:
            with connection.cursor() as cursor:
                steps = generator.write(cursor, users=users, sessions=sessions, messages=messages, seed=seed)
                with connection.wrap_database_errors, transaction.atomic(), closing(steps):
                    self._show(steps, total)
                # For the planner's estimates, and the admin's.
                cursor.execute("ANALYZE users, sessions, messages, audit_events")
        except IntegrityError:
            raise CommandError(
                f"Demo data of --seed {seed} is there already: nothing added. Another adds more."
            ) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # 128 + SIGINT, as shells say it
        added = f"{users:,} users, {sessions:,} sessions and {messages:,} messages"
        self.stdout.write(f"Added {added}: {total / (time.monotonic() - began):,.0f} rows/s.")

    def _show(self, steps: Iterator[int], total: int) -> None:
        console = Console(stderr=True)
        done, said = 0, time.monotonic()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("rows", total=total)
            for step in steps:
                done += step
                bar.advance(task, step)
                if bar.disable and time.monotonic() - said > _SAY_EVERY:
                    self.stderr.write(f"{done:,} of {total:,} rows")
                    said = time.monotonic()
