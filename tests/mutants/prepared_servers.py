"""The data of the servers with a migrated database, from which each mutant gets a copy."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TEMPLATE = "prepared_template"


class PreparedServers:
    """Servers that are not running. `servers.start()` in a fork starts them with the data that `restore` has copied."""

    def __init__(self) -> None:
        from tests.support.plugin import Servers, remove_project_variables, write_bytecode

        write_bytecode()
        self._folder = Path(tempfile.mkdtemp(prefix="mutants-"))
        self._temporary = self._folder / "tmp"
        self._temporary.mkdir()
        remove_project_variables()
        tempfile.tempdir = str(self._folder)
        self.servers = Servers()
        tempfile.tempdir = os.environ["TMPDIR"] = str(self._temporary)
        os.environ |= self.servers.variables
        self._migrate()
        shutil.move(self.servers.folder, self._folder / "prepared")

    def _migrate(self) -> None:
        from tests.support.databases import url_of
        from tests.support.dependency_servers import as_owner, unprivileged_command
        from voiceassist.embedded.programs import clean_environment, postgres_program

        postgres = self.servers.postgres
        postgres.start()
        postgres.execute(f"CREATE DATABASE {TEMPLATE}")
        environment = {**os.environ, "DATABASE_URL": as_owner(url_of(postgres, TEMPLATE))}
        subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity=0"], env=environment, check=True)
        postgres.stop()
        # Small files of the write-ahead log are faster to copy.
        reset = [postgres_program("pg_resetwal"), "--wal-segsize=1", "-D", str(postgres.data)]
        command = [*unprivileged_command(postgres.data), *reset]
        subprocess.run(command, check=True, capture_output=True, env=clean_environment())

    def restore(self) -> None:
        """Replace what a fork has left behind. No server may be running."""
        from tests.support.shared_memory import remove_segment

        for file in self._folder.rglob("postmaster.pid"):
            remove_segment(file.parent)
        shutil.rmtree(self._temporary)
        self._temporary.mkdir()
        if self.servers.folder.exists():
            _remove_changed(self._folder / "prepared", self.servers.folder)
        # -a copies the times too, by which the next call finds the files that have changed.
        subprocess.run(["cp", "-a", "--no-clobber", f"{self._folder / 'prepared'}/.", self.servers.folder], check=True)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove_changed(original: Path, copy: Path) -> None:
    """Remove the files and folders of a copy that differ from the original. Few of the thousands of files do."""
    expected = {entry.name: entry for entry in os.scandir(original)}
    for entry in os.scandir(copy):
        other = expected.get(entry.name)
        if entry.is_dir(follow_symlinks=False):
            if other:
                _remove_changed(Path(other.path), Path(entry.path))
            else:
                shutil.rmtree(entry.path)
        elif not other or _version(entry) != _version(other):
            os.unlink(entry.path)


def _version(entry: "os.DirEntry[str]") -> tuple[int, int]:
    status = entry.stat(follow_symlinks=False)
    return status.st_size, status.st_mtime_ns
