"""The trace id of the request that this thread answers: in the envelope, in `X-Request-ID`, in every log line."""

import hashlib
import re
import secrets
import uuid
from contextvars import ContextVar

from django.conf import settings

# https://www.w3.org/TR/trace-context/#traceparent-header: version-traceid-parentid-flags. Version 00 ends there,
# a later one may go on, ff is forbidden, and so are ids of zeros.
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?P<more>-.*)?"
)
_of_request: ContextVar[str | None] = ContextVar("trace_id", default=None)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def trace_id_from_headers(traceparent: str = "", request_id: str = "") -> str:
    """Returns the id of a valid `traceparent`, else a valid `X-Request-ID`, else a new UUID."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match and not (match["version"] == "00" and match["more"]):
        return match["trace"]
    if _REQUEST_ID.fullmatch(request_id):
        return request_id
    return _new()


def _new() -> str:
    """Returns a UUID, written as OpenTelemetry writes a trace id where requests are traced: one word finds them all."""
    made = uuid.uuid4()
    return made.hex if settings.OTEL_EXPORTER_OTLP_ENDPOINT else str(made)


def set_trace_id(trace_id: str) -> None:
    """Makes it the current one, until `clear_trace_id`."""
    _of_request.set(trace_id)


def clear_trace_id() -> None:
    """Forgets it: the thread's next line of the log may belong to nobody."""
    _of_request.set(None)


def get_or_create_trace_id() -> str:
    """Returns the current trace id; outside of a request a new one, so that an envelope never lacks it."""
    return get_trace_id() or _new()


def get_trace_id() -> str | None:
    """Returns the current trace id, None outside of a request."""
    return _of_request.get()


def as_w3c_trace_id() -> str:
    """Returns the current trace id as 32 hexadecimal digits: its own, or of another X-Request-ID a digest."""
    trace_id = get_or_create_trace_id()
    digits = trace_id.replace("-", "").lower()
    if re.fullmatch(r"(?!0{32})[0-9a-f]{32}", digits):
        return digits
    return hashlib.sha256(trace_id.encode()).hexdigest()[:32]


def new_traceparent() -> str:
    """Returns the header for one call to another service. Sampled: who traces there shall do so."""
    return f"00-{as_w3c_trace_id()}-{secrets.randbits(64) or 1:016x}-01"
