"""`manage.py export_user EMAIL --recipient age1… --output FILE`: write a user's data, encrypted."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from core import exports
from core.audit import Origin, attributed_to
from core.management.new_file import new_file
from core.management.progress import RowProgress
from core.models import Message, User
from core.trace_id import get_or_create_trace_id


class Command(BaseCommand):
    help = (
        "Writes the data of a user as JSON, encrypted with age for a public key, and records that in the audit trail. "
        "Only the owner of the key can read the file: age --decrypt --identity KEY FILE"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--recipient", required=True, metavar="KEY", help="public key of age, age1…")
        parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="file that does not exist yet")

    def handle(self, *args: Any, email: str, recipient: str, output: Path, **options: Any) -> None:
        try:
            key = str(exports.parse_recipient(recipient))
        except ValidationError as error:
            raise CommandError(error.messages[0]) from None
        user = User.objects.filter(email=email).first()
        if user is None:
            raise CommandError("No user has this email. Check the spelling, or look the user up in the admin.")
        if output.exists():
            raise CommandError(f"{output} exists. Choose another file.")
        total = Message.objects.filter(session__user=user).count()
        try:
            self._write(user, key, output, total)
        except exports.Incomplete:
            raise CommandError("Messages or the user were deleted meanwhile. Nothing was written. Try again.") from None
        except OSError as error:
            raise CommandError(f"Could not write {output}: {error.strerror}.") from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # 128 + SIGINT, the convention of shells
        self.stdout.write(f"Wrote {output}: {total:,} messages, {output.stat().st_size:,} bytes, encrypted.")

    def _write(self, user: User, key: str, output: Path, total: int) -> None:
        with new_file(output) as file, RowProgress(total, self.stderr) as progress:
            with attributed_to(Origin(trace_id=get_or_create_trace_id())):
                exports.record(None, user, key)
            exports.write(user, key, file.write, progress.add)
