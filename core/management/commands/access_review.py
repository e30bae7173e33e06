"""`manage.py access_review`: the accounts that can use the admin, reveal PHI or export a user's data."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from core import access_review

COLUMNS = ("email", "is_active", "is_staff", "is_superuser", "is_emergency", "view_phi", "export_user",
           "has_second_factor", "last_login", "remarks")  # fmt: skip


class Command(BaseCommand):
    help = "Lists the accounts that can use the admin, reveal PHI or export data, and what a reviewer should look at."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--format", choices=("text", "json", "csv"), default="text", help="default: %(default)s")

    def handle(self, *, format: str, **options: Any) -> None:
        accounts = list(access_review.accounts())
        if format == "csv":
            access_review.write_csv(self.stdout, accounts)
        elif format == "json":
            self.stdout.write(json.dumps([vars(account) for account in accounts], default=str, indent=2))
        else:
            texts = [access_review.as_texts(account) for account in accounts]
            rows = [COLUMNS, *(tuple(text[name] for name in COLUMNS) for text in texts)]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                self.stdout.write("  ".join(cells).rstrip())
