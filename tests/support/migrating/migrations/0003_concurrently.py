from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # CREATE INDEX CONCURRENTLY waits for every transaction that holds a snapshot
    dependencies = [("migrating", "0002_once")]
    operations = [AddIndexConcurrently("Row", models.Index(fields=["text"], name="rows_text"))]
