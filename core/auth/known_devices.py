"""Recognise browsers in which an account has logged in before, so that strangers can't lock its owner out of them.

A login leaves a cookie, as OWASP's "Slow Down Online Guessing Attacks with Device Cookies" describes. Failures with a
valid cookie count against this device only, and those of all others do not count for it.

The cookie is `DEVICE.TAG.TAG…`: a random identifier, and a tag for each account, because clinicians share computers. A
tag is a keyed hash of the device, the account and its password hash, so a new password ends it. Without the key nobody
can find out which accounts a cookie belongs to.
"""

import re
import secrets
from base64 import urlsafe_b64encode
from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare, salted_hmac

from core.models import User

MAX_ACCOUNTS = 20  # of one device; the account that has not logged in for longest is forgotten
_MAX_AGE = 365 * 24 * 3600  # seconds since the last login
_COOKIE = re.compile(rf"[\w-]{{22}}(\.[\w-]{{22}}){{1,{MAX_ACCOUNTS}}}", re.ASCII)  # 16 bytes each


def device_of(request: HttpRequest, user: User | None) -> str | None:
    """Return the identifier of the device if this account has logged in on it, otherwise None.

    Takes as long for an unknown account (None) as for another.
    """
    device, *tags = _read_cookie(request)
    is_known = False
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        expected = _tag(device, user, str(key))
        is_known |= any(constant_time_compare(tag, expected) for tag in tags)
    return device if is_known and user else None


@receiver(user_logged_in)
def remember(request: Any, user: User, **kwargs: Any) -> None:
    """Let the response to this request set a cookie with which the device is known to this account."""
    device, *tags = _read_cookie(request)
    device = device or _encode(secrets.token_bytes(16))
    tag = _tag(device, user, str(settings.SECRET_KEY))
    request.device_cookie = ".".join([device, tag, *(other for other in tags if other != tag)][: 1 + MAX_ACCOUNTS])


def set_cookie(request: HttpRequest, response: HttpResponse) -> None:
    if value := getattr(request, "device_cookie", None):
        response.set_cookie(
            settings.DEVICE_COOKIE_NAME,
            value,
            max_age=_MAX_AGE,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Strict",
        )


def _read_cookie(request: HttpRequest) -> list[str]:
    """Return the device and its tags, an empty device if there is no cookie or an invalid one."""
    value = request.COOKIES.get(settings.DEVICE_COOKIE_NAME, "")
    return value.split(".") if _COOKIE.fullmatch(value) else [""]


def _tag(device: str, user: User | None, key: str) -> str:
    account = f"{user.pk} {user.password}" if user else ""
    return _encode(
        salted_hmac("voiceassist.device", f"{device} {account}", secret=key, algorithm="sha256").digest()[:16]
    )


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
