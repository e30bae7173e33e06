"""The table of error codes: each with its HTTP status and the message that a client sees when none is given."""

from enum import Enum


class ErrorCode(Enum):
    """`ErrorCode.NOT_FOUND.status == 404`. The names are the contract; no message tells anything of the request."""

    AUTH_FAILED = 401, "The credentials are not right."
    AUTH_REQUIRED = 401, "Log in first."
    FORBIDDEN = 403, "You are not allowed to do this."
    NOT_FOUND = 404, "There is nothing here."
    BAD_REQUEST = 400, "The request can't be understood."
    METHOD_NOT_ALLOWED = 405, "This method is not allowed here."
    CONFLICT = 409, "This contradicts what is stored."
    VALIDATION_ERROR = 422, "Some values are not valid."
    RATE_LIMITED = 429, "Too many requests: try again later."
    INTERNAL_ERROR = 500, "Something broke on our side. Report it with the trace id."
    TOOL_ERROR = 503, "A tool did not answer as it should."
    LLM_ERROR = 503, "The language model did not answer as it should."
    NOT_READY = 503, "The service is not ready."
    KB_TIMEOUT = 504, "The knowledge base did not answer in time."
    # Reserved: a successful answer that tells what became of PHI in the request.
    PHI_DETECTED = 200, "The text holds protected health information."
    PHI_REDACTED = 200, "Protected health information was removed."

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
