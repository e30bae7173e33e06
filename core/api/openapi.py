"""OpenAPI schemas of the envelope, with examples that `core.api.envelope` builds.

    @extend_schema(
        responses={
            200: success_response(ReportSerializer, {"status": "ready", …}),
            503: error_response(ErrorCode.NOT_READY, details=ReportSerializer, example={…}),
            **COMMON_RESPONSES,
        },
    )

`AutoSchema` adds the headers that every request may have and every response has.
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
    """Document a success. `data` is the serializer of the envelope's `data`, `example` an object for it."""
    return _response(_success_envelope(data), "SUCCESS", "Success.", envelope.success(data(example).data))


def error_response(code: ErrorCode, *, details: _Serializer | None = None, example: Any = None) -> OpenApiResponse:
    """Document a failure. `details` is the serializer of the envelope's `details`, which otherwise have any shape."""
    body = envelope.failure(code, details=details(example).data if details else example)
    return _response(_failure_envelope(details), code.name, code.message, body)


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
class _AnyObject(serializers.JSONField): ...


# Cached, because a second class for the same shape would become a second component of the schema.


@cache
def _success_envelope(data: _Serializer) -> _Serializer:
    return _build_envelope(f"{_name(data)}Envelope", success=_True(), data=data(), error=_Null())


@cache
def _failure_envelope(details: _Serializer | None) -> _Serializer:
    name = _name(details) if details else ""
    error = _build_serializer(
        f"{name}Error",
        code=serializers.ChoiceField(choices=_CODES, help_text="What failed. The introduction lists the codes."),
        message=serializers.CharField(help_text="What failed and what to do, for a developer. The text may change."),
        details=details() if details else _AnyObject(),
    )
    return _build_envelope(f"{name}FailureEnvelope", success=_False(), data=_Null(), error=error())


def _build_envelope(name: str, **fields: serializers.Field) -> _Serializer:
    return _build_serializer(
        name,
        **fields,
        trace_id=serializers.CharField(help_text="The same value as in the X-Request-ID header."),
        timestamp=serializers.DateTimeField(help_text="When the response was made, in UTC."),
    )


def _build_serializer(name: str, **fields: serializers.Field) -> _Serializer:
    return type(f"{name}Serializer", (serializers.Serializer,), fields)


def _name(serializer: _Serializer) -> str:
    return serializer.__name__.removesuffix("Serializer")


COMMON_RESPONSES = {500: error_response(ErrorCode.INTERNAL_ERROR)}

_REQUEST_HEADERS = (
    ("traceparent", "W3C Trace Context. The response has the same trace id."),
    ("X-Request-ID", "The trace id if there is no traceparent: 1 to 128 characters of A-Z a-z 0-9 . _ -"),
)


class AutoSchema(openapi.AutoSchema):
    def get_override_parameters(self) -> list[Any]:
        request_headers = [
            OpenApiParameter(name, OpenApiTypes.STR, OpenApiParameter.HEADER, description=text)
            for name, text in _REQUEST_HEADERS
        ]
        response_header = OpenApiParameter(
            "X-Request-ID", OpenApiTypes.STR, OpenApiParameter.HEADER, response=True, description="The trace id."
        )
        return [*request_headers, response_header]
