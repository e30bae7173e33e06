"""Keep search terms out of URLs, because they may be emails and names.

A search is a POST that redirects to `?q=~TOKEN`. Links of the list repeat the token, which is useless in a proxy's log
or after the logout, because the term is in the web session. A term that is an id stays readable, so that its URL can be
shared.

Redis and the table of web sessions contain the term encrypted. The key is derived from the token, which only the URL
contains and which encrypts only this term.
"""

import secrets
from base64 import b64decode, b64encode
from hashlib import sha256
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.contrib import messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import SEARCH_VAR
from django.http import HttpRequest

from core.admin.filters import NEWER_THAN, OLDER_THAN

MAX_LENGTH = 255  # characters; every column that can be searched is shorter
_SESSION_KEY = "searches"  # of the web session: {digest of the token: encrypted term}
_MAX_SEARCHES = 20  # of one login; the next one replaces the oldest
_PREFIX = "~"
_NONCE = bytes(12)  # constant, because each key encrypts one text only


def redirect_url(request: HttpRequest) -> str | None:
    """Return the URL of a submitted search, or None if the request is not one.

    A term in the URL was typed there, or comes from a bookmark or a page of an earlier version.
    """
    is_submitted = SEARCH_VAR in request.POST
    term = (request.POST if is_submitted else request.GET).get(SEARCH_VAR, "").strip()
    if not is_submitted and (not term or term.startswith(_PREFIX) or parse_uuid(term)):
        return None
    parameters = request.GET.copy()
    for name in (SEARCH_VAR, OLDER_THAN, NEWER_THAN):
        parameters.pop(name, None)
    if term:
        parameters[SEARCH_VAR] = term if parse_uuid(term) else _store(request, term)
    return f"{request.path}?{parameters.urlencode()}"


def read(request: HttpRequest, query: str) -> str:
    """Return the term of the parameter `q`. Raise IncorrectLookupParameters if it was searched in another login."""
    if not query.startswith(_PREFIX):
        return query
    stored = request.session.get(_SESSION_KEY, {}).get(_digest(query))
    if stored is None:
        messages.warning(request, "The search has expired. Search again.")
        raise IncorrectLookupParameters
    return _cipher(query).decrypt(_NONCE, b64decode(stored), None).decode()


def _store(request: HttpRequest, term: str) -> str:
    """Store the term in the web session and return its token."""
    token = _PREFIX + secrets.token_urlsafe(16)
    text = term[:MAX_LENGTH].replace("\0", "\ufffd").encode()  # PostgreSQL refuses NUL
    earlier = list(request.session.get(_SESSION_KEY, {}).items())[1 - _MAX_SEARCHES :]
    encrypted = b64encode(_cipher(token).encrypt(_NONCE, text, None)).decode()
    request.session[_SESSION_KEY] = {**dict(earlier), _digest(token): encrypted}
    return token


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def _cipher(token: str) -> AESGCM:
    """Return the cipher of a token. Its key differs from `_digest`, which is stored."""
    return AESGCM(sha256(f"{__name__} {token}".encode()).digest())


def parse_uuid(term: str) -> UUID | None:
    try:
        return UUID(term)
    except ValueError:
        return None
