"""The linters of `make check` reject migrations that break running servers, and accept those that do not."""

import os
from pathlib import Path

import pytest

from tests.support.forked_python import run
from tests.support.lint_migrations import EXEMPT, REVIEWED
from tests.support.newer_code import ADD_COLUMN, ADD_INDEX, REQUIRE_VERSION, STOP_USING_COLUMN, newer_code

ROOT = Path(__file__).resolve().parents[2]
DJANGO_LINTER_ERROR = "... ERR"
SQUAWK_ERROR = "Find detailed examples and solutions for each rule"


def lint(folder: Path, *operations: str) -> tuple[int, str]:
    process = run(["-m", "tests.support.lint_migrations"], {**os.environ, **newer_code(folder, *operations)})
    return process.returncode, process.stdout + process.stderr


def test_accepts_existing_and_expanding_migrations(tmp_path: Path) -> None:
    existing = {path.stem for path in (ROOT / "core" / "migrations").glob("0*.py")} - EXEMPT
    code, output = lint(tmp_path, ADD_COLUMN, ADD_INDEX, STOP_USING_COLUMN, REQUIRE_VERSION)
    assert code == 0, output
    assert output.count("... OK") == len(existing - REVIEWED) + 4, output
    assert output.count("Found 0 issues in 1 file") == len(existing) + 4, output


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param('migrations.AddField("Message", "language", models.TextField())', id="NOT NULL without default"),
        pytest.param(
            'migrations.AddIndex("Message", models.Index(fields=["model"], name="messages_model"))', id="blocking index"
        ),
        pytest.param('migrations.RemoveField("Message", "model")', id="dropped column"),
        pytest.param('migrations.RenameField("Message", "model", "language_model")', id="renamed column"),
    ],
)
def test_both_linters_refuse_incompatible_operation(tmp_path: Path, operation: str) -> None:
    code, output = lint(tmp_path, operation)
    assert code == 1, output
    assert DJANGO_LINTER_ERROR in output
    assert SQUAWK_ERROR in output


def test_refuses_default_without_database_default(tmp_path: Path) -> None:
    """Django drops the default after adding the column, so an INSERT by the old code fails."""
    code, output = lint(tmp_path, 'migrations.AddField("Message", "language", models.TextField(default="en"))')
    assert code == 1, output
    assert DJANGO_LINTER_ERROR in output
    assert SQUAWK_ERROR in output


def test_refuses_irreversible_data_migration(tmp_path: Path) -> None:
    """Only the Django linter detects this, because it is not SQL."""
    code, output = lint(tmp_path, "migrations.RunPython(migrations.RunPython.noop)")
    assert code == 1, output
    assert DJANGO_LINTER_ERROR in output
    assert SQUAWK_ERROR not in output


def test_refuses_constraint_validated_under_lock(tmp_path: Path) -> None:
    """Only squawk detects this."""
    constraint = 'models.CheckConstraint(condition=models.Q(tokens__lt=10), name="messages_tokens")'
    code, output = lint(tmp_path, f'migrations.AddConstraint("Message", {constraint})')
    assert code == 1, output
    assert DJANGO_LINTER_ERROR not in output
    assert SQUAWK_ERROR in output
