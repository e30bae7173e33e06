"""Create an admin user for development, or an emergency account. `make run` runs this command."""

import os
import secrets
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from core.models import User

EMAIL = "admin@localhost.localdomain"


class Command(BaseCommand):
    help = (
        "Create a superuser for development unless one exists, and print how to log in. "
        "With --emergency, create an emergency account, in production too."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--emergency", metavar="EMAIL", help="create an emergency account and print its password")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["emergency"]:
            self._create_emergency_account(options["emergency"])
            return
        if settings.PRODUCTION:
            raise CommandError("create_admin is for development only. Run manage.py createsuperuser instead.")
        password_file = settings.VAR / "admin-password"
        if not User.objects.filter(is_superuser=True).exists():
            password = secrets.token_urlsafe(12)
            with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(password + "\n")
            User.objects.create_superuser(EMAIL, password, full_name="Admin")
        if password_file.exists() and User.objects.filter(email=EMAIL).exists():
            password = password_file.read_text().strip()
            self.stdout.write(f"Log in to the admin as {EMAIL} with password {password} (stored in {password_file})")

    def _create_emergency_account(self, email: str) -> None:
        password = secrets.token_urlsafe(18)
        user = User(email=email, full_name="Emergency", is_staff=True, is_superuser=True, is_emergency=True)
        user.set_password(password)
        try:
            user.full_clean()
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        user.save()
        self.stdout.write(f"Created the emergency account {user.email} with password {password}")
        self.stdout.write("The password is not stored anywhere else. Write it down and seal it (docs/OPERATIONS.md).")
