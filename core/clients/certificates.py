"""When the certificate that a dependency presented on an open TLS connection expires."""

import ctypes
import sys
from typing import Any

from cryptography import x509
from psycopg import pq

# The module of psycopg's C implementation is linked to libpq, and libpq to OpenSSL, so the functions of both are found
# through it. The `ssl` module of Python may use another copy of OpenSSL, which can't read libpq's objects.
_library = ctypes.CDLL(sys.modules[pq.PGconn.__module__].__file__)
if hasattr(_library, "SSL_get0_peer_certificate"):
    _library.PQsslStruct.argtypes, _library.PQsslStruct.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_void_p
    _library.SSL_get0_peer_certificate.argtypes = [ctypes.c_void_p]
    _library.SSL_get0_peer_certificate.restype = ctypes.c_void_p
    _library.i2d_X509.argtypes = [ctypes.c_void_p, ctypes.c_void_p]


def of_socket(connected: Any) -> float | None:
    """Return the time (`time.time()`), or None for a connection without TLS."""
    if not hasattr(connected, "getpeercert"):
        return None
    certificate = connected.getpeercert(binary_form=True)  # the other form is empty if it was not verified
    return _expiry(certificate) if certificate else None


def of_postgresql(pgconn: pq.abc.PGconn) -> float | None:
    """Return the time, or None for a connection without TLS or with another TLS library than OpenSSL 3.

    psycopg has no function for it. libpq's manual recommends the one used here to examine the server's certificate:
    https://www.postgresql.org/docs/current/libpq-status.html#LIBPQ-PQSSLSTRUCT
    """
    if not pgconn.ssl_in_use or not hasattr(_library, "SSL_get0_peer_certificate"):
        return None
    connection = _library.PQsslStruct(pgconn.pgconn_ptr, b"OpenSSL")  # type: ignore[attr-defined]  # of the pointer
    certificate = _library.SSL_get0_peer_certificate(connection) if connection else None
    if not certificate:
        return None
    buffer = ctypes.create_string_buffer(_library.i2d_X509(certificate, None))
    _library.i2d_X509(certificate, ctypes.byref(ctypes.c_void_p(ctypes.addressof(buffer))))
    return _expiry(buffer.raw)


def _expiry(certificate: bytes) -> float:
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()
