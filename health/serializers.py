"""The responses of the probes, for the API documentation."""

from rest_framework import serializers

from health.checks.failure_reasons import HINTS


class LivenessSerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=["healthy"], help_text="Always healthy: the server responds.")
    service = serializers.CharField()
    version = serializers.CharField()


class DependencySerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=["healthy", "unhealthy"], help_text="Result of the last check.")
    critical = serializers.BooleanField(help_text="Whether its failure makes the server not ready.")
    latency_ms = serializers.FloatField(help_text="Duration of the check in milliseconds.")
    reason = serializers.ChoiceField(
        choices=list(HINTS), allow_null=True, help_text="Why the check failed; null if the dependency is healthy."
    )


class ReportSerializer(serializers.Serializer):
    status = serializers.ChoiceField(
        choices=["ready", "degraded", "not_ready", "draining"],
        help_text="degraded: only optional dependencies are unhealthy. draining: the server is shutting down.",
    )
    dependencies = serializers.DictField(child=DependencySerializer(), help_text="Results by dependency.")
    checked_at = serializers.DateTimeField(help_text="When the dependencies were checked, in UTC.")
