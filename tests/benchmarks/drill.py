"""Back up, destroy, restore and drill a database: `make drill`, or `--messages N`. Prints the times.

Exit code 1 means that a row was lost or that the drill failed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.data import row_counts
from tests.support.backups import BackedUpPostgres


class DurablePostgres(BackedUpPostgres):
    """A server with fsync on, as in production."""

    def command(self) -> list[str]:
        return [*super().command(), "-c", "fsync=on", "-c", "max_wal_size=4GB"]


@contextmanager
def timed(what: str) -> Iterator[None]:
    started_at = time.monotonic()
    yield
    print(f"{what:<44} {time.monotonic() - started_at:8.1f} s", flush=True)


def size(path: Path) -> str:
    return f"{sum(file.stat().st_size for file in path.rglob('*') if file.is_file()) / 1e6:,.0f} MB"


def run(server: DurablePostgres, messages: int) -> bool:
    """Return whether everything was restored."""
    with timed(f"database with {messages:,} messages"):
        server.start()
        rows = [word for name, count in row_counts(messages).items() for word in (f"--{name}", str(count))]
        server.manage("seed_demo", *rows, url=server.application_url)
        server.manage("checkpoint_audit", url=server.application_url)
    ((database,),) = server.fetch("SELECT pg_size_pretty(pg_database_size(current_database()))")
    with server.receiving_wal():
        with timed("base backup"):
            base = server.backup("base")
        with timed("dump"):
            dump = server.backup("dump")
        server.execute("UPDATE users SET specialty = 'Cardiology'")
    print(f"database {database}, base backup {size(base)}, dump {size(dump)}", flush=True)
    tables = ("users", "sessions", "messages", "audit_events")
    counting = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
    expected = server.fetch(counting)
    server.kill()
    shutil.rmtree(server.data)
    with timed("restore of the base backup and the WAL"):
        server.script("restore.sh", base, "--identity", server.identity, "--into", server.data)
    server.start()
    found = server.fetch(counting)
    for backup in (base, dump):
        print(f"\ndrill of the {backup.parent.name}")
        done = server.drill(backup, check=False, TMPDIR=str(server.folder.parent))
        print(done.stdout + done.stderr, flush=True)
        if done.returncode:
            return False
    return found == expected


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    folder.chmod(0o755)
    server = DurablePostgres(folder)
    try:
        return int(not run(server, parser.parse_args().messages))
    finally:
        server.kill()
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
