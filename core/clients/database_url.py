"""Parse DATABASE_URL: any URL that libpq accepts, with any option that it has.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_FORM = "Use postgres://user:password@host:5432/name"
# Maximum values. libpq reads these numbers only while it connects over TCP; Linux rejects larger values, so that every
# connection would fail.
_INTEGERS = {
    "connect_timeout": 3600,
    "keepalives": 1,
    "keepalives_idle": 32_767,
    "keepalives_interval": 32_767,
    "keepalives_count": 127,
    "tcp_user_timeout": 2**31 - 1,
}
# No folder can exist below a file, so nothing can listen there.
_NO_SERVER = {"host": "/dev/null/no-server", "hostaddr": "", "port": "", "user": "x", "password": "x", "dbname": "x"}


def parse(url: str, password: str | None = None) -> dict[str, Any]:
    """Return Django's database settings, without ENGINE. The password is used if the URL has none.

    Raises ValueError. Its message quotes no part of the URL except names of libpq's options.
    """
    if not url.startswith(("postgres://", "postgresql://")):
        raise ValueError("Invalid URL. Use one that starts with postgres:// or postgresql://.")
    try:
        options = conninfo_to_dict(url)
    except (psycopg.ProgrammingError, UnicodeDecodeError):  # their messages quote the URL
        raise ValueError(
            f"Invalid URL or unknown option. {_FORM}, with special characters escaped as %XX and only options that "
            "libpq has."
        ) from None
    if not options.get("dbname"):
        raise ValueError(f"The database name is missing. {_FORM}.")
    if password:
        options.setdefault("password", password)
    _check_servers(options)
    _check_options(options)
    parts = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    config: dict[str, Any] = {key: str(options.pop(option, "")) for key, option in parts.items()}
    return config | {"OPTIONS": options}


def _check_servers(options: Mapping[str, Any]) -> None:
    hosts, addresses, ports = (str(options.get(key, "")).split(",") for key in ("host", "hostaddr", "port"))
    count = max(len(hosts), len(addresses))
    if len(ports) not in (1, count):
        raise ValueError(f"The URL has {count} hosts and {len(ports)} ports. Give each host one port.")
    if hosts != [""] and addresses != [""] and len(hosts) != len(addresses):
        raise ValueError(
            f"The URL has {len(hosts)} hosts and {len(addresses)} in hostaddr. Give each host one address."
        )
    if not all(re.fullmatch("|[0-9]{1,5}", port) and 0 < int(port or 1) < 65536 for port in ports):
        raise ValueError("Invalid port. Use a number from 1 to 65535.")
    if not all(re.fullmatch(r"[\w.:%-]*|[/@].*", host) for host in hosts):
        raise ValueError("Invalid host. Use names or addresses, or a socket folder in the form %2Frun%2Fpostgresql.")
    try:
        for address in filter(None, addresses):
            ip_address(address)
    except ValueError:
        raise ValueError("Invalid hostaddr. Use IP addresses, without brackets.") from None


def _check_options(options: Mapping[str, Any]) -> None:
    for name, limit in _INTEGERS.items():
        if not re.fullmatch("[0-9]{1,10}", str(options.get(name, 0))) or int(options.get(name, 0)) > limit:
            raise ValueError(f"Invalid {name}. Use a whole number of at most {limit}.")
    if re.sub("[^a-z0-9]", "", str(options.get("client_encoding", "utf8")).lower()) not in ("utf8", "unicode"):
        raise ValueError("client_encoding must be UTF8, which Django sets. Remove it.")
    if "replication" in options:
        raise ValueError("A replication connection can't run queries. Remove replication.")
    if _accepts(options):
        return
    options = {name: value for name, value in options.items() if name not in _NO_SERVER}
    names = [name for name in options if not _accepts({name: options[name]})]
    # If each value is valid but some contradict each other, leaving one of these out is enough.
    names = names or [name for name in options if _accepts({key: options[key] for key in options if key != name})]
    cause = " and ".join(names) if _accepts({}) else "a PG* environment variable"
    raise ValueError(f"libpq does not accept the value of {cause}. Correct or remove it.")


def _accepts(options: Mapping[str, Any]) -> bool:
    """Return whether libpq accepts the values of the options.

    libpq checks them before it opens a socket, so the function starts to connect to a server that can't exist. That
    resolves no name and does not block.
    """
    tried = {**options, **_NO_SERVER}
    if tried.get("gssencmode") == "require":  # valid, but not for a socket
        del tried["gssencmode"]
    connection = pq.PGconn.connect_start(make_conninfo("", **tried).encode())
    try:
        return _NO_SERVER["host"].encode() in connection.error_message  # the attempt was made
    finally:
        connection.finish()
