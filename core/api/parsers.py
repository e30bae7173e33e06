"""Parse the bodies of requests to DRF views."""

from typing import Any

from rest_framework import exceptions, parsers


class JSONParser(parsers.JSONParser):
    """DRF's parser, except that JSON nested too deeply for Python is a BAD_REQUEST instead of a 500.

    The limit depends on the version of Python. The models have a lower one, `core.models.fields.MAX_JSON_DEPTH`.
    """

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError:
            raise exceptions.ParseError from None
