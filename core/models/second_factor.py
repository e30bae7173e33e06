"""The second factor of a user: an authenticator app (TOTP) and recovery codes.

Neither can be computed from the database. The secret of the app is encrypted with a key that is derived from
SECRET_KEY, and recovery codes are stored as digests.
"""

import base64
import hashlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.crypto import salted_hmac
from django_otp.plugins.otp_totp.models import TOTPDevice

from core.models.base import BaseModel
from core.models.users import User

_SECRET_SIZE = 20  # bytes, RFC 4226 section 4
_NONCE_SIZE = 12  # bytes, NIST SP 800-38D
RECOVERY_CODES = 10
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"  # base32 without letters that look like digits
_CODE_LENGTH = 24  # 120 bits; from 112 on, NIST SP 800-63B allows a fast digest

log = structlog.stdlib.get_logger("voiceassist.logins")


def _encryption_keys() -> Iterator[bytes]:
    """Return the current key, then those of SECRET_KEY_FALLBACKS."""
    for secret_key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        yield salted_hmac("voiceassist.second_factor", "", secret=str(secret_key), algorithm="sha256").digest()


def encrypt(secret: bytes, user_id: Any) -> str:
    """Return text of 64 characters, which only decrypts for the same user."""
    nonce = os.urandom(_NONCE_SIZE)
    ciphertext = AESGCM(next(_encryption_keys())).encrypt(nonce, secret, str(user_id).encode())
    return base64.b64encode(nonce + ciphertext).decode()


def decrypt(text: str, user_id: Any) -> tuple[bytes, bool]:
    """Return the secret and whether it was encrypted with the current key.

    Raise InvalidTag if no key fits, because SECRET_KEY was replaced or the row was copied from another user.
    """
    data = base64.b64decode(text)
    for number, key in enumerate(_encryption_keys()):
        try:
            secret = AESGCM(key).decrypt(data[:_NONCE_SIZE], data[_NONCE_SIZE:], str(user_id).encode())
        except InvalidTag:
            continue
        return secret, number == 0
    raise InvalidTag


class Authenticator(TOTPDevice):  # type: ignore[misc]  # django-otp has no types
    """django-otp's device, except that its secret is encrypted.

    django-otp limits wrong codes (the wait doubles each time) and refuses a code that was used before. Both are stored
    in the row, so callers must lock it: `Authenticator.objects.select_for_update()` in a transaction.
    """

    PHI: tuple[str, ...] = ()
    PERSONAL: tuple[str, ...] = ()
    SECRET = ("key",)
    NON_SENSITIVE = (
        "user",
        "name",
        "confirmed",
        "step",
        "t0",
        "digits",
        "tolerance",
        "drift",
        "last_t",
        "throttling_failure_timestamp",
        "throttling_failure_count",
        "last_used_at",
    )

    key: str

    class Meta:
        proxy = True
        default_permissions = ()

    __str__ = BaseModel.__str__  # Device's contains the user

    @classmethod
    def new(cls, user: User, encrypted_secret: str) -> "Authenticator":
        return cls(user=user, name="authenticator app", key=encrypted_secret)

    @property
    def bin_key(self) -> bytes:
        """Return the secret. `verify_token` and `config_url` of django-otp read this property."""
        return decrypt(self.key, self.user_id)[0]

    def verify_token(self, token: str) -> bool:
        """Return whether the code is right. Encrypt the secret again after SECRET_KEY has been replaced."""
        if not (token.isascii() and token.isdigit() and len(token) == self.digits):
            token = ""  # counts as wrong; `int` would accept "+12", "1_0" and other digits than 0 to 9
        try:
            _, is_current = decrypt(self.key, self.user_id)
        except InvalidTag:
            log.error("second factor can't be decrypted: SECRET_KEY was replaced and is not in SECRET_KEY_FALLBACKS")
            return False
        is_right: bool = super().verify_token(token)
        if is_right and not is_current:
            self.encrypt_again()
        return is_right

    def encrypt_again(self) -> bool:
        """Encrypt the secret with the current SECRET_KEY. Return False if it is already.

        Raise InvalidTag if it can't be decrypted. The caller must have locked the row.
        """
        secret, is_current = decrypt(self.key, self.user_id)
        if not is_current:
            self.key = encrypt(secret, self.user_id)
            self.save(update_fields=["key"])
        return not is_current


def new_secret() -> bytes:
    return os.urandom(_SECRET_SIZE)


class RecoveryCodes(BaseModel):
    """The unused recovery codes of a user, each of which replaces a code of the app once."""

    SECRET = ("digests",)
    NON_SENSITIVE = ("user",)

    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="+")
    digests = ArrayField(models.CharField(max_length=64))

    class Meta:
        db_table = "recovery_codes"
        default_permissions = ()

    @classmethod
    def issue(cls, user: User) -> list[str]:
        """Replace the codes of a user, and return the new ones, which are not stored."""
        codes = ["".join(secrets.choice(_ALPHABET) for _ in range(_CODE_LENGTH)) for _ in range(RECOVERY_CODES)]
        cls.objects.update_or_create(user=user, defaults={"digests": [cls._digest(user, code) for code in codes]})
        return ["-".join(code[start : start + 4] for start in range(0, _CODE_LENGTH, 4)) for code in codes]

    def use(self, code: str) -> bool:
        """Return whether the code is right, and remove it. The caller must have locked the row."""
        digest = self._digest(self.user, "".join(code.lower().replace("-", "").split()))
        if digest not in self.digests:
            return False
        self.digests.remove(digest)
        self.save(update_fields=["digests", "updated_at"])
        return True

    @staticmethod
    def _digest(user: User, code: str) -> str:
        return hashlib.sha256(f"{user.pk}:{code}".encode()).hexdigest()
