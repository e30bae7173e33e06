"""Lint the migrations of core: python -m tests.support.lint_migrations, which is part of `make check`.

Both linters check the SQL. django-migration-linter finds changes that break the code of the previous release. squawk,
configured in `.squawk.toml`, finds statements that lock a table for a long time.
"""

import io
import os
import subprocess
import sys
from pathlib import Path

import django
from django.core.management import call_command

# Migrations that are not linted. The first three were never released, so no server uses an earlier schema. Add the
# second half of a two-release change here, for example dropping a column that the previous release no longer uses.
EXEMPT = {"0001_initial", "0002_indexes", "0003_audit"}
# Migrations that only squawk lints. django-migration-linter also refuses the SQL that unapplies a migration, and a
# statement that sets the type of a column to the one that it has.
REVIEWED = {"0007_audit_every_table"}
ROOT = Path(__file__).resolve().parents[2]
SQUAWK = (str(Path(sys.executable).with_name("squawk")), "--config", str(ROOT / ".squawk.toml"))


def squawk(name: str) -> bool:
    """Return whether squawk accepts the SQL of a migration of core. Squawk prints its findings."""
    sql = io.StringIO()
    call_command("sqlmigrate", "core", name, stdout=sql, no_color=True)
    command = [*SQUAWK, "--stdin-filepath", f"core/migrations/{name}.py"]
    return subprocess.run(command, input=sql.getvalue(), text=True, check=False).returncode == 0


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceassist.settings")
    django.setup()
    from django.conf import settings
    from django_migration_linter import MigrationLinter

    if settings.EMBEDDED_SERVERS:
        from voiceassist.embedded import start_or_exit

        start_or_exit(settings.EMBEDDED_SERVERS)
    linter = MigrationLinter(
        include_apps=["core"], ignore_name=EXEMPT | REVIEWED, all_warnings_as_errors=True, quiet=["ignore"]
    )
    linter.lint_all_migrations()
    linter.print_summary()
    sys.stdout.flush()  # so that the summary appears before squawk's output
    names = sorted(name for app, name in linter.migration_loader.disk_migrations if app == "core")
    refused = [name for name in names if name not in EXEMPT and not squawk(name)]
    return int(linter.has_errors or bool(refused))


if __name__ == "__main__":
    sys.exit(main())
