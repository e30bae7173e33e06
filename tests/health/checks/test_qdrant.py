"""The Qdrant check and Qdrant's client reach the same server, or fail alike, whatever the URL and the environment."""

import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import trustme
from django.conf import settings

from core.clients import qdrant
from tests.support.dependency_servers import Postgres, Valkey
from tests.support.forks import exit_code_in_fork
from tests.support.plugin import API_KEY, Servers, drop_readiness_connections
from tests.support.proxy import Proxy
from tests.support.qdrant_server import FAULTS, QdrantServer
from tests.support.readiness import check

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
TRUST_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*PROXY_VARIABLES, *map(str.lower, PROXY_VARIABLES), *TRUST_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    yield
    drop_readiness_connections()
    qdrant._network_client.cache_clear()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def plain() -> Iterator[QdrantServer]:
    with QdrantServer(api_key=API_KEY) as server:
        yield server


@pytest.fixture(scope="module")
def secure(authority: trustme.CA) -> Iterator[QdrantServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with QdrantServer(api_key=API_KEY, tls=context) as server:
        yield server


def reason(url: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Return the reason of the check, after comparing its outcome with the client's."""
    monkeypatch.setattr(settings, "QDRANT_URL", url)
    drop_readiness_connections()
    qdrant._network_client.cache_clear()
    try:
        with qdrant.client() as client:
            client.get_collections()
        works = True
    except Exception:  # the client raises its own exceptions, httpx's and those of ssl
        works = False
    result = check("qdrant")
    assert result.healthy == works, result
    return result.reason


# Proxy variables


@pytest.mark.parametrize("kind", ["http", "dead", "socks"])
@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"])
def test_ignores_proxy_variables(
    name: str,
    kind: str,
    plain: QdrantServer,
    secure: QdrantServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Proxy(plain.port) as proxy:  # it would even reach the server
        port = 1 if kind == "dead" else proxy.port
        monkeypatch.setenv(name, f"{'socks5' if kind == 'socks' else 'http'}://127.0.0.1:{port}")
        assert reason(plain.url, monkeypatch) is None
        assert reason(secure.url, monkeypatch) is None
        if kind == "http":  # once for each variable, because resolvers may be slow
            assert reason(f"http://qdrant.invalid:{plain.port}", monkeypatch) == "dns_failure"
        assert proxy.accepted == 0


# Certificates


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SSL_CERT_FILE", "issuer.pem", None),
        ("SSL_CERT_FILE", "other.pem", "tls_failure"),
        ("SSL_CERT_FILE", "missing.pem", "tls_failure"),
        ("SSL_CERT_FILE", "invalid.pem", "tls_failure"),
        ("SSL_CERT_FILE", "", "tls_failure"),  # the folder
        ("SSL_CERT_DIR", "missing", "tls_failure"),
        (None, "", "tls_failure"),
    ],
)
def test_trusts_the_same_certificates(
    variable: str | None,
    value: str,
    expected: str | None,
    plain: QdrantServer,
    secure: QdrantServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "issuer.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    (tmp_path / "invalid.pem").write_text("not a certificate")
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / value))
    assert reason(plain.url, monkeypatch) is None  # without TLS no certificate matters
    assert reason(secure.url, monkeypatch) == expected
    if value in ("missing.pem", "invalid.pem"):
        detail = check("qdrant").detail
        assert detail.startswith(f"SSL_CERT_FILE cannot be loaded ({tmp_path / value})")


# URLs


@pytest.mark.parametrize(
    ("form", "prefix"),
    [
        ("http://{}", ""),
        ("http://{}/", ""),
        ("http://{}//", ""),
        ("HTTP://{}", ""),
        ("http://{}/prefix", "/prefix"),
        ("http://{}/two/parts/", "/two/parts"),
        ("http://{}//two//parts", "/two/parts"),
    ],
)
def test_requests_the_same_paths(form: str, prefix: str, plain: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.prefix = prefix
    plain.paths.clear()
    try:
        assert reason(form.format(f"127.0.0.1:{plain.port}"), monkeypatch) is None
        # The first one is the client's.
        assert plain.paths == [f"{prefix}{path}" for path in ("/collections", "/readyz", "/collections", "/")]
        assert check("qdrant").detail == f"http://127.0.0.1:{plain.port}{prefix}"
    finally:
        plain.prefix = ""


# Servers


@pytest.mark.parametrize("fault", [str(name) for name in FAULTS if name not in ("silence", "endless", "trickle")])
def test_fails_like_the_client(fault: str, plain: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirects are not followed."""
    plain.fault = fault
    try:
        assert reason(plain.url, monkeypatch) is not None
    finally:
        plain.fault = None


def test_other_kinds_of_servers(servers: Servers, secure: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[Postgres | Valkey] = [servers.postgres, servers.redis]
    for other in others:
        assert reason(f"http://127.0.0.1:{other.port}", monkeypatch) == "connection_lost"
    assert reason(f"https://127.0.0.1:{servers.qdrant.port}", monkeypatch) == "tls_failure"
    assert reason(f"http://127.0.0.1:{secure.port}", monkeypatch) in {"connection_lost", "bad_response"}


# Local mode


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the path of a folder for local mode. It does not exist yet, and every user can reach it."""
    folder = Path(tempfile.mkdtemp(prefix="va-", dir="/tmp"))  # TMPDIR may be private
    folder.chmod(0o755)
    monkeypatch.setattr(settings, "QDRANT_URL", None)
    monkeypatch.setattr(settings, "QDRANT_PATH", folder / "qdrant")
    yield folder / "qdrant"
    shutil.rmtree(folder)


def test_local_mode(folder: Path) -> None:
    result = check("qdrant")
    assert (result.reason, result.detail) == (None, f"{folder} (local mode)")
    assert (result.version, result.transport) == (version("qdrant-client"), "local")
    (folder / "meta.json").write_text('{"collections": {}}')
    assert check("qdrant").healthy
    (folder / "meta.json").write_text("{")
    assert check("qdrant").reason == "bad_response"


def test_local_mode_needs_a_writable_folder(folder: Path) -> None:
    """If the tests run as root, who may write everywhere, a child process becomes another user."""
    folder.mkdir(mode=0o555)

    def check_as_another_user() -> None:
        if os.geteuid() == 0:
            os.setuid(54321)
        result = check("qdrant")
        assert (result.reason, result.detail) == ("error", f"{folder} is not readable and writable")

    assert exit_code_in_fork(check_as_another_user) == 0
