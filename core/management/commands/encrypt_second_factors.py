"""`manage.py encrypt_second_factors`: encrypt the secrets of second factors with a new SECRET_KEY."""

from typing import Any

from cryptography.exceptions import InvalidTag
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from core.models import Authenticator


class Command(BaseCommand):
    help = (
        "Encrypts the secrets of all second factors with the current SECRET_KEY. Run it before you remove a key from "
        "SECRET_KEY_FALLBACKS, otherwise secrets that only this key can decrypt are lost."
    )

    def handle(self, **options: Any) -> None:
        changed, lost = 0, []
        for key in Authenticator.objects.order_by("pk").values_list("pk", flat=True):
            with transaction.atomic():
                device = Authenticator.objects.select_for_update().filter(pk=key).first()
                try:
                    changed += device is not None and device.encrypt_again()
                except InvalidTag:
                    lost.append(str(device.user_id))
        self.stdout.write(f"Encrypted {changed} second factors with the current key.")
        if lost:
            raise CommandError(
                f"{len(lost)} second factors can't be decrypted. Add their key to SECRET_KEY_FALLBACKS, or reset those "
                f"of the users {', '.join(lost)}."
            )
