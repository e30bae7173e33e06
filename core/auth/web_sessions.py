"""Web sessions in the database, cached in Redis. Neither store contains what opens a login or can be copied into one.

    cookie          a random key, `session_key`; the server does not store it
    django_session  stored under a digest of the key, so a copy of the table opens no login
    Redis           the same digest and value, for at most MAX_CACHE_AGE seconds

Values are signed together with the digest. An entry that was made up, changed or copied from another session is a cache
miss in Redis and an empty session in the table. Redis may have an outdated entry, because it can be unavailable when a
session is changed or deleted. Requests that can change or reveal something therefore read the database.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions import middleware
from django.contrib.sessions.backends import db
from django.core import signing
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.http import HttpRequest
from django.utils import timezone

MAX_CACHE_AGE = 60  # seconds
_CACHE_PREFIX = "web-session:"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")


def stored_key(session_key: str) -> str:
    """Return the key in both stores, of 40 characters, which is the size of the column.

    The cookie's key is random (165 bits), so a hash without a secret can't be reversed.
    """
    return sha256(session_key.encode(errors="replace")).hexdigest()[:40]


class SessionStore(db.SessionStore):
    """Django's database sessions with digests as keys, and with a cache of signed entries.

    Django's `cached_db` stores unsigned data under the cookie's key, and caches it for as long as the session lasts.
    """

    reads_cache = True
    _keeps_key = False

    @property
    def _cache(self) -> BaseCache:
        return caches[settings.SESSION_CACHE_ALIAS]  # only when it is needed, because each request has a store

    @property
    def key_salt(self) -> str:
        """Return the salt of the signature, which binds a value to this session."""
        return f"{__name__}:{stored_key(str(self.session_key))}"

    @contextmanager
    def keeping_key(self) -> Iterator[None]:
        """Let `cycle_key` do nothing inside the block."""
        self._keeps_key = True
        try:
            yield
        finally:
            self._keeps_key = False

    def cycle_key(self) -> None:
        if not self._keeps_key:
            super().cycle_key()

    def load(self) -> dict[str, Any]:
        if self.reads_cache and (data := self._load_from_cache()) is not None:
            return data
        key = stored_key(str(self.session_key))
        row = self.model.objects.filter(session_key=key, expire_date__gt=timezone.now()).first()
        if row is None:
            self._session_key = None
            return {}
        data = self.decode(row.session_data)
        if self.reads_cache:
            self._store_in_cache(data, self.get_expiry_age(expiry=row.expire_date))
        return data

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        row: Any = super().create_model_instance(data)
        row.session_key = stored_key(row.session_key)
        return row

    def save(self, must_create: bool = False) -> None:
        super().save(must_create)
        if must_create:  # a new session is empty; it is saved again with its data
            return
        if not self._store_in_cache(dict(self.items()), self.get_expiry_age()):
            _ignore_errors(self._cache.delete, self._cache_key)  # it may be outdated now

    def exists(self, session_key: str) -> bool:
        return super().exists(stored_key(session_key))

    def delete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            super().delete(stored_key(key))
            _ignore_errors(self._cache.delete, _CACHE_PREFIX + stored_key(key))

    # Django's own asynchronous versions of these methods would need the same overrides.

    async def aload(self) -> dict[str, Any]:
        return await sync_to_async(self.load)()

    async def asave(self, must_create: bool = False) -> None:
        await sync_to_async(self.save)(must_create)

    async def aexists(self, session_key: str) -> bool:
        return await sync_to_async(self.exists)(session_key)

    async def adelete(self, session_key: str | None = None) -> None:
        await sync_to_async(self.delete)(session_key)

    @property
    def _cache_key(self) -> str:
        return _CACHE_PREFIX + stored_key(str(self.session_key))

    def _load_from_cache(self) -> dict[str, Any] | None:
        """Return None unless the entry is valid. Anyone who can write to Redis may have written it."""
        value = _ignore_errors(self._cache.get, self._cache_key)
        if not isinstance(value, str):
            return None
        try:
            return signing.loads(value, salt=self.key_salt, serializer=self.serializer, max_age=MAX_CACHE_AGE)  # type: ignore[no-any-return]
        except (signing.BadSignature, ValueError):  # ValueError: characters that can't be encoded
            return None

    def _store_in_cache(self, data: dict[str, Any], expiry_age: int) -> bool:
        """Return whether the entry was stored."""
        seconds = min(expiry_age, MAX_CACHE_AGE)
        return bool(_ignore_errors(self._cache.set, self._cache_key, self.encode(data), seconds))


def _ignore_errors(call: Callable[..., Any], *args: Any) -> Any:
    """Return None on any error, because the database has every session.

    django-redis ignores outages only, neither an entry that is not JSON nor a response that is not Redis's protocol.
    """
    try:
        return call(*args)
    except Exception:
        return None


class SessionMiddleware(middleware.SessionMiddleware):
    """Django's middleware, except that requests with an unsafe method read the session from the database."""

    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)
        request.session.reads_cache = request.method in _SAFE_METHODS  # type: ignore[attr-defined]
