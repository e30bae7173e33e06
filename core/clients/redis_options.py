"""Validate the options of REDIS_URL.

redis-py checks few values. Most wrong ones fail only at the first use of a connection, and some are misread:
`decode_responses=false` means true. So the options are listed here with the values that work.
"""

import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

_TEXT = r"(?s:.+)"
_FLAG = r"(?i:true|false|yes|no|1|0)"
_NUMBER = r"[0-9]{1,5}"
_POSITIVE = r"0*[1-9][0-9]{0,5}"
_SECONDS = r"(?=.*[1-9])([0-9]{1,4}(\.[0-9]*)?|\.[0-9]+)"
OPTIONS = {
    "client_name": r"[!-~]+",  # Redis rejects other names
    "db": _NUMBER,
    "encoding": r"(?i:utf-?8)",  # the default; keys and values of the cache depend on it
    "health_check_interval": _NUMBER,
    "max_connections": _POSITIVE,
    "password": _TEXT,
    "protocol": r"[23]",
    "retry_on_timeout": _FLAG,
    "socket_connect_timeout": _SECONDS,
    "socket_keepalive": _FLAG,
    "socket_read_size": _POSITIVE,
    "socket_timeout": _SECONDS,
    "ssl_ca_certs": _TEXT,
    "ssl_ca_data": _TEXT,
    "ssl_ca_path": _TEXT,
    "ssl_cert_reqs": r"none|optional|required",
    "ssl_certfile": _TEXT,
    "ssl_check_hostname": _FLAG,
    "ssl_ciphers": _TEXT,
    "ssl_exclude_verify_flags": _TEXT,
    "ssl_include_verify_flags": _TEXT,
    "ssl_keyfile": _TEXT,
    "ssl_min_version": r"771|772",  # TLS 1.2 and 1.3
    "ssl_password": _TEXT,
    "username": _TEXT,
    "sentinel_password": _TEXT,
    "sentinel_username": _TEXT,
}


def check_text(query: str | None) -> None:
    """Check the query of a URL. Raises ValueError, whose message continues a sentence that starts with REDIS_URL."""
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS:
            raise ValueError(f"has an unknown option. Use only: {', '.join(OPTIONS)}.")
        if value and not re.fullmatch(OPTIONS[name], value):  # redis-py ignores empty ones, which templates write
            raise ValueError(f"sets the option {name} to an invalid value. Correct or remove it.")


def check_tls(options: Mapping[str, Any]) -> None:
    """Raise an exception if OpenSSL does not accept the ciphers or the certificates. Files are not read."""
    ciphers, certificates = options.get("ssl_ciphers"), options.get("ssl_ca_data")
    if ciphers:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(ciphers)
    if certificates:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
