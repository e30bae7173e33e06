"""`make run`'s own: an admin user to log in with, made once."""

import os
import secrets
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from core.models import User

EMAIL = "admin@localhost.localdomain"


class Command(BaseCommand):
    help = "Creates a superuser for development unless there is one, and tells how to log in."

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.PRODUCTION:
            raise CommandError("This is for development. In production run: manage.py createsuperuser")
        kept = settings.VAR / "admin-password"
        if not User.objects.filter(is_superuser=True).exists():
            password = secrets.token_urlsafe(12)
            with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(password + "\n")
            User.objects.create_superuser(EMAIL, password, full_name="Admin")
        if kept.exists() and User.objects.filter(email=EMAIL).exists():
            password = kept.read_text().strip()
            self.stdout.write(f"Log in to the admin as {EMAIL} with {password} (kept in {kept})")
