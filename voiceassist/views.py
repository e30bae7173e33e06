"""The index page, `/`: name, version, build and links. And the icon that browsers ask for there."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.templatetags.static import static
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api.error_codes import ErrorCode
from core.api.openapi import COMMON_RESPONSES, error_response, success_response

LINKS = {
    "health": "/health",
    "ready": "/ready",
    "metrics": "/metrics",
    "admin": "/admin/",
    "status": "/admin/status/",
    "schema": "/api/schema/",
    "docs": "/api/docs/",
}
INDEX = {
    "service": settings.SERVICE,
    "version": settings.VERSION,
    "commit": settings.COMMIT,
    "built_at": settings.BUILT_AT,
    "links": LINKS,
}


class IndexSerializer(serializers.Serializer):
    service = serializers.CharField()
    version = serializers.CharField()
    commit = serializers.CharField(allow_null=True, help_text="Commit of the build; null if unknown.")
    built_at = serializers.DateTimeField(allow_null=True, help_text="Time of the build; null if unknown.")
    links = serializers.DictField(child=serializers.CharField(), help_text="Paths of the other pages by name.")


class IndexView(APIView):
    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="index",
        summary="Service index",
        tags=["index"],
        responses={
            200: success_response(IndexSerializer, INDEX),
            400: error_response(ErrorCode.BAD_REQUEST),
            **COMMON_RESPONSES,
        },
    )
    def get(self, request: Request) -> Response:
        """Return the name, version, build and links. A Host header outside of ALLOWED_HOSTS is a bad request."""
        return Response(INDEX)


def favicon(request: HttpRequest) -> HttpResponse:
    """Redirect to the icon. Browsers request /favicon.ico for JSON, which can't name another one."""
    return redirect(static("core/favicon.svg"))
