"""Fields that restrict what Django's fields accept."""

from itertools import chain
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

# Far below the depth at which a reader fails. Python 3.11 can't parse 990 levels, and PostgreSQL refuses between 10,000
# and 20,000 with its default max_stack_depth. MySQL and Ruby have the same limit.
MAX_JSON_DEPTH = 100  # nested arrays and objects
_CONTAINERS = (dict, list, tuple)


# For columns that staff see unmasked, so that no sentence about a patient fits into them. Rows from before remain.
IDENTIFIER = RegexValidator(r"\A[A-Za-z0-9._:/+=-]*\Z", "Use only letters, digits and . _ : / + = - without spaces.")
WORDS = RegexValidator(r"\A(?:[^\W\d_]|[ ,.&/()'’-])*\Z", "Use only letters, spaces and , . & / ( ) ' -.")


class DepthLimitedJSONField(models.JSONField):
    """A JSONField that refuses values that are nested more than MAX_JSON_DEPTH levels deep."""

    default_error_messages = {"too_deep": f"JSON nested too deeply. Use at most {MAX_JSON_DEPTH} levels."}

    def validate(self, value: Any, model_instance: models.Model | None) -> None:
        if is_deeper_than(MAX_JSON_DEPTH, value):
            raise ValidationError(self.error_messages["too_deep"], code="too_deep")
        try:
            super().validate(value, model_instance)
        except ValueError:  # an integer of more than 4,300 digits, which Python does not convert to text
            raise ValidationError(self.error_messages["invalid"], code="invalid") from None


def is_deeper_than(limit: int, value: Any) -> bool:
    """Return whether arrays and objects are nested more than `limit` levels deep. Read at most `limit` levels.

    A recursive function would itself fail for a deep value.
    """
    containers = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(limit):
        if not containers:
            return False
        children = chain.from_iterable(item.values() if isinstance(item, dict) else item for item in containers)
        containers = [child for child in children if isinstance(child, _CONTAINERS)]
    return bool(containers)


class LowercaseEmailField(models.EmailField):
    """A case-insensitive email address: converted to lower case when it is saved, looked up or validated."""

    def to_python(self, value: Any) -> Any:
        value = super().to_python(value)
        return value.lower() if isinstance(value, str) else value

    def get_prep_value(self, value: Any) -> Any:
        return self.to_python(super().get_prep_value(value))

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = self.to_python(super().pre_save(model_instance, add))
        setattr(model_instance, self.attname, value)
        return value
