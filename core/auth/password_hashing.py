"""Hash passwords with Argon2id, one at a time in each process.

Anonymous clients cause hashes by guessing passwords, so the memory and the CPU time that hashes may take are limited.
One thread hashes, a few requests wait for it, and all others get 429 at once (`core.auth.middleware`). Several threads
that hash in turn would not do, because glibc keeps the freed memory of a hash for each thread.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.conf import settings
from django.contrib.auth.hashers import Argon2PasswordHasher
from prometheus_client import Counter

MAX_WAIT = 1.5  # seconds that a request waits for the hashes before its own
RETRY_AFTER = 2  # seconds after which a refused client may try again
# Requests that may wait. At least one request thread stays free for pages that need no hash.
MAX_WAITING = max(0, settings.WEB_THREADS - 2)

REFUSED = Counter("voiceassist_password_hashes_refused", "Password checks refused with 429, because too many waited.")

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="password-hash")
_places = threading.BoundedSemaphore(1 + MAX_WAITING)

T = TypeVar("T")


class TooManyHashesError(Exception):
    """Too many requests already wait for the hash of a password."""


class PasswordHasher(Argon2PasswordHasher):
    """Argon2id with parameters of OWASP's Password Storage Cheat Sheet.

    Of its equivalent settings, this one needs the least memory except for those with three or more iterations. A hash
    takes 19 MiB and about 40 ms. Hashes with Django's parameters (100 MiB, 8 threads) remain valid, and are replaced at
    the next login of their account. Until then a wrong password takes longer for it than for an unknown account.
    """

    memory_cost = 19456  # KiB
    time_cost = 2
    parallelism = 1

    def encode(self, password: str, salt: str) -> str:
        return _in_turn(super().encode, password, salt)

    def verify(self, password: str, encoded: str) -> bool:
        return _in_turn(super().verify, password, encoded)


def _in_turn(function: Callable[[str, str], T], *args: str) -> T:
    """Return the result of the function, or raise TooManyHashesError if that would take too long."""
    if not _places.acquire(blocking=False):
        REFUSED.inc()
        raise TooManyHashesError
    try:
        future = _thread.submit(function, *args)
        try:
            return future.result(MAX_WAIT)
        except TimeoutError:
            if not future.cancel():  # it has begun
                return future.result()
            REFUSED.inc()
            raise TooManyHashesError from None
    finally:
        _places.release()
