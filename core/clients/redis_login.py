"""Redis connections that log in with the current password, and with a new one after a rejection."""

from typing import Any

from django.conf import settings
from redis.connection import ConnectionPool
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError
from redis.sentinel import SentinelConnectionPool

from core import secret_files


class Login(CredentialProvider):
    """The user and password of a pool. redis-py asks for them at each new connection."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Take `username` and `password` out of redis-py's options, with which a provider may not be combined."""
        self._set(options.pop("username", None), options.pop("password", None))

    def _set(self, username: str | None, password: str | None) -> None:
        # Without a password redis-py sends it empty, as it does with the options.
        if username:
            self.current: tuple[str, ...] = (username, password or "")
        else:
            self.current = (password,) if password else ()

    def get_credentials(self) -> tuple[str, ...]:  # type: ignore[override]  # redis-py accepts an empty one
        return self.current

    def replace(self, options: dict[str, Any]) -> None:
        self._set(options.get("username"), options.get("password"))


class _RetriesWithNewLogin:
    """For a pool: if a login is rejected and REDIS_URL has another one by now, connect once more."""

    logins: tuple[Login, ...] = ()  # to Redis, and to the Sentinels

    def get_connection(self, *args: Any, **options: Any) -> Any:
        used = [login.current for login in self.logins]
        try:
            return super().get_connection(*args, **options)  # type: ignore[misc]  # of the pool
        except Exception as error:
            if not _is_rejection(error):
                raise
            self._renew_logins()
            if [login.current for login in self.logins] == used:
                raise
        return super().get_connection(*args, **options)  # type: ignore[misc]

    def _renew_logins(self) -> None:
        from core.clients import redis_url  # which imports this module

        secret_files.reload_after_rejection()
        if settings.READS_FILES:
            url = redis_url.parse(settings.REDIS_URL)
            for login, options in zip(self.logins, (url.options, url.sentinel_options), strict=False):
                login.replace(options)


class Pool(_RetriesWithNewLogin, ConnectionPool):
    pass


class SentinelPool(_RetriesWithNewLogin, SentinelConnectionPool):
    pass


def _is_rejection(error: Exception) -> bool:
    """Return whether Redis or all Sentinels rejected the login. Sentinel's error has that of Redis as its cause."""
    return isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError)
