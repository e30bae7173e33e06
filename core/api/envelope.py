"""The envelope of every response. Only this module builds it.

{"success": true,  "data": …,    "error": null, "trace_id": "…", "timestamp": "…Z"}
{"success": false, "data": null, "error": {"code", "message", "details"}, "trace_id": "…", "timestamp": "…Z"}
"""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from django.http import Http404, HttpResponse, JsonResponse
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import JSONRenderer

from core.api.error_codes import ErrorCode
from core.trace_id import get_or_create_trace_id

_SEPARATORS = (",", ":")  # like DRF, so that clients can search in the text


def timestamp(moment: datetime | None = None) -> str:
    """Return `moment`, by default now, as ISO 8601 in UTC with milliseconds: 2026-01-31T12:34:56.789Z."""
    moment = moment.astimezone(UTC) if moment else datetime.now(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def success(data: Any) -> dict[str, Any]:
    return _envelope(success=True, data=data, error=None)


def failure(code: ErrorCode, message: str | None = None, details: Any = None) -> dict[str, Any]:
    return _envelope(success=False, data=None, error=error(code, message, details))


def error(code: ErrorCode, message: str | None = None, details: Any = None) -> dict[str, Any]:
    """Return the envelope's `error`, for a DRF view that also sets the code's HTTP status."""
    return {"code": code.name, "message": message or code.message, "details": details}


def encode(data: Any) -> str:
    return json.dumps(data, separators=_SEPARATORS)


def encoded_response(data: str) -> HttpResponse:
    """Return data that is JSON already, for probes, which send the same data many times and skip DRF's handling."""
    envelope = encode(success(None)).replace('"data":null', f'"data":{data}', 1)
    return HttpResponse(envelope, content_type="application/json")


def failure_response(
    code: ErrorCode,
    message: str | None = None,
    details: Any = None,
    *,
    status: int | None = None,
    headers: dict[str, str] | None = None,
) -> JsonResponse:
    """Return the failure as a Django response, for errors outside of DRF views. `status` defaults to the code's."""
    data = failure(code, message, details)
    return JsonResponse(
        data, json_dumps_params={"separators": _SEPARATORS}, status=status or code.status, headers=headers
    )


def _envelope(*, success: bool, data: Any, error: Any) -> dict[str, Any]:
    return {
        "success": success,
        "data": data,
        "error": error,
        "trace_id": get_or_create_trace_id(),
        "timestamp": timestamp(),
    }


class EnvelopeRenderer(JSONRenderer):
    """Wraps the data of a DRF view: as the envelope's `error` if the status is 400 or above, otherwise as `data`."""

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        status = renderer_context["response"].status_code if renderer_context else 200
        if status == 204:
            return b""
        failed = status >= 400
        envelope = _envelope(success=not failed, data=None if failed else data, error=data if failed else None)
        rendered: bytes = super().render(envelope, accepted_media_type, renderer_context)
        return rendered


class EnvelopeContentNegotiation(DefaultContentNegotiation):
    """Ignores `Accept` if the response is an envelope, so that it is never a 406 or HTML. Others negotiate as usual."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        first = renderers[0]
        if not isinstance(first, EnvelopeRenderer):
            with suppress(NotAcceptable, Http404):
                return super().select_renderer(request, renderers, format_suffix)
        return first, first.media_type
