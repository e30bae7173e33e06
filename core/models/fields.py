"""Fields that restrict what Django's fields accept."""

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

# Far below the depth at which a reader fails. Python 3.11 can't parse 990 levels or format 900, and PostgreSQL refuses
# between 10,000 and 20,000 with its default max_stack_depth. MySQL and Ruby have the same limit.
MAX_JSON_DEPTH = 100  # nested arrays and objects


class DepthLimitedJSONField(models.JSONField):
    """A JSONField that refuses values that are nested more than MAX_JSON_DEPTH levels deep."""

    default_error_messages = {"too_deep": f"JSON nested too deeply. Use at most {MAX_JSON_DEPTH} levels."}

    def validate(self, value: Any, model_instance: models.Model | None) -> None:
        if _is_deeper_than(MAX_JSON_DEPTH, value):
            raise ValidationError(self.error_messages["too_deep"], code="too_deep")
        try:
            super().validate(value, model_instance)
        except ValueError:  # an integer of more than 4,300 digits, which Python does not convert to text
            raise ValidationError(self.error_messages["invalid"], code="invalid") from None


def _is_deeper_than(limit: int, value: Any) -> bool:
    """Return whether arrays and objects are nested more than `limit` levels deep. Read at most `limit` levels.

    A recursive function would itself fail for a deep value.
    """
    items = [value]
    for _ in range(limit):
        if not items:
            return False
        items = [child for item in items for child in _children(item)]
    return any(isinstance(item, dict | list | tuple) for item in items)


def _children(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list | tuple) else ()


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
