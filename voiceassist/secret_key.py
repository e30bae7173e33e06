"""The secret key of a development checkout."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def development_secret_key(path: Path) -> str:
    """Return the key in the file, which is generated on first use, so that sessions survive a restart."""
    try:
        if not path.exists():
            _generate(path)
        key = path.read_text().strip()
    except OSError as error:
        raise ImproperlyConfigured(f"Can't read or create {path} ({error.strerror}). Set SECRET_KEY.") from error
    if not key:
        raise ImproperlyConfigured(f"{path} is empty. Remove it, or set SECRET_KEY.")
    return key


def _generate(path: Path) -> None:
    """Create the file atomically, so that concurrent processes all read the same key."""
    path.parent.mkdir(exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # readable by this user only
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(64))
        with suppress(FileExistsError):  # another process generated it
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
