"""End all logins of a user: `manage.py end_logins EMAIL`."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from core.auth.ended_logins import end_logins
from core.models import User


class Command(BaseCommand):
    help = (
        "End all logins of a user, on every server. The user can log in again; deactivate the account to prevent that."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")

    def handle(self, *args: Any, email: str, **options: Any) -> None:
        user = User.objects.filter(email=email).first()
        if user is None:
            raise CommandError("No user has this email. Check the spelling, or look the user up in the admin.")
        end_logins(user)
        self.stdout.write("All logins of this user have ended.")
