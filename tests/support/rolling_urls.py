"""The project's URLs, and a view that appends and reads messages, because the API has none yet."""

import json
from uuid import UUID

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from core.conversations import append_message, read_messages
from voiceassist.urls import urlpatterns as project_urls


@csrf_exempt
def messages(request: HttpRequest, session_id: UUID) -> HttpResponseBase:
    """Append the message in the body of a POST. Return the contents of the newest page to a GET."""
    if request.method == "POST":
        message = append_message(session_id, **json.loads(request.body))
        return JsonResponse({"id": str(message.pk)})
    page = read_messages(session_id, limit=20)
    return JsonResponse({"contents": [message.content for message in page.messages]})


urlpatterns = [*project_urls, path("sessions/<uuid:session_id>/messages", messages)]
