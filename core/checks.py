"""System checks for combinations of settings that are valid, but are risky or contradict each other.

`manage.py check --deploy` reports them. An invalid value of one variable stops the start instead.
"""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register


@register(Tags.security, deploy=True)
def check_https(**kwargs: Any) -> Iterator[CheckMessage]:
    if settings.BEHIND_PROXY and not settings.HTTPS_ONLY:
        yield Warning(
            "BEHIND_PROXY is true and HTTPS_ONLY is false, so passwords, cookies and PHI may be sent in plain text.",
            hint="Let the proxy terminate TLS, and set HTTPS_ONLY to true.",
            id="voiceassist.W001",
        )
    if settings.HTTPS_ONLY and not settings.BEHIND_PROXY:
        yield Warning(
            "HTTPS_ONLY is true and BEHIND_PROXY is false. Behind a proxy that terminates TLS, every page would "
            "redirect to itself, and all clients would share the proxy's address.",
            hint="Set BEHIND_PROXY to true, unless gunicorn itself terminates TLS.",
            id="voiceassist.W002",
        )
    if settings.HSTS_PRELOAD and not settings.HTTPS_ONLY:
        yield Warning(
            "HSTS_PRELOAD is true and HTTPS_ONLY is false, so no HSTS header is sent.",
            hint="Set HTTPS_ONLY to true, or unset HSTS_PRELOAD.",
            id="voiceassist.W003",
        )
    if settings.HTTPS_ONLY and any(origin.startswith("http://") for origin in settings.CSRF_TRUSTED_ORIGINS):
        yield Warning(
            "HTTPS_ONLY is true and CSRF_TRUSTED_ORIGINS contains an http:// origin, so an attacker in the network "
            "path can send requests as a user.",
            hint="Use https:// origins only.",
            id="voiceassist.W004",
        )


@register(Tags.security, deploy=True)
def check_metrics_token(**kwargs: Any) -> Iterator[CheckMessage]:
    if not settings.METRICS_TOKEN:
        yield Warning(
            "METRICS_TOKEN is not set, so any client that reaches this server can read /metrics.",
            hint="Set METRICS_TOKEN and let Prometheus send it, or refuse /metrics in a proxy.",
            id="voiceassist.W005",
        )
