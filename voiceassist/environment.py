"""Strict reading of environment variables.

`NAME_FILE` can be set instead of any `NAME`, to the path of a file that contains the value (Docker and Kubernetes
secrets). An empty variable counts as unset, because Compose passes `${NAME:-}`.

django-environ reads the files. Its casts are not used, because they treat any unknown word as False, and a value that
starts with `$` as the name of another variable.
"""

import math
import re
from collections.abc import Collection
from typing import Any, NoReturn
from urllib.parse import urlsplit

import environ
import psycopg
from psycopg.conninfo import conninfo_to_dict

from core.clients import redis_url
from voiceassist import address

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class Environment:
    """Each method reads one variable.

    An invalid value raises SystemExit with one line, which names the variable and does not quote the value.
    """

    def __init__(self) -> None:
        self._values = environ.FileAwareEnv().ENVIRON
        self.names: set[str] = set()  # all variables that were read

    def text(self, name: str, default: str | None = None, *, required: bool = False) -> str | None:
        self.names.add(name)
        try:
            value = self._values.get(name, "").strip()
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{name}_FILE", f"The file can't be read ({type(error).__name__}). Check path and permissions.")
        if not value and required:
            self.fail(name, f"Required in production. Set it, or set {name}_FILE to a file that contains it.")
        return value or default

    def choice(self, name: str, default: str, allowed: Collection[str]) -> str:
        value = self.text(name) or default
        if value not in allowed:
            self.fail(name, f"Not a valid choice. Use one of: {', '.join(allowed)}.")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = (self.text(name) or str(default)).lower()
        if value not in _TRUE | _FALSE:
            self.fail(name, "Not a boolean. Use true or false.")
        return value in _TRUE

    def seconds(self, name: str, default: float, *, positive: bool = False) -> float:
        try:
            value = float(self.text(name) or default)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            self.fail(
                name, f"Not a valid number of seconds. Use a number {'above 0' if positive else 'of at least 0'}."
            )
        return value

    def count(self, name: str, default: int) -> int:
        value = self.text(name) or str(default)
        if not value.isascii() or not value.isdigit() or int(value) < 1:
            self.fail(name, "Not a valid count. Use a whole number of at least 1.")
        return int(value)

    def address(self, name: str, default: str) -> str:
        value = self.text(name) or default
        try:
            address.parse(value)
        except ValueError:
            self.fail(name, "Not a valid address. Use HOST:PORT, with an IPv6 address in brackets: [::]:8000.")
        return value

    def comma_separated(self, name: str, default: str = "", *, required: bool = False) -> list[str]:
        value = self.text(name, default, required=required) or ""
        return [item for item in (part.strip() for part in value.split(",")) if item]

    def subset(self, name: str, allowed: Collection[str]) -> list[str]:
        items = self.comma_separated(name)
        if not set(items) <= set(allowed):
            self.fail(name, f"Contains an unknown item. Use a comma-separated list of: {', '.join(allowed)}.")
        return items

    def url(
        self,
        name: str,
        schemes: Collection[str],
        *,
        default: str | None = None,
        required: bool,
        default_port: int | None = None,
    ) -> str | None:
        """Return the URL, with `default_port` if it has no port."""
        value = self.text(name, default, required=required)
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            self.fail(name, "Invalid URL. Escape special characters in its parts as %XX.")
        if parts.scheme not in schemes or not (parts.hostname or parts.path.strip("/")):
            self.fail(name, f"Invalid URL. Use one that starts with {' or '.join(s + '://' for s in schemes)}.")
        if default_port and not port:
            return parts._replace(netloc=f"{parts.netloc}:{default_port}").geturl()
        return value

    def redis_url(self, name: str, *, default: str | None, required: bool) -> str:
        value = self.text(name, default, required=required) or ""
        try:
            redis_url.parse(value)
        except ValueError as error:
            self.fail(name, f"The value {error}")
        return value

    def database(self, name: str, *, default: str | None, required: bool) -> dict[str, Any]:
        """Return Django's database settings, without ENGINE, of any URL that libpq accepts.

        https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
        """
        url = self.text(name, default, required=required) or ""
        if not url.startswith(("postgres://", "postgresql://")):
            self.fail(name, "Invalid URL. Use one that starts with postgres:// or postgresql://.")
        try:
            options = conninfo_to_dict(url)
        except psycopg.ProgrammingError:  # its message quotes the URL
            self.fail(
                name,
                "Invalid URL. Use postgres://user:password@host:5432/name, with special characters escaped as %XX and "
                "only options that libpq has.",
            )
        if not options.get("dbname"):
            self.fail(name, "The database name is missing. Use postgres://user:password@host:5432/name.")
        hosts, addresses, ports = (str(options.get(key, "")).split(",") for key in ("host", "hostaddr", "port"))
        count = max(len(hosts), len(addresses))
        if len(ports) not in (1, count):
            self.fail(name, f"The URL has {count} hosts and {len(ports)} ports. Give each host one port.")
        if not all(port == "" or (port.isascii() and port.isdigit() and 0 < int(port) < 65536) for port in ports):
            self.fail(name, "Invalid port. Use a number from 1 to 65535.")
        if not re.fullmatch(r"\d{0,6}", str(options.get("connect_timeout", ""))):
            self.fail(name, "Invalid connect_timeout. Use a whole number of seconds.")
        parts = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
        config: dict[str, Any] = {key: str(options.pop(option, "")) for key, option in parts.items()}
        return config | {"OPTIONS": options}

    @staticmethod
    def fail(name: str, problem: str) -> NoReturn:
        raise SystemExit(f"voiceassist: {name}: {problem}")
