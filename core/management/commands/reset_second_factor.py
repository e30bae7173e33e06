"""Delete the second factor of a user who has lost it: `manage.py reset_second_factor EMAIL`."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from core.auth import second_factor
from core.models import User


class Command(BaseCommand):
    help = "Delete the second factor of a user and end the user's logins. The next login sets up a new one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")

    def handle(self, *args: Any, email: str, **options: Any) -> None:
        user = User.objects.filter(email=email).first()
        if user is None:
            raise CommandError("No user has this email. Check the spelling, or look the user up in the admin.")
        with transaction.atomic():
            second_factor.reset(user)
        self.stdout.write("Second factor reset, and logins ended.")
