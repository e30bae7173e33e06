"""The Compose profile `edge` with Debian's HAProxy and a real server: HTTPS, and new certificates while it serves."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.edge import Edge
from tests.support.haproxy import needs_haproxy
from tests.support.load_clients import Clients
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import VoiceAssistServer

pytestmark = needs_haproxy
HSTS = "max-age=31536000; includeSubDomains"


@pytest.fixture(scope="module")
def app(servers: Servers) -> Iterator[VoiceAssistServer]:
    with VoiceAssistServer(HTTPS_ONLY="true", BEHIND_PROXY="true", HEALTH_OPTIONAL="migrations") as app:
        yield app


@pytest.fixture
def edge(app: VoiceAssistServer, tmp_path: Path) -> Iterator[Edge]:
    with Edge(tmp_path, target=app.port) as edge:
        edge.wait_for("servers", {"app1", "app2"})
        yield edge


def client_context(edge: Edge) -> ssl.SSLContext:
    context = ssl.create_default_context()
    edge.authority.configure_trust(context)
    return context


@contextmanager
def connected(edge: Edge, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
    plain = socket.create_connection(("127.0.0.1", edge.port), timeout=20)
    with (context or client_context(edge)).wrap_socket(plain, server_hostname="localhost") as connection:
        yield connection


def get(edge: Edge, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage]:
    with closing(
        http.client.HTTPSConnection("localhost", edge.port, context=client_context(edge), timeout=20)
    ) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers


def test_serves_https_with_hsts_and_secure_cookies(edge: Edge) -> None:
    status, headers = get(edge, "/")
    assert (status, headers["Strict-Transport-Security"]) == (200, HSTS)
    status, headers = get(edge, "/admin/login/")
    assert status == 200
    assert "Secure" in headers["Set-Cookie"]
    # These responses are HAProxy's own.
    status, headers = get(edge, "/%6Detrics")
    assert (status, headers.get_all("Strict-Transport-Security")) == (403, [HSTS])


def test_clients_cannot_forge_the_headers_that_the_server_trusts(edge: Edge, app: VoiceAssistServer) -> None:
    """Otherwise this request would be redirected to HTTPS."""
    assert get(edge, "/", **{"X-Forwarded-Proto": "http"})[0] == 200


def test_plain_http_is_redirected_with_the_method_kept(edge: Edge) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", edge.plain_port, timeout=20)) as connection:
        connection.request("POST", "/admin/login/?x=1", body=b"x", headers={"Host": "voiceassist.example.org"})
        response = connection.getresponse()
        assert response.status == 308
        assert response.headers["Location"] == "https://voiceassist.example.org/admin/login/?x=1"


def test_protocols(edge: Edge) -> None:
    context = client_context(edge)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connected(edge, context) as connection:
        assert (connection.version(), connection.selected_alpn_protocol()) == ("TLSv1.3", "h2")
    old = client_context(edge)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with connected(edge, old) as connection:
        cipher = connection.cipher()
        assert cipher
        assert cipher[0].startswith("ECDHE-")
    old.set_ciphers("AES128-SHA256")  # no forward secrecy
    with pytest.raises(ssl.SSLError), connected(edge, old):
        pass


def test_new_certificate_is_loaded_without_an_interruption(edge: Edge) -> None:
    """Requests in flight are answered, and every new connection is accepted."""
    responses: list[int] = []
    errors: list[str] = []

    def client() -> None:
        while not load._stop.is_set():
            try:
                responses.append(get(edge, "/health")[0])
            except (OSError, http.client.HTTPException) as error:
                errors.append(repr(error))

    with connected(edge) as in_flight:
        head = "POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\na"
        in_flight.sendall(head.encode())
        load = Clients(client, client)
        with load:
            new = ssl.PEM_cert_to_DER_cert(edge.renew_certificate().decode())
            edge.reload()

            def serves_the_new_one() -> bool:
                with connected(edge) as connection:
                    return connection.getpeercert(binary_form=True) == new

            assert succeeds_within(20, serves_the_new_one)
            count = len(responses)
            assert succeeds_within(60, lambda: len(responses) > count + 10)
        in_flight.sendall(b"b")
        assert in_flight.recv(12) == b"HTTP/1.1 403"  # the form has no CSRF token
    assert errors == []
    assert set(responses) == {200}


def test_invalid_new_certificate_keeps_the_old_one(edge: Edge) -> None:
    (edge.folder / "certificate" / "tls.crt").write_text("not a certificate")
    edge.reload()
    assert succeeds_within(20, lambda: b"unable to load" in (edge.folder / "log").read_bytes())
    assert get(edge, "/health")[0] == 200


def test_health_check_needs_no_server(edge: Edge) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", edge.health_port, timeout=20)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
