"""Reads environment variables strictly: one line that names the variable, never its value, or a checked value.

Every variable can be given as ``NAME_FILE`` too, the path of a file that holds the value (Docker and Kubernetes
secrets). An empty variable counts as one that is not set, so that Compose can pass ``${NAME:-}`` on.

django-environ reads the files. Its casts are not used, because they take any unknown word for false, and a value that
starts with ``$`` for the name of another variable.
"""

import math
import re
from collections.abc import Collection
from typing import Any, NoReturn
from urllib.parse import urlsplit

import psycopg
from environ.fileaware_mapping import FileAwareMapping
from psycopg.conninfo import conninfo_to_dict

from voiceassist import address

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

    def address(self, name: str, default: str) -> str:
        """Return the address to listen on, HOST:PORT."""
        value = self.text(name) or default
        try:
            address.parse(value)
        except ValueError:
            self.refuse(name, "must be HOST:PORT with a port from 1 to 65535, an IPv6 address in brackets: [::]:8000")
        return value

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
        from core.clients import (
            redis_url,  # not before the settings have decided whether redis-py may import OpenTelemetry
        )

        value = self.text(name, default, required=required) or ""
        try:
            redis_url.parse(value)
        except ValueError as error:
            self.refuse(name, str(error))
        return value

    def database(self, name: str, *, default: str | None, required: bool) -> dict[str, Any]:
        """Return what Django calls a database's settings, without an engine.

        libpq parses the URL, so that every form that it documents works: several hosts, `?host=`, socket folders.
        https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
        """
        url = self.text(name, default, required=required) or ""
        if not url.startswith(("postgres://", "postgresql://")):
            self.refuse(name, "must be a URL that starts with postgres:// or postgresql://")
        try:
            options = conninfo_to_dict(url)
        except psycopg.ProgrammingError:  # its message quotes the URL
            self.refuse(
                name,
                "is not a URL that PostgreSQL's client can parse: postgres://user:password@host:5432/name. "
                "Escape special characters as %XX, and use only options that libpq has",
            )
        if not options.get("dbname"):
            self.refuse(name, "names no database: postgres://user:password@host:5432/name")
        hosts, addresses, ports = (str(options.get(key, "")).split(",") for key in ("host", "hostaddr", "port"))
        count = max(len(hosts), len(addresses))
        if len(ports) not in (1, count):
            self.refuse(name, f"has {count} hosts and {len(ports)} ports: give each host its port")
        if not all(port == "" or (port.isascii() and port.isdigit() and 0 < int(port) < 65536) for port in ports):
            self.refuse(name, "has a port that is not a number from 1 to 65535")
        if not re.fullmatch(r"\d{0,6}", str(options.get("connect_timeout", ""))):
            self.refuse(name, "has a connect_timeout that is not a whole number of seconds")
        parts = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
        config: dict[str, Any] = {key: str(options.pop(option, "")) for key, option in parts.items()}
        return config | {"OPTIONS": options}

    @staticmethod
    def refuse(name: str, problem: str) -> NoReturn:
        raise SystemExit(f"voiceassist: {name} {problem}")
