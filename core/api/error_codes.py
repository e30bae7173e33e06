"""The error codes, each with its HTTP status and its default message."""

from enum import Enum


class ErrorCode(Enum):
    """`ErrorCode.NOT_FOUND.status == 404`. Clients rely on the names. Messages never contain request data."""

    AUTH_FAILED = 401, "Invalid credentials."
    AUTH_REQUIRED = 401, "Authentication required."
    FORBIDDEN = 403, "Permission denied."
    NOT_FOUND = 404, "Not found."
    BAD_REQUEST = 400, "Bad request. Check its syntax, headers and content type."
    METHOD_NOT_ALLOWED = 405, "Method not allowed. Use one that the Allow header lists."
    CONFLICT = 409, "The request conflicts with the current state."
    VALIDATION_ERROR = 422, "Validation failed. Correct the invalid values."
    RATE_LIMITED = 429, "Too many requests. Try again later."
    INTERNAL_ERROR = 500, "Internal server error. Quote the trace id when reporting it."
    TOOL_ERROR = 503, "A tool failed or sent an invalid response."
    LLM_ERROR = 503, "The language model failed or sent an invalid response."
    NOT_READY = 503, "The service is not ready."
    KB_TIMEOUT = 504, "The knowledge base timed out."
    # Reserved for successful responses that report how PHI in the request was handled.
    PHI_DETECTED = 200, "The text contains protected health information."
    PHI_REDACTED = 200, "Protected health information was removed."

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
