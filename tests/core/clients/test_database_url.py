"""DATABASE_URL: every form and option of libpq works, and others are rejected at the start, without their values."""

import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.db import OperationalError
from django.db.utils import ConnectionHandler
from psycopg import pq

from core.clients import database_url
from tests.support.load_settings import PRODUCTION, load_settings
from tests.support.plugin import Servers
from tests.support.polling import ends_within
from tests.support.proxy import relay

SECRET = "not-to-be-shown"

# A value of each option for a server without TLS, GSSAPI and OAuth. With sslmode=disable libpq ignores the files.
OPTIONS = {
    "application_name": "x y",
    "channel_binding": "prefer",
    "client_encoding": "utf-8",
    "connect_timeout": "4",
    "fallback_application_name": "x",
    "gssdelegation": "0",
    "gssencmode": "disable",
    "gsslib": "gssapi",
    "keepalives": "0",
    "keepalives_count": "127",
    "keepalives_idle": "32767",
    "keepalives_interval": "32767",
    "krbsrvname": "postgres",
    "load_balance_hosts": "random",
    "max_protocol_version": "3.2",
    "min_protocol_version": "3.0",
    "oauth_client_id": "x",
    "oauth_client_secret": "x",
    "oauth_issuer": "https://example.org",
    "oauth_scope": "x",
    "options": "-c search_path=public",
    "passfile": "/nowhere",
    "requirepeer": "",
    "require_auth": "scram-sha-256",
    "ssl_max_protocol_version": "TLSv1.3",
    "ssl_min_protocol_version": "TLSv1.2",
    "sslcert": "/nowhere",
    "sslcertmode": "allow",
    "sslcompression": "0",
    "sslcrl": "/nowhere",
    "sslcrldir": "/nowhere",
    "sslkey": "/nowhere",
    "sslkeylogfile": "/nowhere",
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "sslpassword": "x",
    "sslrootcert": "/nowhere",
    "sslsni": "0",
    "target_session_attrs": "read-write",
    "tcp_user_timeout": "2147483647",
}
NOT_TESTED = {
    *("host", "hostaddr", "port", "dbname", "user", "password"),  # part of every URL
    *("scram_client_key", "scram_server_key"),  # replace the password
    "service",  # needs a file
    "replication",  # rejected
}


def test_table_has_every_option_of_libpq() -> None:
    assert OPTIONS.keys() | NOT_TESTED == {option.keyword.decode() for option in pq.Conninfo.get_defaults()}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.django_db
def test_requests_and_readiness_connect_with_each_option(name: str, servers: Servers) -> None:
    url = f"{servers.postgres.url}?{name}={quote(OPTIONS[name])}"
    database: Any = ConnectionHandler(load_settings({**PRODUCTION, "DATABASE_URL": url})["DATABASES"])["default"]
    passed_on = str(database.get_connection_params()[name])
    assert OPTIONS[name] in passed_on or (name, passed_on) == ("client_encoding", "UTF8")  # Django sets it
    with database.cursor() as cursor:
        cursor.execute("SHOW client_encoding")
        assert cursor.fetchone() == ("UTF8",)
    database.close()
    probe = database.open_probe(5)
    probe.check_writable(5)
    probe.close()


@pytest.mark.parametrize(
    "form", ["postgres://{login}@{folder}:5433/tests", "postgres://{login}@:5433/tests?host={folder}"]
)
@pytest.mark.django_db
def test_connects_through_a_socket_folder(form: str, servers: Servers, tmp_path: Path) -> None:
    folder, login = tmp_path / "a folder", servers.postgres.url.removeprefix("postgres://").partition("@")[0]
    folder.mkdir()
    url = form.format(login=login, folder=quote(str(folder), safe=""))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / ".s.PGSQL.5433"))
        listener.listen()
        thread = threading.Thread(target=_relay_one_client, args=(listener, servers.postgres.port), daemon=True)
        thread.start()
        database = ConnectionHandler(load_settings({**PRODUCTION, "DATABASE_URL": url})["DATABASES"])["default"]
        with database.cursor() as cursor:
            cursor.execute("SELECT 1")
        database.close()
        thread.join(10)


def _relay_one_client(listener: socket.socket, port: int) -> None:
    client, _ = listener.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        relay(client, server)


@pytest.mark.django_db
def test_unreachable_socket_folder_is_an_outage(servers: Servers) -> None:
    for url in ("postgres://%2Fno%2Ffolder/name", "postgres://user@/name?host=/no/folder"):
        database = ConnectionHandler(load_settings({**PRODUCTION, "DATABASE_URL": url})["DATABASES"])["default"]
        with pytest.raises(OperationalError):
            database.cursor()


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgres://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write", "h1,h2", "5432,5433"),
        ("postgresql://u:p@h1,h2:5433/db", "h1,h2", ",5433"),
        ("postgres://u:p@[::1]:5432,h2/db", "::1,h2", "5432,"),
        ("postgres:///db?host=h1,h2&port=5431,5432&user=u&password=p", "h1,h2", "5431,5432"),
        ("postgres://u:p@/db?hostaddr=10.0.0.1,10.0.0.2&port=1,2", "", "1,2"),
        ("postgres://u:p@h1,h2/db?hostaddr=10.0.0.1,2001:db8::1", "h1,h2", ","),
        ("postgres://u:p@/db?host=/var/run/pg", "/var/run/pg", ""),
        ("postgres://u:p@%2Fvar%2Frun%2Fpg/db", "/var/run/pg", ""),
        ("postgres://u:p@%2Fvar%2Frun%2Fpg:5433/db", "/var/run/pg", "5433"),
        ("postgres://u:p@%2Fa%20folder/db", "/a folder", ""),
        ("postgres://u:p@h/db?gssencmode=require", "h", ""),
    ],
)
def test_accepts_every_form_that_libpq_documents(url: str, host: str, port: str) -> None:
    parsed = database_url.parse(url)
    assert [parsed[key] for key in ("USER", "PASSWORD", "HOST", "PORT", "NAME")] == ["u", "p", host, port, "db"]


def test_decodes_all_parts() -> None:
    parsed = database_url.parse("postgres://us%40er:p%23w@db.example.org:6543/na%20me?sslmode=require")
    assert parsed == {
        "NAME": "na me", "USER": "us@er", "PASSWORD": "p#w", "HOST": "db.example.org", "PORT": "6543",
        "OPTIONS": {"sslmode": "require"},
    }  # fmt: skip


def test_option_ssl_of_other_drivers_means_what_libpq_makes_of_it() -> None:
    assert database_url.parse("postgres://h/db?ssl=true")["OPTIONS"] == {"sslmode": "require"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{}", "starts with postgres://"),
        ("mysql://u:{}@h/db", "starts with postgres://"),
        ("POSTGRES://u:{}@h/db", "starts with postgres://"),
        ("postgres://u:{}@h", "database name is missing"),
        ("postgres://u:{}@h/", "database name is missing"),
        ("postgres://u:{}%ZZ@h/db", "Invalid URL"),
        ("postgres://u:{}%00@h/db", "Invalid URL"),
        ("postgres://u:{}%FF@h/db", "Invalid URL"),
        ("postgres://u:{}@h/db#fragment?x", "Invalid URL"),
        ("postgres://u:{}@[::1/db", "Invalid URL"),
        ("postgres://u:{}@h:5432:5433/db", "Invalid port"),
        ("postgres://u:{}@h:port/db", "Invalid port"),
        ("postgres://u:{}@h:0/db", "Invalid port"),
        ("postgres://u:{}@h:70000/db", "Invalid port"),
        ("postgres://u:{}@h1:5432,h2:70000/db", "Invalid port"),
        ("postgres://u:{}@h:-1/db", "Invalid port"),
        ("postgres://u:{}@h:" + "9" * 5000 + "/db", "Invalid port"),
        ("postgres://u:{}@h1:1,h2:2,h3:3/db?port=1,2", "3 hosts and 2 ports"),
        ("postgres://u:{}@h/db?hostaddr=10.0.0.1,10.0.0.2", "1 hosts and 2 in hostaddr"),
        ("postgres://u:{}@h/db?hostaddr={}", "Invalid hostaddr"),
        ("postgres://u:{}@h/db?hostaddr=[::1]", "Invalid hostaddr"),
        ("postgres://u:{}@h1 h2/db", "Invalid URL"),
        ("postgres://u:{}@h1%20h2/db", "Invalid host"),
        ("postgres://u:{}@h1;h2/db", "Invalid host"),
        ("postgres://u:{}@h1, h2/db", "Invalid URL"),
        ("postgres://u:{}@h/db?{}=1", "unknown option"),
        ("postgres://u:{}@h/db?pgbouncer=true", "unknown option"),
        ("postgres://u:{}@h/db?schema={}", "unknown option"),
        ("postgres://u:{}@h/db?pool=true", "unknown option"),
        ("postgres://u:{}@h/db?conn_max_age=0", "unknown option"),
        ("postgres://u:{}@h/db?atomic_requests=false", "unknown option"),
        ("postgres://u:{}@h/db?server_side_binding=true", "unknown option"),
        ("postgres://u:{}@h/db?ssl=false", "unknown option"),
        ("postgres://u:{}@h/db?connect_timeout=", "connect_timeout"),
        ("postgres://u:{}@h/db?connect_timeout={}", "connect_timeout"),
        ("postgres://u:{}@h/db?connect_timeout=-5", "connect_timeout"),
        ("postgres://u:{}@h/db?connect_timeout=3601", "connect_timeout"),
        ("postgres://u:{}@h/db?keepalives={}", "keepalives"),
        ("postgres://u:{}@h/db?keepalives_idle={}", "keepalives_idle"),
        ("postgres://u:{}@h/db?keepalives_idle=32768", "keepalives_idle"),
        ("postgres://u:{}@h/db?keepalives_interval=32768", "keepalives_interval"),
        ("postgres://u:{}@h/db?keepalives_count=128", "keepalives_count"),
        ("postgres://u:{}@h/db?tcp_user_timeout=1.5", "tcp_user_timeout"),
        ("postgres://u:{}@h/db?tcp_user_timeout=2147483648", "tcp_user_timeout"),
        ("postgres://u:{}@h/db?channel_binding={}", "the value of channel_binding."),
        ("postgres://u:{}@h/db?gssencmode={}", "the value of gssencmode."),
        ("postgres://u:{}@h/db?load_balance_hosts={}", "the value of load_balance_hosts."),
        ("postgres://u:{}@h/db?min_protocol_version={}", "the value of min_protocol_version."),
        ("postgres://u:{}@h/db?max_protocol_version={}", "the value of max_protocol_version."),
        ("postgres://u:{}@h/db?require_auth={}", "the value of require_auth."),
        ("postgres://u:{}@h/db?scram_client_key={}", "the value of scram_client_key."),
        ("postgres://u:{}@h/db?service={}", "the value of service."),
        ("postgres://u:{}@h/db?sslcertmode={}", "the value of sslcertmode."),
        ("postgres://u:{}@h/db?sslmode={}", "the value of sslmode."),
        ("postgres://u:{}@h/db?sslmode=", "the value of sslmode."),
        ("postgres://u:{}@h/db?sslnegotiation=direct", "the value of sslnegotiation."),
        ("postgres://u:{}@h/db?ssl_min_protocol_version={}", "the value of ssl_min_protocol_version."),
        ("postgres://u:{}@h/db?target_session_attrs={}", "the value of target_session_attrs."),
        ("postgres://u:{}@h/db?sslrootcert=system&sslmode=require", "the value of sslmode and sslrootcert."),
        ("postgres://u:{}@h/db?sslmode={}&gssencmode={}", "the value of sslmode and gssencmode."),
        ("postgres://u:{}@h/db?client_encoding=latin1", "client_encoding"),
        ("postgres://u:{}@h/db?replication=database", "replication"),
    ],
)
def test_error_names_the_problem_and_quotes_no_value(url: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        database_url.parse(url.replace("{}", SECRET))
    assert message in str(raised.value)
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_invalid_variable_of_libpq_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", SECRET)
    with pytest.raises(ValueError, match=r"libpq does not accept the value of a PG\* environment variable\."):
        database_url.parse("postgres://h/db")


def test_validation_resolves_no_name_and_does_not_connect(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the host of the URL nor that of the environment is used. An unresponsive address would take seconds."""
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    with ends_within(0):
        for _ in range(20):
            database_url.parse("postgres://name.invalid/db?hostaddr=192.0.2.1&sslmode=require")
