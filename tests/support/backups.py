"""A server of PostgreSQL that is backed up by the scripts in `ops/backup`, and the folders that they use."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from core.database_roles import BACKUP_ROLE
from tests.support import age, pg_verifybackup
from tests.support.dependency_servers import PASSWORD, SUPERUSER, Postgres, as_owner, as_role, unprivileged_command
from tests.support.forked_python import run
from tests.support.polling import succeeds_within
from voiceassist.embedded.programs import clean_environment, postgres_folder, psql

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "ops" / "backup"
Done = subprocess.CompletedProcess[str]


class BackedUpPostgres(Postgres):
    """A migrated database with the role of the backups, and a target, a staging folder and a key pair.

    Programs run as an unprivileged user, because PostgreSQL refuses root.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder / "server", **options)
        self.target, self.staging, self.identity = folder / "target", folder / "staging", folder / "identity"
        self.backup_url = as_role(self.url, BACKUP_ROLE)
        self.password_file = folder / "password"
        self.password_file.write_text(PASSWORD)
        pg_verifybackup.install(folder)
        self.environment = {
            **clean_environment(),
            "PATH": f"{folder}:{postgres_folder()}:{age.install(folder)}:{os.environ['PATH']}",
            "BACKUP_DIR": str(self.target),
            "BACKUP_STAGING": str(self.staging),
            "BACKUP_RECIPIENT": age.new_identity(self.identity),
            "BACKUP_PASSWORD_FILE": str(self.password_file),
            "BACKUP_WAL_INTERVAL": "1",
            "QDRANT_URL": "",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGDATABASE": "tests",
        }
        self.as_user = unprivileged_command(folder / "no data")

    def start(self) -> None:
        is_new = self._needs_roles
        super().start()
        if is_new:
            self.create_backup_role()
            self.manage("migrate", "--verbosity", "0", url=as_owner(self.url))

    def create_backup_role(self) -> None:
        environment = {**clean_environment(), "PGPASSWORD": PASSWORD}
        environment["POSTGRES_BACKUP_PASSWORD_FILE"] = str(self.password_file)
        command = psql("127.0.0.1", "tests", SUPERUSER, ROOT / "ops" / "postgresql" / "roles_backup.sql")
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment | {"PGPORT": str(self.port)}, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr

    def manage(self, *arguments: str, url: str) -> Done:
        environment = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
        done = run(["manage.py", *arguments], environment, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def command_of(self, script: str, *arguments: str | Path) -> list[str]:
        return [*self.as_user, str(SCRIPTS / script), *map(str, arguments)]

    def run_command(self, command: list[str], **variables: str) -> Done:
        environment = self.environment | variables
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def script(self, name: str, *arguments: str | Path, check: bool = True, **variables: Any) -> Done:
        done = self.run_command(self.command_of(name, *arguments), **variables)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def start_script(self, name: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Start a script in its own process group."""
        return subprocess.Popen(
            self.command_of(name, *arguments),
            env=self.environment | variables, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    @contextmanager
    def receiving_wal(self) -> Iterator["subprocess.Popen[str]"]:
        """Run wal.sh. Afterwards everything that was committed has been copied."""
        process = self.start_script("wal.sh")
        try:
            self.wait_for_wal()
            yield process
            self.wait_for_wal()
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=30)

    def wait_for_wal(self) -> None:
        """Wait until everything that is committed now has been copied."""
        (now,) = self.fetch("SELECT now()")[0]
        query = "SELECT EXISTS (SELECT FROM backups WHERE kind = 'wal' AND finished_at >= %s)"
        assert succeeds_within(60, lambda: self.fetch(query, now)[0][0], interval=0.1), "The WAL was not copied."

    def backup(self, kind: str) -> Path:
        """Take a backup and return its folder."""
        self.script("backup.sh", kind)
        return max((self.target / kind).glob("2*Z"))

    def _drill(self, backup: Path, identity: Path, **variables: str) -> tuple[list[str], dict[str, str]]:
        """Return the arguments of Python, and the environment."""
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "voiceassist.settings", "PATH": self.environment["PATH"]}
        environment |= {"DATABASE_URL": self.application_url, **variables}
        return ["manage.py", "drill", str(backup), "--identity", str(identity)], environment

    def drill(self, backup: Path, *, check: bool = True, identity: Path | None = None, **variables: str) -> Done:
        command, environment = self._drill(backup, identity or self.identity, **variables)
        done = run(command, environment, as_user=self.as_user, timeout=300)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def start_drill(self, backup: Path, **variables: str) -> "subprocess.Popen[str]":
        """Start a drill with a new Python, in its own process group."""
        command, environment = self._drill(backup, self.identity, **variables)
        return subprocess.Popen(
            [*self.as_user, sys.executable, *command], env=environment, cwd=ROOT, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def decrypt(self, path: Path) -> bytes:
        command = ["age", "--decrypt", "--identity", str(self.identity), str(path)]
        return subprocess.run(command, env=self.environment, check=True, capture_output=True).stdout

    def copy_rows(self, table: str, database: str) -> None:
        """Copy the rows of a table into another database, without its structure."""
        environment = self.environment | {"PGUSER": SUPERUSER, "PGPASSWORD": PASSWORD}
        dump = subprocess.run(
            ["pg_dump", "--data-only", "-Fc", "-t", table], env=environment, check=True, capture_output=True
        )
        subprocess.run(["pg_restore", "--data-only", "-d", database], env=environment, check=True, input=dump.stdout)

    def fetch(self, query: str, *parameters: object) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query.encode(), parameters or None).fetchall()


def manifest(backup: Path) -> Any:
    return json.loads((backup / "manifest.json").read_text())
