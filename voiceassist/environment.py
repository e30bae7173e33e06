"""Reads environment variables strictly: one line that names the variable, never its value, or a checked value.

Every variable can be given as ``NAME_FILE`` too, the path of a file that holds the value (Docker and Kubernetes
secrets). An empty variable counts as one that is not set, so that Compose can pass ``${NAME:-}`` on.

django-environ does the reading of files and the parsing of database URLs. Its casts are not used: they take any
unknown word for false, and a value that starts with ``$`` for the name of another variable.
"""

import math
from collections.abc import Collection
from typing import Any, NoReturn
from urllib.parse import urlsplit

import environ
from environ.fileaware_mapping import FileAwareMapping

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class Environment:
    """The process's environment. Each method reads one variable and stops the process if it is not as it must be.

    Raises ``SystemExit`` with a one-line message: whatever command was started ends there, without a traceback.
    """

    def __init__(self) -> None:
        self._values = FileAwareMapping()
        self.names: set[str] = set()

    def text(self, name: str, default: str | None = None, *, required: bool = False) -> str | None:
        self.names.add(name)
        try:
            value = self._values.get(name, "").strip()
        except (OSError, UnicodeDecodeError) as error:
            self.refuse(f"{name}_FILE", f"names a file that can't be read ({type(error).__name__})")
        if not value and required:
            self.refuse(name, f"is required in production: set it, or {name}_FILE to a file that holds it")
        return value or default

    def choice(self, name: str, default: str, allowed: Collection[str]) -> str:
        value = self.text(name) or default
        if value not in allowed:
            self.refuse(name, f"must be one of: {', '.join(allowed)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = (self.text(name) or str(default)).lower()
        if value not in _TRUE | _FALSE:
            self.refuse(name, "must be true or false")
        return value in _TRUE

    def seconds(self, name: str, default: float, *, positive: bool = False) -> float:
        try:
            value = float(self.text(name) or default)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            self.refuse(name, f"must be a number of seconds, {'above 0' if positive else '0 or more'}")
        return value

    def count(self, name: str, default: int) -> int:
        text = self.text(name) or str(default)
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            self.refuse(name, "must be a whole number, 1 or more")
        return int(text)

    def listing(self, name: str, default: str = "", *, required: bool = False) -> list[str]:
        text = self.text(name, default, required=required) or ""
        return [item for item in (part.strip() for part in text.split(",")) if item]

    def subset(self, name: str, allowed: Collection[str]) -> list[str]:
        value = self.listing(name)
        if not set(value) <= set(allowed):
            self.refuse(name, f"may only name, separated by commas: {', '.join(allowed)}")
        return value

    def url(
        self,
        name: str,
        schemes: Collection[str],
        *,
        default: str | None = None,
        required: bool,
        default_port: int | None = None,
    ) -> str | None:
        value = self.text(name, default, required=required)
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            self.refuse(name, "is not a URL: escape special characters in its parts as %XX")
        if parts.scheme not in schemes or not (parts.hostname or parts.path.strip("/")):
            self.refuse(name, f"must be a URL that starts with {' or '.join(s + '://' for s in schemes)}")
        if default_port and not port:
            return parts._replace(netloc=f"{parts.netloc}:{default_port}").geturl()
        return value

    def redis_url(self, name: str, *, default: str | None, required: bool) -> str:
        from core import redis_url  # not before the settings have decided whether redis-py may import OpenTelemetry

        value = self.text(name, default, required=required) or ""
        try:
            redis_url.parse(value)
        except ValueError as error:
            self.refuse(name, str(error))
        return value

    def database(self, name: str, *, default: str | None, required: bool) -> dict[str, Any]:
        """Returns what Django calls a database's settings, without an engine."""
        url = self.url(name, ("postgres", "postgresql"), default=default, required=required)
        try:
            config: dict[str, Any] = environ.Env.db_url_config(url)
        except (ValueError, TypeError):
            self.refuse(name, "is not a database URL: postgres://user:password@host:5432/name")
        if not config.get("NAME"):
            self.refuse(name, "names no database: postgres://user:password@host:5432/name")
        return config

    @staticmethod
    def refuse(name: str, problem: str) -> NoReturn:
        raise SystemExit(f"voiceassist: {name} {problem}")
