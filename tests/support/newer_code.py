"""Simulate the next release: the current code with additional migrations of `core`."""

import os
from pathlib import Path

from core import migrations as existing

_PACKAGE = """
from core import migrations
__path__ += migrations.__path__  # the existing migrations and those in this folder
"""
_SETTINGS = """
from {settings} import *
MIGRATION_MODULES = {{"core": "next_release"}}
VERSION = {version!r} or VERSION
"""
_MIGRATION = """
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from core.schema_compatibility import require_version


class Migration(migrations.Migration):
    atomic = {atomic}
    dependencies = [("core", "{previous}")]
    operations = [
        {operation},
    ]
"""

# Operations that the linters accept and that do not affect the old code.
ADD_COLUMN = 'migrations.AddField("Message", "language", models.TextField(null=True, db_default="en"))'
ADD_INDEX = 'AddIndexConcurrently("Message", models.Index(fields=["model"], name="messages_model"))'
REQUIRE_VERSION = 'require_version("9.0.0")'
# The first of two releases that drop a column: the code stops using it, and the database gets a default for it.
STOP_USING_COLUMN = (
    'migrations.AlterField("Message", "model", models.CharField(max_length=100, blank=True, db_default="")), '
    'migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("Message", "model")])'
)


def newer_code(
    folder: Path, *operations: str, settings: str = "voiceassist.settings", version: str = ""
) -> dict[str, str]:
    """Write a migration for each operation into `folder`. Return the environment that runs the newer code.

    Its version is the current one, unless `version` is set.
    """
    package = folder / "next_release"
    package.mkdir()
    (package / "__init__.py").write_text(_PACKAGE)
    (folder / "next_settings.py").write_text(_SETTINGS.format(settings=settings, version=version))
    for operation in operations:
        names = [path.stem for path in (*Path(existing.__path__[0]).glob("0*.py"), *package.glob("0*.py"))]
        previous = max(names)
        name = f"{int(previous[:4]) + 1:04}_next"
        atomic = "Concurrently" not in operation
        (package / f"{name}.py").write_text(_MIGRATION.format(atomic=atomic, previous=previous, operation=operation))
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"DJANGO_SETTINGS_MODULE": "next_settings", "PYTHONPATH": os.pathsep.join(paths)}
