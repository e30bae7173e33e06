"""The introduction of the API documentation, with a table of the error codes. The settings import it."""

from core.api.error_codes import ErrorCode

_TEXT = """\
Backend of VoiceAssist, a voice assistant for clinicians.

There is no API for conversations yet. These endpoints are for probes, monitoring and finding the other pages.

All responses use the same envelope. A success has `success: true` and `data`. A failure has `success: false` and an
`error` with one of these codes. Rely on the code, because the message may change.

| code | HTTP status | message |
| --- | --- | --- |
"""

API_DESCRIPTION = _TEXT + "\n".join(f"| `{code.name}` | {code.status} | {code.message} |" for code in ErrorCode)
