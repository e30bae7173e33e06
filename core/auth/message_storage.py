"""Encrypted messages of the admin, such as "The user “ann@example.org” was changed".

Django keeps a message in the web session until the next page shows it. Without encryption, Redis and the table of web
sessions would contain emails.
"""

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.contrib.messages.storage.session import SessionStorage


class EncryptedSessionStorage(SessionStorage):
    """Django's storage with a different serialization. Messages that can't be decrypted are dropped.

    Django does not document `session_key`, `serialize_messages` and `deserialize_messages`.
    """

    session_key = "encrypted_messages"  # not Django's, because servers of an earlier release would fail to read it

    def serialize_messages(self, messages: Any) -> str:
        return _fernet().encrypt(super().serialize_messages(messages).encode()).decode()

    def deserialize_messages(self, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        try:
            return super().deserialize_messages(_fernet().decrypt(data).decode())
        except InvalidToken:  # written with a key that has been removed since
            return []


def _fernet() -> MultiFernet:
    """Return the cipher, which encrypts with SECRET_KEY and also decrypts with SECRET_KEY_FALLBACKS."""
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return MultiFernet([Fernet(urlsafe_b64encode(sha256(f"{__name__} {key}".encode()).digest())) for key in keys])
