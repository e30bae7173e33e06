"""`/`: what this is and where to go on."""

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.schema import envelope_of

LINKS = {
    "health": "/health",
    "ready": "/ready",
    "metrics": "/metrics",
    "admin": "/admin/",
    "schema": "/api/schema/",
    "docs": "/api/docs/",
}


class IndexSerializer(serializers.Serializer):
    service = serializers.CharField()
    version = serializers.CharField()
    links = serializers.DictField(child=serializers.CharField())


class IndexView(APIView):
    authentication_classes = ()
    permission_classes = ()

    @extend_schema(operation_id="index", responses={200: envelope_of(IndexSerializer)})
    def get(self, request: Request) -> Response:
        return Response({"service": settings.SERVICE, "version": settings.VERSION, "links": LINKS})
