"""A copy of the working tree as a fresh clone has it."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NOT_IN_A_CLONE = (".git", ".venv*", ".*_cache", ".env", "secrets", "var", "staticfiles", "__pycache__", "node_modules")


def copy_tree(folder: Path) -> None:
    """Copy the tree without anything that `make` and the tests create."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_NOT_IN_A_CLONE))
