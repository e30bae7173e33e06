"""Strict reading of environment variables.

`NAME_FILE` can be set instead of any `NAME`, to the path of a file that contains the value (Docker and Kubernetes
secrets). An empty variable counts as unset, because Compose passes `${NAME:-}`.

django-environ reads the files. Its casts are not used, because they treat any unknown word as False, and a value that
starts with `$` as the name of another variable. Everything has to match the grammar of its kind, so that a value that
can't work stops the start instead of failing later.
"""

import re
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from environ.fileaware_mapping import FileAwareMapping

from core.clients import database_url, redis_url
from core.clients.transport import Transport
from voiceassist import address, url_grammar

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}
_MAX_SECONDS = 3600
_MAX_COUNT = 1000  # of workers or threads
# Django's rules: https://docs.djangoproject.com/en/5.2/ref/checks/#security (security.W009 and W025)
_MIN_KEY_LENGTH, _MIN_KEY_CHARACTERS, _INSECURE_KEY = 50, 5, "django-insecure-"


class Environment:
    """Each method reads one variable.

    An invalid value raises SystemExit with one line, which names the variable and does not quote the value.
    """

    def __init__(self) -> None:
        self._values = FileAwareMapping()
        self.names: set[str] = set()  # all variables that were read

    def reads_files(self) -> bool:
        """Return whether any variable that was read is set as `NAME_FILE`."""
        return any(self._values.env.get(f"{name}_FILE") for name in self.names)

    def text(self, name: str, default: str | None = None, *, required: bool = False) -> str | None:
        self.names.add(name)
        try:
            value: str = self._values.get(name, "")
        except (OSError, UnicodeDecodeError) as error:
            self.fail(
                f"{name}_FILE",
                f"The file can't be read ({type(error).__name__}). Check that it is readable text in UTF-8.",
            )
        value = value.strip().strip("\ufeff").strip()  # some editors add a byte order mark
        if not all(character.isprintable() or character in "\t\r\n" for character in value):
            self.fail(name, "Contains a control or invisible character, or is not UTF-8. Type the value again.")
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

    def seconds(self, name: str, default: float, *, minimum: float = 0) -> float:
        value = self.text(name) or str(default)
        if not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", value) or not minimum <= float(value) <= _MAX_SECONDS:
            self.fail(name, f"Not a valid number of seconds. Use a number from {minimum} to {_MAX_SECONDS}.")
        return float(value)

    def count(self, name: str, default: int) -> int:
        value = self.text(name) or str(default)
        if not re.fullmatch("[0-9]{1,4}", value) or not 1 <= int(value) <= _MAX_COUNT:
            self.fail(name, f"Not a valid count. Use a whole number from 1 to {_MAX_COUNT}.")
        return int(value)

    def token(self, name: str) -> str | None:
        """Return a secret that is sent in an HTTP header."""
        value = self.text(name)
        if value and not re.fullmatch("[!-~]+", value):
            self.fail(name, "Contains a character that an HTTP header can't carry. Use ASCII without spaces.")
        return value

    def secret_key(self, name: str, *, required: bool) -> str | None:
        """Return Django's secret key, which must be strong if it is required."""
        value = self.text(name, required=required)
        if value and required:
            self._check_key(name, value, "The value")
        return value

    def secret_key_fallbacks(self, name: str, *, strong: bool) -> list[str]:
        keys = self.comma_separated(name)
        for number, key in enumerate(keys if strong else [], start=1):
            self._check_key(name, key, f"Item {number}")
        return keys

    def _check_key(self, name: str, key: str, subject: str) -> None:
        if len(key) < _MIN_KEY_LENGTH or len(set(key)) < _MIN_KEY_CHARACTERS or key.startswith(_INSECURE_KEY):
            self.fail(
                name,
                f"{subject} is too weak. Use at least {_MIN_KEY_LENGTH} random characters: openssl rand -hex 32.",
            )

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

    def hosts(self, name: str, default: str, *, required: bool) -> list[str]:
        items = self.comma_separated(name, default, required=required)
        if not items:
            self.fail(name, "Contains no host. Use example.org, or several hosts separated by commas.")
        return self._parse_items(
            name, items, url_grammar.parse_allowed_host,
            "not a host. Use example.org, .example.org (with all subdomains), 192.0.2.1, [2001:db8::1] or *, separated "
            "by commas, without scheme, port, path and quotes, and international names in punycode (xn--).",
        )  # fmt: skip

    def require_verified_tls(self, name: str, dependency: str, transport: Transport, advice: str) -> None:
        """Exit unless nobody in the network path can read or change the connection to the dependency."""
        if not transport.is_safe:
            self.fail(
                name,
                f"The connection would be {transport}. {advice}, or accept the risk with "
                f"PLAINTEXT_DEPENDENCIES={dependency}.",
            )

    def origins(self, name: str) -> list[str]:
        return self._parse_items(
            name, self.comma_separated(name), url_grammar.parse_origin,
            "not an origin. Use https://example.org, https://example.org:8443 or https://*.example.org, separated by "
            "commas, without slash or path after the host, and without the default port.",
        )  # fmt: skip

    def _parse_items(self, name: str, items: list[str], parse: Callable[[str], str], problem: str) -> list[str]:
        parsed: list[str] = []
        for number, item in enumerate(items, start=1):
            try:
                parsed.append(parse(item))
            except ValueError:
                self.fail(name, f"Item {number} is {problem}")
        return parsed

    def http_url(self, name: str, *, required: bool = False, default_port: int | None = None) -> str | None:
        """Return the URL, with `default_port` if it has no port."""
        value = self.text(name, required=required)
        try:
            return url_grammar.parse_http_url(value, default_port) if value else None
        except ValueError:
            self.fail(
                name,
                "Invalid URL. Use http://host:port or https://host:port, with an IPv6 address in brackets, and without "
                "credentials, query and fragment.",
            )

    def sentry_dsn(self, name: str) -> str | None:
        value = self.text(name)
        if value:
            from sentry_sdk.utils import BadDsn, Dsn  # slow to import, and rarely needed

            try:
                Dsn(value)
            except (BadDsn, ValueError):
                self.fail(name, "Not a DSN of Sentry. Use https://KEY@HOST/PROJECT, as the settings of a project show.")
        return value

    def redis_url(self, name: str, *, password: str, default: str | None, required: bool) -> str:
        """Return the URL, with the password in the variable `password` if the URL has none."""
        value = redis_url.with_password(self.text(name, default, required=required) or "", self.text(password))
        try:
            redis_url.parse(value)
        except ValueError as error:
            self.fail(name, f"The value {error}")
        return value

    def database(self, name: str, *, password: str, default: str | None, required: bool) -> dict[str, Any]:
        """Return Django's database settings, without ENGINE. The variable `password` is used if the URL has none."""
        try:
            return database_url.parse(self.text(name, default, required=required) or "", self.text(password))
        except ValueError as error:
            self.fail(name, str(error))

    @staticmethod
    def fail(name: str, problem: str) -> NoReturn:
        raise SystemExit(f"voiceassist: {name}: {problem}")
