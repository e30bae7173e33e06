"""The secret of a new authenticator app, from its page until the first code.

It is in the web session, encrypted, and each time that the page is opened there is a new one. Somebody who has seen an
earlier page therefore can't compute the codes of the user.
"""

from typing import Any

import segno
from django.http import HttpRequest
from django.utils.safestring import SafeString, mark_safe

from core.auth.forms import grouped_secret
from core.models import Authenticator, User
from core.models.second_factor import encrypt, new_secret

_KEY = "new_second_factor"  # key of the web session


def secret_of_page(request: HttpRequest, user: User) -> str:
    """Return the encrypted secret: a new one for a GET, and for a POST that of the page it comes from."""
    if request.method != "POST" or _KEY not in request.session:
        request.session[_KEY] = encrypt(new_secret(), user.pk)
    return str(request.session[_KEY])


def forget_secret(request: HttpRequest) -> None:
    request.session.pop(_KEY, None)


def context(user: User, encrypted_secret: str) -> dict[str, Any]:
    """Return what the page shows: the secret as a QR code and as text."""
    device = Authenticator.new(user, encrypted_secret)
    return {"qr_code": _qr_code(device.config_url), "secret": grouped_secret(device.bin_key)}


def _qr_code(text: str) -> SafeString:
    """Return an inline SVG without style attributes and scripts, which Content-Security-Policy refuses.

    `omitsize` gives it a viewBox. Otherwise a size in the stylesheet would cut it off.
    """
    svg: str = segno.make(text, error="m").svg_inline(
        scale=5, dark="#000", light="#fff", svgclass="qr-code", lineclass=None, title="QR code", omitsize=True
    )
    return mark_safe(svg)
