"""Migrations that older code can't run on: old servers report it, and `checkdeps --for` checks it before a rollback."""

import json
import os
import subprocess
from pathlib import Path

import psycopg
import pytest
from packaging.version import Version

from core.schema_compatibility import oldest_version, require_version
from tests.core.management.test_migrate import ROOT, empty_database, run_command
from tests.core.management.test_migrate_blocked import fetch_all, migrated_database
from tests.support.dependency_servers import as_application
from tests.support.forked_python import run
from tests.support.newer_code import newer_code
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import VoiceAssistServer
from voiceassist import __version__
from voiceassist.embedded.programs import clean_environment, postgres_program

__all__ = ["empty_database", "migrated_database"]

REQUIRE_8, REQUIRE_9 = 'require_version("8.1.0")', 'require_version("9.0.0")'
COMMENT = "SELECT obj_description('django_migrations'::regclass)"


def run_newer(environment: dict[str, str], url: str, *arguments: str) -> tuple[int, str]:
    """Run a command of the newer code. Return the exit code and the output."""
    done = run(["manage.py", *arguments], {**os.environ, "DATABASE_URL": url, **environment})
    return done.returncode, done.stdout + done.stderr


def check(url: str, *arguments: str) -> tuple[int, str | None, str]:
    """Return the exit code of `checkdeps` of the old code, and the reason and the detail of `migrations`."""
    code, output, errors = run_command(
        *("checkdeps", "--only", "migrations", "--format", "json", *arguments), database=as_application(url)
    )
    assert output, errors
    result = json.loads(output)["dependencies"]["migrations"]
    return code, result["reason"], result["detail"]


def test_database_refuses_older_code_until_the_migration_is_unapplied(migrated_database: str, tmp_path: Path) -> None:
    url = migrated_database
    newer = newer_code(tmp_path, REQUIRE_8, REQUIRE_9, version="9.0.0")
    assert check(url)[:2] == (0, None)
    assert run_newer(newer, url, "migrate")[0] == 0
    assert check(url) == (
        *(1, "schema_too_new"),
        f"the database requires version 9.0.0 or newer, and this is {__version__}",
    )
    assert check(url, "--for", "8.1.0")[0] == 1
    assert check(url, "--for", "9.0.0")[0] == 0
    assert run_newer(newer, as_application(url), "checkdeps", "--only", "migrations")[0] == 0
    with psycopg.connect(as_application(url)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("COMMENT ON TABLE django_migrations IS NULL")

    previous = sorted(path.stem for path in (tmp_path / "next_release").glob("0*.py"))[0]
    assert run_newer(newer, url, "migrate", "core", previous)[0] == 0
    assert "requires version 8.1.0" in check(url)[2]
    oldest = sorted(path.stem for path in (ROOT / "core" / "migrations").glob("0*.py"))[-1]
    assert run_newer(newer, url, "migrate", "core", oldest)[0] == 0
    assert check(url)[:2] == (0, None)


def test_running_server_becomes_unready(migrated_database: str, tmp_path: Path) -> None:
    with VoiceAssistServer(DATABASE_URL=as_application(migrated_database), WEB_CONCURRENCY="1") as app:
        assert succeeds_within(10, lambda: app.get("/ready")[0] == 200)
        assert run_newer(newer_code(tmp_path, REQUIRE_9), migrated_database, "migrate")[0] == 0
        status, _, body = app.get("/ready")
        report = json.loads(body)["error"]["details"]
        assert (status, report["dependencies"]["migrations"]["reason"]) == (503, "schema_too_new")


def test_migration_that_fails_requires_nothing(migrated_database: str, tmp_path: Path) -> None:
    newer = newer_code(tmp_path, f'{REQUIRE_9}, migrations.RunSQL("SELECT 1/0")')
    assert run_newer(newer, migrated_database, "migrate")[0] == 1
    assert fetch_all(migrated_database, COMMENT) == [(None,)]


def test_dump_contains_the_requirement(migrated_database: str, tmp_path: Path, servers: Servers) -> None:
    assert run_newer(newer_code(tmp_path, REQUIRE_9), migrated_database, "migrate")[0] == 0
    command = [postgres_program("pg_dump"), "--schema-only", "--table=django_migrations", migrated_database]
    dump = subprocess.run(command, check=True, capture_output=True, text=True, env=clean_environment()).stdout
    assert "COMMENT ON TABLE public.django_migrations IS" in dump
    assert "9.0.0" in dump


def test_wrong_usage(migrated_database: str) -> None:
    for arguments in (["--for", "newest"], ["--for", "9.0.0", "--only", "redis"]):
        code, output, errors = run_command("checkdeps", *arguments, database=as_application(migrated_database))
        assert (code, output) == (2, "")
        assert "--for" in errors


def test_oldest_version_is_the_highest_that_a_migration_requires() -> None:
    with_versions = "Oldest versions of VoiceAssist that the applied migrations allow: 0.9.0 0.10.0 0.2.0"
    oldest = oldest_version(with_versions)
    assert oldest
    refused = [version for version in ("0.9.9", "0.10.0rc1", "0.10.0", "1.0.0") if Version(version) < oldest]
    assert refused == ["0.9.9", "0.10.0rc1"]


@pytest.mark.parametrize(
    "comment", [None, "", "a comment of the administrator, version 9.0.0", "Oldest versions of VoiceAssist that"]
)
def test_other_comments_require_nothing(comment: str | None) -> None:
    assert oldest_version(comment) is None


@pytest.mark.parametrize("version", ["9", "9.0", "9.0.0rc1", "9.0.0'; DROP TABLE users; --", ""])
def test_only_released_versions_can_be_required(version: str) -> None:
    with pytest.raises(ValueError, match="X.Y.Z"):
        require_version(version)
