"""Checks report when the certificate of a dependency expires, also after it was renewed, from their own connections."""

import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from prometheus_client import REGISTRY

from health import metrics
from health.check_runner import Report
from tests.support.plugin import Servers, drop_readiness_connections
from tests.support.proxy import TlsProxy
from tests.support.readiness import RedisUrl, check

DAY = 86400
CLOCK = "health.checks.persistent_connection.time.monotonic"
METRIC = "voiceassist_dependency_certificate_expiry_timestamp_seconds"
NAMES = pytest.mark.parametrize("name", ["postgres", "redis", "qdrant"])


class Dependency:
    """A dependency of the tests behind TLS, with certificates of one authority."""

    def __init__(self, name: str, servers: Servers) -> None:
        self.name = name
        self._authority, self._context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server = getattr(servers, name)
        self.proxy = TlsProxy(self._server.port, self._context, postgres=name == "postgres")

    def present_certificate(self, days: float) -> None:
        """Present a certificate that expires in `days` on new connections."""
        expiry = datetime.now(UTC) + timedelta(days=days)
        certificate = self._authority.issue_cert("127.0.0.1", not_before=datetime(2020, 1, 1), not_after=expiry)
        certificate.configure_cert(self._context)

    def configure(
        self, folder: Path, use_url: RedisUrl, monkeypatch: pytest.MonkeyPatch, *, verify: bool = True
    ) -> None:
        """Make the application use this dependency."""
        file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(file))
        if self.name == "postgres":
            database = connections.settings["default"]
            # With an empty `sslrootcert`, `require` does not verify.
            options = {"sslmode": "verify-full" if verify else "require", "sslrootcert": str(file) if verify else ""}
            monkeypatch.setitem(database, "PORT", str(self.proxy.port))
            monkeypatch.setitem(database, "OPTIONS", {**database["OPTIONS"], **options})
        elif self.name == "redis":
            url = self._server.url.replace("redis:", "rediss:").replace(f":{self._server.port}", f":{self.proxy.port}")
            use_url(f"{url}?ssl_ca_certs={file}" if verify else f"{url}?ssl_cert_reqs=none&ssl_check_hostname=false")
        else:
            monkeypatch.setenv("SSL_CERT_FILE", str(file))
            monkeypatch.setattr(settings, "QDRANT_URL", f"https://127.0.0.1:{self.proxy.port}")
        drop_readiness_connections()


@pytest.fixture
def dependency(
    name: str, servers: Servers, tmp_path: Path, use_url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Dependency]:
    dependency = Dependency(name, servers)
    dependency.present_certificate(days=9.5)
    dependency.configure(tmp_path, use_url, monkeypatch)
    with dependency.proxy:
        yield dependency
        drop_readiness_connections()


def days_left(name: str) -> float | None:
    result = check(name)
    assert result.healthy, result
    expires_at = result.certificate_expires_at
    return None if expires_at is None else (expires_at - time.time()) / DAY


@NAMES
def test_result_and_metric_have_the_expiry(dependency: Dependency, name: str) -> None:
    assert days_left(name) == pytest.approx(9.5, abs=0.01)
    result = check(name)
    metrics.measure(Report((result,), datetime.now(UTC), 0.0))
    assert REGISTRY.get_sample_value(METRIC, {"dependency": name}) == result.certificate_expires_at


@NAMES
def test_renewed_certificate_is_seen_when_the_connection_is_renewed(
    dependency: Dependency, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert days_left(name) == pytest.approx(9.5, abs=0.01)
    dependency.present_certificate(days=90)
    assert days_left(name) == pytest.approx(9.5, abs=0.01)  # the open connection
    monkeypatch.setattr(CLOCK, lambda now=time.monotonic: now() + 3601)
    assert days_left(name) == pytest.approx(90, abs=0.01)
    assert dependency.proxy.tls_connections == 2
    assert days_left(name) == pytest.approx(90, abs=0.01)
    assert dependency.proxy.tls_connections == 2


@NAMES
def test_open_connection_is_kept_if_it_cannot_be_renewed(
    dependency: Dependency, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an expired certificate, or the loss of all Sentinels, would end a server that works."""
    assert days_left(name) == pytest.approx(9.5, abs=0.01)
    dependency.present_certificate(days=-1)
    monkeypatch.setattr(CLOCK, lambda now=time.monotonic: now() + 3601)
    for _ in range(2):
        assert days_left(name) == pytest.approx(9.5, abs=0.01)
    drop_readiness_connections()
    assert check(name).reason == "tls_failure"


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_expiry_of_an_unverified_certificate(
    dependency: Dependency, name: str, tmp_path: Path, use_url: RedisUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    dependency.present_certificate(days=-1)
    dependency.configure(tmp_path, use_url, monkeypatch, verify=False)
    assert days_left(name) == pytest.approx(-1, abs=0.01)


@NAMES
def test_connection_without_tls_has_no_expiry(name: str) -> None:
    assert days_left(name) is None


@NAMES
def test_checkdeps_shows_the_days(dependency: Dependency, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("checkdeps", only=[name])
    assert "certificate expires in 9 days" in capsys.readouterr().out
    dependency.present_certificate(days=1.5)
    drop_readiness_connections()
    call_command("checkdeps", only=[name])
    assert "certificate expires in 1 day\n" in capsys.readouterr().out
