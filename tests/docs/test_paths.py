"""Files and modules that documentation and comments name exist. `test_links` checks the links."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).resolve().parents[2]
_HIDDEN = re.compile(r"\.(?!ci$)|var$|staticfiles$|__pycache__$")  # folders that are not part of the project
_TEXT = {"", ".py", ".md", ".html", ".js", ".css", ".yml", ".yaml", ".cfg", ".ini", ".toml", ".in", ".example"}
# CHANGELOG.md names files of earlier releases.
_UNCHECKED = ("CHANGELOG.md", "core/migrations/", "tests/docs/test_paths.py")
_CREATED_BY_READERS = {"tests/voiceassist/test_views.py"}  # of docs/FIRST_HOUR.md
_PATH = re.compile(r"(?<![\w/.$}{<>-])(?:core|health|voiceassist|tests|ops|docs|requirements|\.ci)/[\w./-]*\w")
# Gunicorn's configuration is an attribute: self.cfg, server.cfg.
_FILE = re.compile(r"(?<![\w/.*<>$}{\"-])(?!(?:self|server)\.cfg)[A-Za-z]\w+\.(?:py|md|html|cfg|ini)\b")
_MODULE = re.compile(r"`((?:core|health|voiceassist|tests)(?:\.\w+)+)")
# Permissions, loggers, ids of system checks and example settings look like modules.
_NO_MODULES = re.compile(r"core\.(?:view|add|change|delete)_\w+|\w+\.[EW]\d+|voiceassist\.(?:audit|\w+\.example)")


def _files() -> Iterator[str]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not _HIDDEN.match(name)]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), ROOT)


def _texts() -> Iterator[tuple[str, int, str]]:
    """Yield path, line number and text of each line that is documentation or may hold a comment."""
    for path in _files():
        if path.startswith(_UNCHECKED) or Path(path).suffix not in _TEXT:
            continue
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            yield path, number, line


@pytest.fixture(scope="module")
def existing() -> set[str]:
    """Return the paths of all files and folders, and the names by which Django finds templates and static files."""
    files = set(_files())
    folders = {str(parent) for path in files for parent in Path(path).parents}
    names_for_django = {re.sub(r".*/(templates|static)/", "", path) for path in files}
    return {*files, *folders, *names_for_django, *_CREATED_BY_READERS}


def _missing(pattern: re.Pattern[str], names: set[str]) -> list[str]:
    """Return the matches of the pattern that are not in `names`, with path and line."""
    return [
        f"{path}:{number}: {name}"
        for path, number, line in _texts()
        for name in pattern.findall(line)
        if name not in names
    ]


def test_every_path_exists(existing: set[str]) -> None:
    assert _missing(_PATH, existing) == []


def test_every_file_name_exists(existing: set[str]) -> None:
    assert _missing(_FILE, {Path(path).name for path in existing}) == []


def test_every_module_can_be_imported() -> None:
    missing = []
    for path, number, line in _texts():
        for name in _MODULE.findall(line):
            if _NO_MODULES.fullmatch(name):
                continue
            try:
                resolve_name(name)
            except (ImportError, AttributeError):
                missing.append(f"{path}:{number}: {name}")
    assert missing == []
