"""The commit that the code was built from, and when.

The Dockerfile writes both into the file `build-identity` beside this module, from its build arguments. Without that
file, the commit is the one that git has checked out.
"""

import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

_FILE = Path(__file__).with_name("build-identity")
_COMMIT = re.compile("[0-9a-f]{7,64}")


def identity(checkout: Path) -> tuple[str | None, str | None]:
    """Return the commit and the time of the build (ISO 8601), None for what is unknown."""
    if not _FILE.exists():
        return _checked_out_commit(checkout / ".git"), None
    commit, built_at, *_ = [*_FILE.read_text().split("\n"), ""]
    return commit if _COMMIT.fullmatch(commit) else None, built_at if _is_time(built_at) else None


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _checked_out_commit(git: Path) -> str | None:
    """Return the commit that HEAD leads to. Reading the files takes microseconds, starting git takes milliseconds."""
    with suppress(OSError, UnicodeDecodeError):
        head = (git / "HEAD").read_text().strip()
        if _COMMIT.fullmatch(head):  # no branch is checked out
            return head
        branch = head.removeprefix("ref: ")
        if (git / branch).is_file():
            commit = (git / branch).read_text().strip()
        else:
            refs = dict(
                line.split(" ", 1)[::-1] for line in (git / "packed-refs").read_text().splitlines() if " " in line
            )
            commit = refs.get(branch, "")
        return commit if _COMMIT.fullmatch(commit) else None
    return None
