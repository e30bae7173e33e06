"""The trace id of the current request: in the envelope, in `X-Request-ID`, in every log line and audit event."""

import hashlib
import re
import secrets
import uuid
from contextvars import ContextVar

from django.conf import settings

# version-traceid-parentid-flags: https://www.w3.org/TR/trace-context/#traceparent-header. Version 00 has exactly these
# four fields, later versions may append more. Version ff and all-zero ids are invalid.
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-"
    r"(?P<known>(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?P<extra>-.*)?"
)
_current: ContextVar[str | None] = ContextVar("trace_id", default=None)
_received: ContextVar[str] = ContextVar("traceparent", default="")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def trace_id_from_headers(traceparent: str = "", request_id: str = "") -> str:
    """Return the trace id of `traceparent` if valid, otherwise a valid `request_id`, otherwise a new UUID."""
    if match := _match(traceparent):
        return match["trace"]
    if _REQUEST_ID.fullmatch(request_id):
        return request_id
    return _new()


def _match(traceparent: str) -> re.Match[str] | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    return None if match and match["version"] == "00" and match["extra"] else match


def _new() -> str:
    """Return a new UUID. If tracing is on, it has OpenTelemetry's format, so that one search finds logs and traces."""
    new_id = uuid.uuid4()
    return new_id.hex if settings.OTEL_EXPORTER_OTLP_ENDPOINT else str(new_id)


def set_trace_id(trace_id: str, traceparent: str = "") -> None:
    """Set the trace id, and the `traceparent` header that it was read from, if any."""
    _current.set(trace_id)
    _received.set(traceparent)


def clear_trace_id() -> None:
    """Clear the trace id, so that later log lines of this thread do not carry it."""
    _current.set(None)
    _received.set("")


def get_or_create_trace_id() -> str:
    """Return the current trace id, or a new one outside of a request, because an envelope needs one."""
    return get_trace_id() or _new()


def get_trace_id() -> str | None:
    """Return the current trace id, or None outside of a request."""
    return _current.get()


def as_w3c_trace_id() -> str:
    """Return the current trace id as 32 hexadecimal digits. An id in another format is hashed."""
    trace_id = get_or_create_trace_id()
    digits = trace_id.replace("-", "").lower()
    if re.fullmatch(r"(?!0{32})[0-9a-f]{32}", digits):
        return digits
    return hashlib.sha256(trace_id.encode()).hexdigest()[:32]


def outgoing_traceparent() -> str:
    """Return the `traceparent` for a call to another service: the client's if it sent one, otherwise a new one.

    A server that records no spans passes it on, with the client's parent and sampled flag. If tracing is on,
    OpenTelemetry replaces it with one that has the span of the call. A new one has the sampled flag, so that the other
    service traces the call. https://www.w3.org/TR/trace-context/#design-overview
    """
    if match := _match(_received.get()):
        return f"00-{match['known']}"  # a later version is sent as 00, with only the fields that 00 has
    return f"00-{as_w3c_trace_id()}-{secrets.randbits(64) or 1:016x}-01"
