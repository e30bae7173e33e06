"""`manage.py delete_user EMAIL`: delete a user with all sessions and messages."""

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core.audit import Origin
from core.batched_deletion import delete_user
from core.exports import users_being_exported
from core.management.progress import report_rows
from core.models import Job, Message, Session, User
from core.trace_id import get_or_create_trace_id

MAX_REASON = Job._meta.get_field("reason").max_length


class Command(BaseCommand):
    help = (
        "Deletes a user with all sessions and messages, after a question. The user is deactivated first. If the "
        "command is interrupted, start it again: it deletes what is left."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--reason", default="", metavar="TEXT", help="recorded in the audit trail")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *args: Any, email: str, reason: str, yes: bool, **options: Any) -> None:
        if MAX_REASON and len(reason) > MAX_REASON:
            raise CommandError(f"The reason is too long. Use at most {MAX_REASON} characters.")
        user = User.objects.filter(email=email).first()
        if user is None:
            raise CommandError("No user has this email. Check the spelling, or look the user up in the admin.")
        if users_being_exported([user.pk]):
            raise CommandError("An export of the user is not finished. Wait until it is, or cancel it in the admin.")
        sessions = Session.objects.filter(user=user).count()
        messages = Message.objects.filter(session__user=user).count()
        self.stdout.write(
            f"This deletes the user {user.pk} with {sessions:,} sessions and {messages:,} messages for good."
        )
        if not (yes or self._is_confirmed(user.email)):
            raise CommandError("Nothing was deleted.")
        origin = Origin(trace_id=get_or_create_trace_id(), reason=reason)
        try:
            report_rows(_steps(delete_user(user.pk, origin)), messages, self.stderr)
        except KeyboardInterrupt:
            self.stderr.write("Interrupted. The user may be deactivated. Start the command again to delete the rest.")
            raise SystemExit(130) from None  # 128 + SIGINT, the convention of shells
        self.stdout.write(f"Deleted. The audit events have the trace id {origin.trace_id}.")

    def _is_confirmed(self, email: str) -> bool:
        try:
            return input("Type the email again to delete the user: ").strip().lower() == email
        except EOFError:
            return False


def _steps(deletion: Iterator[Job]) -> Iterator[int]:
    """Yield how many messages each transaction has deleted."""
    before = 0
    for job in deletion:
        yield job.done - before
        before = job.done
