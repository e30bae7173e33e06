"""Which modules are mutated, which tests must notice it, and which mutants are equivalent to the original."""

import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

FOLDER = Path(__file__).parent
MIN_SCORE = 0.9


def modules(patterns: Iterable[str] = "*") -> dict[str, list[str]]:
    """Return the tests of each module whose path matches one of the patterns."""
    table: dict[str, list[str]] = tomllib.loads((FOLDER / "modules.toml").read_text())
    return {module: tests for module, tests in table.items() if any(fnmatchcase(module, p) for p in patterns)}


def equivalents() -> dict[str, str]:
    """Return the reason why no test can notice a mutant, by its name."""
    return dict(tomllib.loads((FOLDER / "equivalents.toml").read_text()))
