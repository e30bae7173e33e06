"""The API documentation: the envelope as `core.api.envelope` builds it, with examples that it built.

    @extend_schema(
        responses={
            200: success_response(ReportSerializer, {"status": "ready", …}),
            503: error_response(ErrorCode.NOT_READY, details=ReportSerializer, example={…}),
            **COMMON_RESPONSES,
        },
    )

`AutoSchema` adds the headers that every request may have and every answer has.
"""

from functools import cache
from typing import Any

from drf_spectacular import openapi
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema_field
from rest_framework import serializers

from core.api import envelope
from core.api.error_codes import ErrorCode

_Serializer = type[serializers.Serializer]
_CODES = [code.name for code in ErrorCode]
_EXAMPLE = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "timestamp": "2026-01-31T12:34:56.789Z"}


def success_response(data: _Serializer, example: Any) -> OpenApiResponse:
    """Documents a success whose `data` has this shape; `example` is what the view would return."""
    return _response(_success(data), "SUCCESS", "Success.", envelope.success(data(example).data))


def error_response(code: ErrorCode, *, details: _Serializer | None = None, example: Any = None) -> OpenApiResponse:
    """Documents a failure with this code; its `details` have the shape of `details`, or none that is fixed."""
    body = envelope.failure(code, details=details(example).data if details else example)
    return _response(_failure(details), code.name, code.message, body)


def _response(serializer: _Serializer, name: str, description: str, body: dict[str, Any]) -> OpenApiResponse:
    example = OpenApiExample(name, {**body, **_EXAMPLE}, media_type="application/json")
    return OpenApiResponse(serializer, description, [example])


@extend_schema_field({"type": "boolean", "const": True})
class _True(serializers.BooleanField): ...


@extend_schema_field({"type": "boolean", "const": False})
class _False(serializers.BooleanField): ...


@extend_schema_field({"type": "null"})
class _Null(serializers.JSONField): ...


@extend_schema_field({"type": ["object", "null"]})
class _Anything(serializers.JSONField): ...


# One class a shape, so that the documentation has one component of each.


@cache
def _success(data: _Serializer) -> _Serializer:
    return _shape(f"{_name(data)}Envelope", success=_True(), data=data(), error=_Null())


@cache
def _failure(details: _Serializer | None) -> _Serializer:
    name = _name(details) if details else ""
    error = _made(
        f"{name}Error",
        code=serializers.ChoiceField(choices=_CODES),
        message=serializers.CharField(),
        details=details() if details else _Anything(),
    )
    return _shape(f"{name}FailureEnvelope", success=_False(), data=_Null(), error=error())


def _shape(name: str, **fields: serializers.Field) -> _Serializer:
    return _made(
        name,
        **fields,
        trace_id=serializers.CharField(help_text="The same as in the header X-Request-ID."),
        timestamp=serializers.DateTimeField(),
    )


def _made(name: str, **fields: serializers.Field) -> _Serializer:
    return type(f"{name}Serializer", (serializers.Serializer,), fields)


def _name(serializer: _Serializer) -> str:
    return serializer.__name__.removesuffix("Serializer")


COMMON_RESPONSES = {500: error_response(ErrorCode.INTERNAL_ERROR)}

_TRACE = (
    ("traceparent", "W3C trace context: its trace id becomes that of the answer."),
    ("X-Request-ID", "1 to 128 of A-Z a-z 0-9 . _ -: the trace id, if there is no traceparent."),
)


class AutoSchema(openapi.AutoSchema):
    def get_override_parameters(self) -> list[Any]:
        asked = [
            OpenApiParameter(name, OpenApiTypes.STR, OpenApiParameter.HEADER, description=text) for name, text in _TRACE
        ]
        told = OpenApiParameter(
            "X-Request-ID", OpenApiTypes.STR, OpenApiParameter.HEADER, response=True, description="The trace id."
        )
        return [*asked, told]
