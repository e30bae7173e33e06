"""Protect audit events with a trigger per row instead of one per statement, and limit the depth of JSON.

With a trigger per statement `loaddata` failed, because Django tries an UPDATE that matches no row before each INSERT.
The lock blocks writes to audit_events, but not reads, for a few milliseconds. The changed fields execute no SQL.
"""

from django.db import migrations

import core.models.fields

TRIGGER = """
CREATE OR REPLACE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH {level} EXECUTE FUNCTION audit_is_kept();
ALTER TABLE audit_events ENABLE ALWAYS TRIGGER audit_is_kept
"""


class Migration(migrations.Migration):
    dependencies = [("core", "0004_plain_messages")]

    operations = [
        migrations.RunSQL(TRIGGER.format(level="ROW"), TRIGGER.format(level="STATEMENT")),
        migrations.AlterField(
            model_name="session",
            name="context",
            field=core.models.fields.DepthLimitedJSONField(blank=True, default=dict),
        ),
        migrations.AlterField(
            model_name="message",
            name="tool_calls",
            field=core.models.fields.DepthLimitedJSONField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name="message",
            name="tool_results",
            field=core.models.fields.DepthLimitedJSONField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name="message",
            name="metadata",
            field=core.models.fields.DepthLimitedJSONField(blank=True, default=dict),
        ),
    ]
