"""Each line of the documentation's console blocks is run by a test, or listed with the reason why not."""

import re
import ssl
import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.docs import markdown
from tests.docs.markdown import ROOT
from tests.support.databases import migrated_database
from tests.support.plugin import Servers

MANAGE = ".venv/bin/python manage.py"
HERE = "tests/docs/test_documented_commands.py"
FIRST_HOUR = "tests/fresh_clone/test_make.py"
README = "tests/docs/test_readme.py"
PG_UPGRADE = "tests/ops/test_major_version.py"
# The beginning of a line, and what runs such lines. The longest beginning counts.
RUN_BY = {
    "make run": FIRST_HOUR,
    "make stop": FIRST_HOUR,
    "make check": ".ci/run",
    "make failover": ".ci/run",
    "curl -s http://127.0.0.1:8000": FIRST_HOUR,
    ".venv/bin/python -m pytest tests/voiceassist": FIRST_HOUR,
    ".venv/bin/python -m pytest tests/failover": ".ci/run",  # a part of `make failover`
    ".venv/bin/python -m gunicorn": README,
    "ops/create_secrets.sh": README,
    f"{MANAGE} seed_demo": README,
    f"{MANAGE} checkdeps": README,
    f"{MANAGE} collectstatic": README,
    f"{MANAGE} migrate": README,
    f"{MANAGE} runserver": FIRST_HOUR,
    f"{MANAGE} dumpdata": "tests/core/test_dump_and_load.py",
    f"{MANAGE} shell": "tests/core/test_dump_and_load.py",
    f"{MANAGE} loaddata": "tests/core/test_dump_and_load.py",
    f"{MANAGE} delete_user": "tests/core/management/test_user_commands.py",
    f"{MANAGE} export_user": "tests/core/management/test_user_commands.py",
    f"{MANAGE} create_admin --emergency": "tests/core/auth/test_login_failures.py",
    f"{MANAGE} drill": "tests/core/management/test_drill.py",
    f"{MANAGE} worker --drill": "tests/core/management/test_drill.py",
    f"{MANAGE} archive_audit": "tests/security/test_audit_archive.py",
    "age --decrypt --identity key.txt audit": "tests/security/test_audit_archive.py",
    "manage.py verify_audit": "tests/security/test_audit_checkpoints.py",
    'psql "postgres://ADMIN@HOST/voiceassist" -f ops/postgresql/roles.sql': "tests/support/dependency_servers.py",
    'psql "postgres://ADMIN@HOST/voiceassist" -f ops/postgresql/roles_backup.sql': "tests/support/backups.py",
    "ops/backup/restore.sh": "tests/ops/test_backup.py",
    "PGUSER=postgres PGDATABASE=voiceassist ops/backup/restore.sh": "tests/ops/test_backup.py",
    "OLD_BIN=": PG_UPGRADE,
    "NEW_BIN=": PG_UPGRADE,
    "SUPERUSER=": PG_UPGRADE,
    '"$NEW_BIN/': PG_UPGRADE,
    "(umask 077 && docker compose exec -T postgres pg_dump": PG_UPGRADE,
    "env VOICEASSIST_ENV=production": HERE,
    "mkdir -p secrets/edge": HERE,
    "openssl req": HERE,
    "chmod -R a+rX secrets/edge": HERE,
}
NOT_RUN = {
    "docker ": "needs Docker. The names of services, profiles and commands are compared, and SQL and grep are run",
    "curl -s http://INSTANCE": "a placeholder; the README's curl is the same",
    "curl -s -o /dev/null": "a placeholder; the README's curl is the same",
    'curl -s -H "Authorization': "a placeholder; tests/health/test_metrics.py sends the token",
    "curl -s 'http://localhost:9090": "asks Prometheus, of Compose",
    "curl -s http://localhost:6333": "asks Qdrant, of Compose",
    "curl --header": "uploads to Qdrant, of which the tests have no real server",
    "git checkout": "needs Git; undoes what a reader has changed",
    "rm tests/": "undoes what a reader has changed",
    "python3 -m venv": "downloads packages; `make fresh-clone` installs a larger lock",
    ".venv/bin/python -m pip install": "downloads packages; `make fresh-clone` installs a larger lock",
    ".venv/bin/pip install": "downloads packages; `make fresh-clone` installs a larger lock",
    ".venv/lib/python3*/site-packages/": "interactive; the embedded servers start psql at the same place",
    'psql "postgres://ADMIN@HOST/voiceassist" -c': "asks for a password; tests/security/test_rotation.py changes one",
    "createdb": "a program of PostgreSQL; tests/ops/test_backup.py creates such a database by SQL",
    "export DATABASE_URL": "a setting with placeholders; tests/core/management/test_drill.py has it",
    "age-keygen": "another program",
    "age --decrypt": "another program, or its stand-in, with which tests/support/age.py decrypts",
    "adduser": "changes the machine",
    "git clone": "needs the network",
    "cd /": "changes nothing",
    "ln -sfn": "changes the machine",
    "chown": "changes the machine",
    "chmod -R u=": "changes the machine",
    "cp ops/systemd/": "changes the machine; tests/ops/test_systemd.py verifies the units",
    "systemctl": "needs systemd",
    "systemd-run": "needs systemd",
}


def beginning(line: str) -> str | None:
    """Return the longest key of both tables with which the line begins."""
    return max((key for key in (*RUN_BY, *NOT_RUN) if line.startswith(key)), key=len, default=None)


def test_every_line_is_run_or_listed() -> None:
    lines = [(page, line, beginning(line)) for page, line in markdown.console_lines()]
    assert [f"{page}: {line}" for page, line, key in lines if key is None] == []
    assert {key for _, _, key in lines} == {*RUN_BY, *NOT_RUN}, "These lines are not in the documentation any more."


@pytest.mark.parametrize("key", RUN_BY)
def test_what_runs_it_mentions_it(key: str) -> None:
    text = (ROOT / RUN_BY[key]).read_text()
    is_read_from_the_page = "console_blocks" in text or "blocks(" in text
    assert is_read_from_the_page or re.findall(r"[\w/.]{4,}", key)[-1].split("/")[-1] in text


def test_services_and_profiles_exist() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    services = set(re.findall(r"^  ([a-z][\w-]+):$", compose, re.MULTILINE))
    profiles = set(re.findall(r"\w+", " ".join(re.findall(r"profiles: \[(.+)\]", compose))))
    options = r"(?: --?(?:tail|since|signal|scale|volume) ?\S+| --?[\w-]+(?==?)(?:=\S+)?)*"
    verbs = r"(?:exec|logs|restart|run|up|ps|stop|kill|rm)"
    for page in markdown.pages():
        for command in markdown.commands(page.read_text()):
            found = re.findall(rf"docker compose(?: --profile ([a-z]+))? {verbs}{options} ([a-z][\w-]*)", command)
            assert {profile for profile, _ in found if profile} <= profiles, command
            assert {service for _, service in found} <= services, command


def test_sql_is_understood(servers: Servers) -> None:
    """EXPLAIN fails for an unknown table, column, function or type, and executes nothing."""
    texts = "\n".join(text for page in markdown.pages() for text in markdown.commands(page.read_text()))
    statements = set(re.findall(r'-c "((?:SELECT|UPDATE|DELETE)[^"]+)"', texts))
    assert len(statements) > 7
    with psycopg.connect(migrated_database(servers.postgres, "documented_sql")) as database:
        for statement in statements:
            database.execute(f"EXPLAIN {statement}".encode())


LINES = """\
{"level": "error", "logger": "voiceassist.jobs", "message": "job failed", "job": "01a2"}
{"level": "info", "logger": "voiceassist.jobs", "message": "job started", "job": "01a2"}
{"level": "info", "logger": "voiceassist.request", "message": "request", "trace_id": "TRACE_ID", "duration_ms": 1234.5}
{"level": "warning", "message": "request", "outage": "OperationalError", "sqlstate": "57P01"}
used_memory_human:1.05M
voiceassist_dependency_check_duration_seconds_count{dependency="redis"} 7.0
{"scrapeUrl":"http://voiceassist-server:8000/metrics"}
"""


def test_every_grep_finds_something() -> None:
    found = {
        grep: subprocess.run(["bash", "-c", grep], input=LINES, capture_output=True, text=True).stdout.count("\n")
        for _, line in markdown.console_lines()
        for grep in re.findall(r"\| (grep .+)", line)
    }
    assert len(found) > 6
    assert {grep: count for grep, count in found.items() if not 1 <= count <= 2} == {}


def test_certificate_to_try_https(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "OPERATIONS.md").read_text()
    [block] = [block for block in markdown.console_blocks(page) if "openssl req" in block]
    subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path, check=True, capture_output=True)
    folder = tmp_path / "secrets" / "edge"
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(folder / "tls.crt", folder / "tls.key")


def test_static_files_of_an_installation_with_systemd() -> None:
    [line] = [line for _, line in markdown.console_lines() if line.startswith("env VOICEASSIST_ENV=production")]
    done = subprocess.run(["bash", "-c", f"{line} --dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d static files? copied", done.stdout)
