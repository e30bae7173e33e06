"""The envelope in the API documentation: the same keys as `core.envelope` builds."""

from functools import cache

from rest_framework import serializers

from core.codes import ErrorCode

_Fields = dict[str, serializers.Field]
_CODES = [code.name for code in ErrorCode]


@cache
def envelope_of(
    data: type[serializers.Serializer] | None,
    details: type[serializers.Serializer] | None = None,
) -> type[serializers.Serializer]:
    """Returns the serializer of a success with `data`, or without of a failure with `details`."""
    name = (
        data.__name__.removesuffix("Serializer")
        if data
        else (details.__name__.removesuffix("Serializer") + "Failure" if details else "Failure")
    )
    fields: _Fields = {
        "success": serializers.BooleanField(),
        "data": data() if data else serializers.JSONField(allow_null=True),
        "error": _error_of(details)(allow_null=True),
        "trace_id": serializers.CharField(help_text="The same as in the header X-Request-ID."),
        "timestamp": serializers.DateTimeField(),
    }
    return type(f"{name}EnvelopeSerializer", (serializers.Serializer,), fields)


@cache  # one class a shape, so that the documentation has one component
def _error_of(
    details: type[serializers.Serializer] | None,
) -> type[serializers.Serializer]:
    name = details.__name__.removesuffix("Serializer") if details else ""
    fields: _Fields = {
        "code": serializers.ChoiceField(choices=_CODES),
        "message": serializers.CharField(),
        "details": details() if details else serializers.JSONField(allow_null=True),
    }
    return type(f"{name}ErrorSerializer", (serializers.Serializer,), fields)
