"""Create an admin user for development, or an emergency account. `make run` runs this command."""

import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import IntegrityError, transaction

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
            self._create_admin(password_file)
        admin = User.objects.filter(email=EMAIL, is_superuser=True).first()
        if admin is None:
            return
        password = password_file.read_text().strip() if password_file.exists() else ""
        if admin.check_password(password):
            self.stdout.write(f"Log in to the admin as {EMAIL} with password {password} (stored in {password_file})")
        else:
            self.stdout.write(f"Log in to the admin as {EMAIL} with the password that you have set")

    def _create_admin(self, password_file: Path) -> None:
        """Create the account and store its password, both or neither. Does nothing if another process creates it."""
        password = secrets.token_urlsafe(12)
        try:
            with transaction.atomic():
                # Waits for another process that is creating it. So only the process that succeeds writes the file.
                User.objects.create_superuser(EMAIL, password, full_name="Admin")
                password_file.unlink(missing_ok=True)  # it may have another mode
                with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(password + "\n")
        except IntegrityError:
            if not User.objects.filter(email=EMAIL, is_superuser=True).exists():
                raise CommandError(f"{EMAIL} exists and is no superuser. Run manage.py createsuperuser.") from None
        except OSError as error:
            raise CommandError(
                f"The password can't be stored in {password_file} ({error.strerror}), so no account was created. "
                "Correct that, then try again."
            ) from None

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
