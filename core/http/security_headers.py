"""What browsers are told of our answers: what a page may load and do, and to keep none of the admin's."""

from typing import Any

from csp.constants import HEADER
from csp.middleware import CSPMiddleware
from django.http import HttpRequest, HttpResponseBase
from django.utils.cache import add_never_cache_headers, patch_vary_headers

from core.api.exceptions import in_admin

# What isn't a page loads nothing, if a browser is made to take it for one.
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
_NOT_USED = ("camera", "display-capture", "geolocation", "microphone", "payment", "usb")
_PERMISSIONS = ", ".join(f"{feature}=()" for feature in _NOT_USED)


class SecurityHeadersMiddleware(CSPMiddleware):
    """Adds Content-Security-Policy, which pages have from the settings, Permissions-Policy, the admin's `no-store`."""

    def process_response(self, request: HttpRequest, response: Any) -> HttpResponseBase:
        if in_admin(request):
            add_never_cache_headers(response)
            patch_vary_headers(response, ["Cookie"])
        if response.get("Content-Type", "").startswith("text/html"):
            response["Permissions-Policy"] = _PERMISSIONS
            return super().process_response(request, response)
        response[HEADER] = _NO_PAGE
        return response  # type: ignore[no-any-return]
