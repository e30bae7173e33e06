"""WSGI middleware that makes Django read every request as UTF-8, whatever its Content-Type header says."""

from collections.abc import Callable, Iterable
from typing import Any

from django.utils.http import parse_header_parameters


def read_as_utf_8(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Remove the parameters of a Content-Type that Django can't parse or whose charset is not UTF-8.

    Django looks up the charset among Python's codecs. Some of them, such as zlib, are not text encodings, and Django
    would respond 500 while it creates the request, before any middleware runs. UTF-8 is right, because browsers send
    forms in the charset of the page, and RFC 8259 requires it for JSON.
    """

    def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        content_type = environ.get("CONTENT_TYPE", "")
        if ";" in content_type and not _is_utf_8(content_type):
            environ["CONTENT_TYPE"] = content_type.partition(";")[0]
        return application(environ, start_response)

    return wrapped


def _is_utf_8(content_type: str) -> bool:
    try:
        parameters = parse_header_parameters(content_type)[1]
    except ValueError:
        return False
    return str(parameters.get("charset", "utf-8")).lower() == "utf-8"
