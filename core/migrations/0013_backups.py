"""Add the list of backups, which the backup service writes by SQL."""

import django.utils.timezone
import uuid_utils.compat
from django.db import migrations, models

DEFAULTS = """
ALTER TABLE backups
    ALTER created_at SET DEFAULT now(),
    -- UUIDv7: milliseconds, version 7, random; uuidv7() is PostgreSQL 18's.
    ALTER id SET DEFAULT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        placing substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
"""


class Migration(migrations.Migration):
    dependencies = [("core", "0012_jobs")]

    operations = [
        migrations.CreateModel(
            name="Backup",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "kind",
                    models.CharField(
                        choices=[("base", "Base"), ("dump", "Dump"), ("qdrant", "Qdrant"), ("wal", "Wal")],
                        max_length=10,
                    ),
                ),
                ("name", models.CharField(max_length=32)),
                ("started_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField()),
                ("size", models.BigIntegerField()),
                ("product_version", models.CharField(max_length=32)),
                ("verified_at", models.DateTimeField(null=True)),
                ("recovery_seconds", models.FloatField(null=True)),
                ("data_age_seconds", models.FloatField(null=True)),
            ],
            options={
                "db_table": "backups",
                "ordering": ("-started_at", "-id"),
                "default_permissions": ("view",),
                "constraints": [
                    models.UniqueConstraint(fields=("kind", "name"), name="backups_kind_name"),
                    models.CheckConstraint(
                        condition=models.Q(("kind__in", ("base", "dump", "qdrant", "wal"))),
                        name="backups_kind_is_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("finished_at__gte", models.F("started_at")), ("size__gte", 0)),
                        name="backups_time_and_size",
                    ),
                ],
            },
        ),
        migrations.RunSQL(DEFAULTS, migrations.RunSQL.noop),
    ]
