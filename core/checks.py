"""System checks of combinations of settings that start, but are risky or don't work together.

`manage.py check --deploy` reports them. An invalid value of one variable stops the start instead.
"""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register


@register(Tags.security, deploy=True)
def check_https(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return list(_https_warnings())


def _https_warnings() -> Iterator[CheckMessage]:
    if settings.BEHIND_PROXY and not settings.HTTPS_ONLY:
        yield Warning(
            "BEHIND_PROXY is true and HTTPS_ONLY is false: passwords, cookies and PHI may be sent in plain text.",
            hint="Let the proxy terminate TLS, and set HTTPS_ONLY to true.",
            id="voiceassist.W001",
        )
    if settings.HTTPS_ONLY and not settings.BEHIND_PROXY:
        yield Warning(
            "HTTPS_ONLY is true and BEHIND_PROXY is false: behind a proxy that terminates TLS, every page redirects to "
            "itself forever, and all clients share the proxy's address.",
            hint="Set BEHIND_PROXY to true, unless gunicorn itself terminates TLS.",
            id="voiceassist.W002",
        )
    if settings.HSTS_PRELOAD and not settings.HTTPS_ONLY:
        yield Warning(
            "HSTS_PRELOAD is true and HTTPS_ONLY is false: no HSTS header is sent, so HSTS_PRELOAD has no effect.",
            hint="Set HTTPS_ONLY to true, or unset HSTS_PRELOAD.",
            id="voiceassist.W003",
        )
    if settings.HTTPS_ONLY and any(origin.startswith("http://") for origin in settings.CSRF_TRUSTED_ORIGINS):
        yield Warning(
            "HTTPS_ONLY is true and CSRF_TRUSTED_ORIGINS contains an http:// origin: whoever controls the network can "
            "send requests in the name of a user.",
            hint="Use https:// origins only.",
            id="voiceassist.W004",
        )
