"""The linters of `make check` refuse migrations that a running server would notice, and accept those it would not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.newer_code import ADD_COLUMN, ADD_INDEX, STOP_USING_COLUMN, newer_code

ROOT = Path(__file__).resolve().parents[2]
BY_DJANGO_LINTER = "... ERR"
BY_SQUAWK = "Find detailed examples and solutions for each rule"


def lint(folder: Path, *operations: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.lint_migrations"],
        env={**os.environ, **newer_code(folder, *operations)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_our_own_and_expanding_migrations_pass(tmp_path: Path) -> None:
    code, output = lint(tmp_path, ADD_COLUMN, ADD_INDEX, STOP_USING_COLUMN)
    assert code == 0, output
    assert output.count("... OK") == 3, output
    assert output.count("Found 0 issues in 1 file") == 3, output


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
def test_both_linters_refuse(tmp_path: Path, operation: str) -> None:
    code, output = lint(tmp_path, operation)
    assert code == 1, output
    assert BY_DJANGO_LINTER in output
    assert BY_SQUAWK in output


def test_a_default_that_only_new_code_knows_is_refused(tmp_path: Path) -> None:
    """Django drops the column's default again, so that an INSERT of the old code fails."""
    code, output = lint(tmp_path, 'migrations.AddField("Message", "language", models.TextField(default="en"))')
    assert code == 1, output
    assert BY_DJANGO_LINTER in output
    assert BY_SQUAWK in output


def test_what_only_the_django_linter_knows_is_refused(tmp_path: Path) -> None:
    """A data migration that can't be undone; it is no SQL."""
    code, output = lint(tmp_path, "migrations.RunPython(migrations.RunPython.noop)")
    assert code == 1, output
    assert BY_DJANGO_LINTER in output
    assert BY_SQUAWK not in output


def test_what_only_squawk_knows_is_refused(tmp_path: Path) -> None:
    """A constraint that is validated while the table is locked."""
    constraint = 'models.CheckConstraint(condition=models.Q(tokens__lt=10), name="messages_tokens")'
    code, output = lint(tmp_path, f'migrations.AddConstraint("Message", {constraint})')
    assert code == 1, output
    assert BY_DJANGO_LINTER not in output
    assert BY_SQUAWK in output
