"""URLs of a server that also appends messages and reads them, which no path of the API does yet."""

import json
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from core.conversations import append_message, read_messages
from voiceassist.urls import urlpatterns as ours


@csrf_exempt
def messages(request: HttpRequest, session_id: UUID) -> HttpResponseBase:
    """POST appends the message in the body; GET returns the contents of the newest page."""
    if request.method == "POST":
        message = append_message(session_id, **json.loads(request.body))
        return JsonResponse({"id": str(message.pk)})
    page = read_messages(session_id, limit=20)
    return JsonResponse({"contents": [message.content for message in page.messages]})


urlpatterns = [*ours, path("sessions/<uuid:session_id>/messages", messages)]
