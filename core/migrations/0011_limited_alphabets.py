"""Limit the alphabet of columns that staff see unmasked. Changes no table: the application validates new values."""

from django.core.validators import RegexValidator
from django.db import migrations, models

IDENTIFIER = RegexValidator(r"\A[A-Za-z0-9._:/+=-]*\Z", "Use only letters, digits and . _ : / + = - without spaces.")
WORDS = RegexValidator(r"\A(?:[^\W\d_]|[ ,.&/()'’-])*\Z", "Use only letters, spaces and , . & / ( ) ' -.")


class Migration(migrations.Migration):
    dependencies = [("core", "0010_second_factor")]

    operations = [
        migrations.AlterField(
            model_name="message",
            name="client_message_id",
            field=models.CharField(
                blank=True,
                help_text="Set by the client. A message that is sent again with the same id is stored once.",
                max_length=128,
                null=True,
                validators=[IDENTIFIER],
            ),
        ),
        migrations.AlterField(
            model_name="message",
            name="model",
            field=models.CharField(
                blank=True, help_text="The language model that wrote it.", max_length=100, validators=[IDENTIFIER]
            ),
        ),
        migrations.AlterField(
            model_name="user",
            name="specialty",
            field=models.CharField(blank=True, max_length=100, validators=[WORDS]),
        ),
    ]
