"""The responses of the probes, for the API documentation."""

from rest_framework import serializers

from health.checks.failure_reasons import HINTS


class LivenessSerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=["healthy"])
    service = serializers.CharField()
    version = serializers.CharField()


class DependencySerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=["healthy", "unhealthy"])
    critical = serializers.BooleanField(help_text="Whether its failure makes the server not ready.")
    latency_ms = serializers.FloatField(help_text="Duration of the check in milliseconds.")
    reason = serializers.ChoiceField(choices=list(HINTS), allow_null=True)


class ReportSerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=["ready", "degraded", "not_ready", "draining"])
    dependencies = serializers.DictField(child=DependencySerializer())
    checked_at = serializers.DateTimeField()
