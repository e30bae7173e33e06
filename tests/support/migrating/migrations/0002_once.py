"""Add a row slowly, so that a concurrent run would add a second one. A test can block it by an advisory lock."""

from typing import Any

from django.db import migrations


def add(apps: Any, schema_editor: Any) -> None:
    apps.get_model("migrating", "Row").objects.create(text="once")
    schema_editor.execute("SELECT pg_advisory_xact_lock_shared(1), pg_sleep(0.5)")


class Migration(migrations.Migration):
    dependencies = [("migrating", "0001_tables")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
