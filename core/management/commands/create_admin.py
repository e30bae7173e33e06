"""Create an admin user for development. `make run` runs this command."""

import os
import secrets
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from core.models import User

EMAIL = "admin@localhost.localdomain"


class Command(BaseCommand):
    help = "Create a superuser for development unless one exists, and print how to log in."

    def handle(self, *args: Any, **options: Any) -> None:
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
