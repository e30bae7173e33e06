"""Security headers of every response: Content-Security-Policy, Permissions-Policy, and `no-store` for the admin.

Django's SecurityMiddleware sets most of HEADERS too, but it must run after the probes, because it redirects to HTTPS.
"""

from typing import Any

from csp.constants import HEADER
from csp.middleware import CSPMiddleware
from django.http import HttpRequest, HttpResponseBase
from django.utils.cache import add_never_cache_headers, patch_vary_headers

from core.http.error_handlers import in_admin

# Other responses get a deny-all policy, in case a browser is tricked into rendering them as HTML.
_NON_HTML_CSP = "default-src 'none'; frame-ancestors 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# The worker responds to malformed requests without Django.
WORKER_HEADERS = {**HEADERS, HEADER: _NON_HTML_CSP, "Cache-Control": "no-store"}
_DENIED_FEATURES = ("camera", "display-capture", "geolocation", "microphone", "payment", "usb")
_PERMISSIONS_POLICY = ", ".join(f"{feature}=()" for feature in _DENIED_FEATURES)


class SecurityHeadersMiddleware(CSPMiddleware):
    """Adds the headers. HTML pages get the Content-Security-Policy of the settings."""

    def process_request(self, request: HttpRequest) -> None:
        """Do nothing. The base class prepares a nonce for inline scripts, which no page has."""

    def process_response(self, request: HttpRequest, response: Any) -> HttpResponseBase:
        for name, value in HEADERS.items():
            if name not in response:
                response[name] = value
        if in_admin(request):
            add_never_cache_headers(response)
            patch_vary_headers(response, ["Cookie"])
        if response.get("Content-Type", "").startswith("text/html"):
            response["Permissions-Policy"] = _PERMISSIONS_POLICY
            return super().process_response(request, response)
        response[HEADER] = _NON_HTML_CSP
        return response  # type: ignore[no-any-return]
