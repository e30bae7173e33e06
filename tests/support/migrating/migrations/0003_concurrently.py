from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # PostgreSQL waits here for whoever holds a snapshot
    dependencies = [("migrating", "0002_once")]
    operations = [AddIndexConcurrently("Row", models.Index(fields=["text"], name="rows_text"))]
