"""Every variable: valid values, and invalid ones, which stop the start with one line that does not quote them."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.load_settings import KEY, PRODUCTION, load_settings

SECRET = "canary-of-a-secret-value"


def start_fails(environment: dict[str, str]) -> str:
    """Return the line that a start in production prints."""
    with pytest.raises(SystemExit) as raised:
        load_settings({**PRODUCTION, **environment})
    message = str(raised.value.code)
    assert re.fullmatch(r"voiceassist: [A-Z_]+: .+\. .+\.", message), message
    assert SECRET not in message
    assert message.isascii()  # a terminal may show nothing else
    return message


@pytest.mark.parametrize("name", ["SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "REDIS_URL", "QDRANT_URL"])
@pytest.mark.parametrize("value", [None, "", " ", "\ufeff"])
def test_required_variable(name: str, value: str | None) -> None:
    environment = {key: text for key, text in PRODUCTION.items() if key != name}
    with pytest.raises(SystemExit, match=f"^voiceassist: {name}: Required in production. "):
        load_settings(environment if value is None else {**environment, name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ALLOWED_HOSTS", "Example.org, .example.com ,[::1]", ["example.org", ".example.com", "[::1]"]),
        ("ALLOWED_HOSTS", "a.example,\nb.example,\n", ["a.example", "b.example"]),
        ("CSRF_TRUSTED_ORIGINS", "https://A.example,http://*.b.example:81", ["https://a.example", "http://*.b.example:81"]),
        ("CSRF_TRUSTED_ORIGINS", ",", []),
        ("QDRANT_URL", "HTTPS://Qdrant/prefix", "https://qdrant:6333/prefix"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1]:4318", "http://[::1]:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example.org/otlp", "https://collector.example.org/otlp"),
        ("REDIS_URL", "rediss://:a,b@host:1/2?socket_timeout=3", "rediss://:a,b@host:1/2?socket_timeout=3"),
        ("HEALTH_TIMEOUT", "0.1", 0.1),
        ("HEALTH_TIMEOUT", ".5", 0.5),
        ("HEALTH_MAX_AGE", "0", 0.0),
        ("DATABASE_TIMEOUT", "3600", 3600.0),
        ("DRAIN_SECONDS", "5.", 5.0),
        ("WEB_CONCURRENCY", "1000", 1000),
        ("WEB_THREADS", "01", 1),
        ("HTTPS_ONLY", "No", False),
        ("BEHIND_PROXY", "ON", True),
        ("HEALTH_OPTIONAL", "redis, qdrant,", ["redis", "qdrant"]),
        ("METRICS_TOKEN", "a!~+/=", "a!~+/="),
        ("SECRET_KEY", f"\ufeff$üñí key {KEY}", f"$üñí key {KEY}"),
        ("SECRET_KEY_FALLBACKS", f"{KEY},\n {KEY[::-1]},", [KEY, KEY[::-1]]),
        ("PLAINTEXT_DEPENDENCIES", "postgres, redis", ["postgres", "redis"]),
        ("BIND", "[::]:80", "[::]:80"),
        ("SENTRY_DSN", "https://0a1b@sentry.example.org/42", "https://0a1b@sentry.example.org/42"),
    ],
)  # fmt: skip
def test_valid_value(name: str, value: str, expected: Any, tmp_path: Path) -> None:
    environment = {key: text for key, text in PRODUCTION.items() if key != name}
    assert load_settings({**environment, name: value})[name] == expected
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "value").write_text(f"{value}\r\n", encoding, newline="")
        assert load_settings({**environment, f"{name}_FILE": str(tmp_path / "value")})[name] == expected


def test_passwords_can_be_separate_from_the_urls(tmp_path: Path) -> None:
    """The files then hold only what is secret. A URL with a password keeps it."""
    password = "p:w@/%"
    (tmp_path / "password").write_text(f"{password}\n")
    files = {name: str(tmp_path / "password") for name in ("DATABASE_PASSWORD_FILE", "REDIS_PASSWORD_FILE")}
    own = load_settings({**PRODUCTION, **files})
    assert own["DATABASES"]["default"]["PASSWORD"] == "password"
    assert own["REDIS_URL"] == "rediss://:p%3Aw%40%2F%25@redis.example.org:6379/0"
    url = "postgres://user@db.example.org/name?sslmode=verify-full"
    assert load_settings({**PRODUCTION, **files, "DATABASE_URL": url})["DATABASES"]["default"]["PASSWORD"] == password


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("VOICEASSIST_ENV", "staging", "development, production"),
        ("ALLOWED_HOSTS", ",", "Contains no host."),
        ("ALLOWED_HOSTS", f"https://{SECRET}", "Item 1 is not a host. Use example.org"),
        ("ALLOWED_HOSTS", f"example.org,{SECRET} localhost", "Item 2 is not a host."),
        ("ALLOWED_HOSTS", "*.example.org", ".example.org (with all subdomains)"),
        ("ALLOWED_HOSTS", "::1", "[2001:db8::1]"),
        ("ALLOWED_HOSTS", "bücher.example", "punycode"),
        ("CSRF_TRUSTED_ORIGINS", SECRET, "Item 1 is not an origin. Use https://example.org"),
        ("CSRF_TRUSTED_ORIGINS", f"https://{SECRET}/", "without slash or path"),
        ("CSRF_TRUSTED_ORIGINS", "https://example.org,https://example.org:443", "Item 2 is not an origin."),
        ("DATABASE_URL", f"mysql://user:{SECRET}@host/name", "postgres://"),
        ("DATABASE_URL", f"postgres://host/name?sslmode={SECRET}", "sslmode"),
        ("REDIS_URL", f"redis://:{SECRET}@host?{SECRET}=1", "The value has an unknown option."),
        ("QDRANT_URL", f"http://{SECRET}@host", "without credentials"),
        ("QDRANT_URL", "http://host:", "http://host:port"),
        ("QDRANT_URL", "http://host:0", "http://host:port"),
        ("QDRANT_URL", SECRET, "http://host:port"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", f"grpc://{SECRET}", "http://host:port"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://collector:4318?{SECRET}", "query"),
        ("HEALTH_TIMEOUT", "soon", "from 0.1 to 3600"),
        ("HEALTH_TIMEOUT", "0", "from 0.1 to 3600"),
        ("HEALTH_TIMEOUT", "nan", "from 0.1 to 3600"),
        ("HEALTH_TIMEOUT", "inf", "from 0.1 to 3600"),
        ("HEALTH_TIMEOUT", "1e10", "from 0.1 to 3600"),
        ("HEALTH_TIMEOUT", "1_0", "from 0.1 to 3600"),
        ("HEALTH_TIMEOUT", "２", "from 0.1 to 3600"),
        ("HEALTH_TIMEOUT", "9" * 5000, "from 0.1 to 3600"),
        ("HEALTH_MAX_AGE", "-1", "from 0 to 3600"),
        ("HEALTH_MAX_AGE", "3600.1", "from 0 to 3600"),
        ("DRAIN_SECONDS", "1e300", "from 0 to 3600"),
        ("DRAIN_SECONDS", ".", "from 0 to 3600"),
        ("DATABASE_TIMEOUT", "0", "from 0.1 to 3600"),
        ("DATABASE_TIMEOUT", "1e300", "from 0.1 to 3600"),
        ("WEB_CONCURRENCY", "0", "from 1 to 1000"),
        ("WEB_CONCURRENCY", "2.5", "from 1 to 1000"),
        ("WEB_CONCURRENCY", "9" * 5000, "from 1 to 1000"),
        ("WEB_THREADS", "many", "from 1 to 1000"),
        ("WEB_THREADS", "²", "from 1 to 1000"),
        ("WEB_THREADS", "1001", "from 1 to 1000"),
        ("HEALTH_OPTIONAL", f"redis,{SECRET}", "postgres, redis, qdrant, migrations, queue"),
        ("HTTPS_ONLY", "ture", "true or false"),
        ("BEHIND_PROXY", "maybe", "true or false"),
        ("HSTS_PRELOAD", "1 year", "true or false"),
        ("REVEAL_REASON_REQUIRED", "sometimes", "true or false"),
        ("DEBUG", "express:*", "true or false"),
        ("DEBUG", "true", "Must not be true in production."),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO"),
        ("LOG_FORMAT", "xml", "json, console"),
        ("METRICS_TOKEN", f"{SECRET} {SECRET}", "HTTP header"),
        ("QDRANT_API_KEY", f"{SECRET}\n{SECRET}", "HTTP header"),
        ("QDRANT_API_KEY", f"{SECRET}é", "HTTP header"),
        ("SENTRY_DSN", f"https://sentry.example.org/{SECRET}", "https://KEY@HOST/PROJECT"),
        ("SENTRY_DSN", f"https://{SECRET}@sentry.example.org/", "https://KEY@HOST/PROJECT"),
        ("SENTRY_DSN", f"https://{SECRET}@sentry.example.org:port/1", "https://KEY@HOST/PROJECT"),
        ("SENTRY_DSN", SECRET, "https://KEY@HOST/PROJECT"),
        ("BIND", "8000", "HOST:PORT"),
        ("BIND", ":8000", "HOST:PORT"),
        ("BIND", "127.0.0.1", "HOST:PORT"),
        ("BIND", "127.0.0.1:0", "HOST:PORT"),
        ("BIND", "127.0.0.1:65536", "HOST:PORT"),
        ("BIND", "127.0.0.256:8000", "HOST:PORT"),
        ("BIND", ":::8000", "HOST:PORT"),
        ("BIND", "[::8000", "HOST:PORT"),
        ("BIND", "[12345::]:8000", "HOST:PORT"),
        ("BIND", f"http://{SECRET}:8000", "HOST:PORT"),
        # What a terminal or a web page may add to a copied value.
        ("SECRET_KEY", f"{SECRET}\x1b[0m", "control or invisible character"),
        ("ALLOWED_HOSTS", "example.org\u200b", "control or invisible character"),
        ("OTEL_SERVICE_NAME", f"voice\xa0{SECRET}", "control or invisible character"),
        ("SECRET_KEY", SECRET, "The value is too weak. Use at least 50 random characters: openssl rand -hex 32."),
        ("SECRET_KEY", "abcd" * 20, "openssl rand"),
        ("SECRET_KEY", f"django-insecure-{KEY}", "openssl rand"),
        ("SECRET_KEY_FALLBACKS", f"{KEY}, {SECRET}", "Item 2 is too weak."),
        ("ALLOWED_HOSTS", "example.org,*", "Must not contain * in production."),
        ("PLAINTEXT_DEPENDENCIES", f"redis,{SECRET}", "postgres, redis, qdrant."),
        (
            "DATABASE_URL",
            f"postgres://user:{SECRET}@host/name",
            "Add sslmode=verify-full, or accept the risk",
        ),
        ("DATABASE_URL", f"postgres://user:{SECRET}@host/name?sslmode=require", "TLS, not verified"),
        ("REDIS_URL", f"redis://:{SECRET}@host", "PLAINTEXT_DEPENDENCIES=redis."),
        ("REDIS_URL", f"rediss://:{SECRET}@host?ssl_cert_reqs=none", "TLS, not verified"),
        ("QDRANT_URL", f"http://{SECRET}", "Use https://, or accept the risk with PLAINTEXT_DEPENDENCIES=qdrant."),
        ("SECRET_KEY", f"{SECRET}\udcff", "not UTF-8"),  # how Python reads a byte that is not UTF-8
    ],
)
def test_invalid_value_is_reported_with_advice(name: str, value: str, advice: str) -> None:
    message = start_fails({name: value})
    assert message.startswith(f"voiceassist: {name}: ")
    assert advice in message


def test_unreadable_file_is_reported(tmp_path: Path) -> None:
    utf_16, latin_1, nul = (tmp_path / name for name in ("utf-16", "latin-1", "nul"))
    utf_16.write_text(SECRET, "utf-16")
    latin_1.write_text(f"{SECRET}é", "latin-1")
    nul.write_text(f"{SECRET}\0")
    for name, path, variable in [
        ("SECRET_KEY", "/nowhere/at/all", "SECRET_KEY_FILE"),
        ("SECRET_KEY", str(tmp_path), "SECRET_KEY_FILE"),
        ("DATABASE_URL", str(utf_16), "DATABASE_URL_FILE"),
        ("REDIS_URL", str(latin_1), "REDIS_URL_FILE"),
        ("METRICS_TOKEN", str(nul), "METRICS_TOKEN"),
    ]:
        message = start_fails({f"{name}_FILE": path})
        assert message.startswith(f"voiceassist: {variable}: ")
        assert str(tmp_path) not in message


def test_file_overrides_the_variable(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("3.5\n")
    environment = {**PRODUCTION, "HEALTH_TIMEOUT": "9", "HEALTH_TIMEOUT_FILE": str(tmp_path / "value")}
    assert load_settings(environment)["HEALTH_TIMEOUT"] == 3.5
