"""A body that can't be parsed is a BAD_REQUEST, whatever is wrong with it."""

from typing import Any

import pytest
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView


class View(APIView):
    authentication_classes = ()
    permission_classes = ()

    def post(self, request: Request) -> Response:
        return Response({"type": type(request.data).__name__})


def post(body: bytes) -> Any:
    return View.as_view()(APIRequestFactory().post("/", body, content_type="application/json"))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 50_000 + b"]" * 50_000,
        b'{"a":' * 15_000 + b"1" + b"}" * 15_000,
        b"[" * 100_000,
        b'{"a": ' + b"1" * 5000 + b"}",
        b'{"a": NaN}',
        b"{",
        b"\xff",
    ],
    ids=["deep array", "deep object", "unclosed", "long integer", "NaN", "incomplete", "not UTF-8"],
)
def test_refuses_body_that_cannot_be_parsed(body: bytes) -> None:
    response = post(body)
    assert response.status_code == 400
    assert response.data == {
        "code": "BAD_REQUEST",
        "message": "Bad request. Check its syntax, headers and content type.",
        "details": None,
    }


def test_accepts_nested_body() -> None:
    assert post(b"[" * 100 + b"]" * 100).data == {"type": "list"}
