"""The shapes of what the probes answer, for the API documentation."""

from rest_framework import serializers

from health.checks import failure_reasons

_REASONS = [value for name, value in vars(failure_reasons).items() if name.isupper() and isinstance(value, str)]


class LivenessSerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=["healthy"])
    service = serializers.CharField()
    version = serializers.CharField()


class DependencySerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=["healthy", "unhealthy"])
    critical = serializers.BooleanField(help_text="Whether the server is not ready without it.")
    latency_ms = serializers.FloatField(help_text="How long the check took, in milliseconds.")
    reason = serializers.ChoiceField(choices=_REASONS, allow_null=True)


class ReportSerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=["ready", "degraded", "not_ready", "draining"])
    dependencies = serializers.DictField(child=DependencySerializer())
    checked_at = serializers.DateTimeField()
