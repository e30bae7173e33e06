"""The project's URLs, and views for the load: append, append inside a transaction, and read."""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.urls import path
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.request import Request
from rest_framework.response import Response

from core import conversations
from core.models import Message
from voiceassist.urls import urlpatterns as project_urls


def _append(request: Request) -> Message:
    values: Any = request.data
    return conversations.append_message(
        UUID(values["session_id"]),
        role="user",
        content=values["content"],
        client_message_id=values["client_message_id"],
    )


@api_view(["POST"])
@authentication_classes([])
@permission_classes([])
def append(request: Request) -> Response:
    return Response({"id": str(_append(request).pk)})


@api_view(["POST"])
@authentication_classes([])
@permission_classes([])
def append_in_transaction(request: Request) -> Response:
    """Append like a caller that writes more in the same transaction."""
    with transaction.atomic():
        message = _append(request)
    return Response({"id": str(message.pk)})


@api_view(["GET"])
@authentication_classes([])
@permission_classes([])
def read(request: Request, session_id: UUID) -> Response:
    page = conversations.read_messages(session_id, limit=5)
    return Response({"ids": [str(message.pk) for message in page.messages]})


urlpatterns = [
    *project_urls,
    path("append", append),
    path("append-in-transaction", append_in_transaction),
    path("read/<uuid:session_id>", read),
]
handler500 = "core.http.error_handlers.server_error"  # returns 503 for an outage
