"""Compare each page of the admin with the same page of another revision: `make benchmark-compare REVISION=main`.

Servers of both revisions use the same database, which has the current schema. The other revision is checked out into a
temporary folder and uses the packages of this virtual environment. Requests are interleaved and their medians compared.
Exit code 1 means that a page takes more than 1.1 times as long as before. Pages that the other one lacks are listed.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.data import ROOT, fill, row_counts, running_databases
from tests.benchmarks.table import Table, interleaved_medians
from tests.support.voiceassist_server import VoiceAssistServer

PASSWORD = "correct horse battery staple"
MAX_RATIO = 1.1
ROUNDS = 25
MAX_ATTEMPTS = 3  # on a busy machine the medians of equal code differ by up to a quarter


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="voiceassist-revision-") as folder:
        worktree = Path(folder) / "worktree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", worktree, revision], check=True)
        try:
            yield worktree
        finally:
            subprocess.run([*git, "remove", "--force", worktree], check=True)


@contextmanager
def logged_in(code: Path, database: str, email: str) -> Iterator[httpx.Client]:
    """Start the server in a folder with its code. Yield a client that is logged in to its admin."""
    variables = {"DATABASE_URL": database, "QDRANT_URL": "http://127.0.0.1:1", "ADMIN_MFA": "optional"}
    options: dict[str, Any] = {"python": sys.executable, "cwd": code, **variables, "WEB_CONCURRENCY": "1"}
    with VoiceAssistServer(**options) as server, closing(server.log_in(email, PASSWORD)) as client:
        yield client


def getter(client: httpx.Client, path: str) -> Callable[[], int]:
    """Return a function that requests a page and returns the status. A search redirects to its results once."""
    response = client.get(path)
    if "?q=" in path and response.has_redirect_location:
        path = response.headers["Location"]
    return lambda: client.get(path).status_code


def compare(table: Table, revision: str, database: str, email: str, pages: dict[str, str]) -> None:
    with (
        checked_out(revision) as worktree,
        logged_in(ROOT, database, email) as now,
        logged_in(worktree, database, email) as before,
    ):
        for title, path in pages.items():
            calls = getter(now, path), getter(before, path)
            statuses = [call() for call in calls]
            if statuses != [200, 200]:
                print(f"{title}: not compared, because the statuses are {statuses}")
                continue
            for _ in range(MAX_ATTEMPTS):
                now_ms, before_ms = interleaved_medians(*calls, rounds=ROUNDS)
                if now_ms <= MAX_RATIO * before_ms:
                    break
            table.row(f"{title}, ms, against {revision}", now_ms, before_ms, MAX_RATIO, at_most=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--messages", type=int, default=10_000_000)
    options = parser.parse_args()
    with running_databases() as databases:
        fill(databases, "large", row_counts(options.messages))
        from core.models import User
        from tests.benchmarks.pages import Staff

        staff = Staff(databases, "large")
        user = User.objects.get(is_superuser=True)
        user.set_password(PASSWORD)
        user.save()
        table = Table()
        compare(table, options.revision, databases.url("large"), user.email, staff.addresses())
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
