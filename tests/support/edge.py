"""HAProxy with the environment and the files of the Compose profile `edge`: TLS in front of one server."""

import re
import signal
from pathlib import Path
from typing import Any

import trustme
import yaml

from tests.support.haproxy import PROGRAM, ROOT, HAProxy
from tests.support.polling import succeeds_within
from tests.support.server_process import free_port

SERVICE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["edge"]
FILES = " -f /etc/haproxy/haproxy.cfg -f /etc/haproxy/edge.cfg"


class Edge(HAProxy):
    """Listens with TLS on `port`, redirects from `plain_port`, and answers health checks on `health_port`."""

    def __init__(self, folder: Path, *, target: int) -> None:
        super().__init__(folder, "haproxy.cfg")
        variables = SERVICE["environment"]
        self.environment = {name: self._local(variables[name], target) for name in ("LISTEN", "APP1", "APP2")}
        self.plain_port, self.health_port = free_port(), free_port()
        text = (ROOT / "ops" / "haproxy-edge.cfg").read_text()
        for shipped, replacement in {
            "bind :8080": f"bind 127.0.0.1:{self.plain_port}",
            "127.0.0.1:8404": f"127.0.0.1:{self.health_port}",
        }.items():
            assert shipped in text
            text = text.replace(shipped, replacement)
        self._edge_config = folder / "edge.cfg"
        self._edge_config.write_text(text)
        self.authority = trustme.CA()
        (folder / "certificate").mkdir()
        self.renew_certificate()

    def _local(self, value: str, target: int) -> str:
        value = value.replace("voiceassist-server:8000", f"127.0.0.1:{target}")
        value = value.replace("/etc/haproxy/certificate", str(self.folder / "certificate"))
        return re.sub("^:8443 ", f"127.0.0.1:{self.port} ", value)

    def renew_certificate(self) -> bytes:
        """Write a new certificate, and return it in PEM."""
        certificate = self.authority.issue_cert("localhost")
        for name, content in (
            ("tls.key", certificate.private_key_pem.bytes()),
            ("tls.crt", certificate.cert_chain_pems[0].bytes()),
        ):
            new = self.folder / "certificate" / f"{name}.new"
            new.write_bytes(content)
            new.rename(self.folder / "certificate" / name)
        return certificate.cert_chain_pems[0].bytes()

    def command(self) -> list[str]:
        assert PROGRAM
        assert SERVICE["entrypoint"][-1].endswith(FILES)
        options = SERVICE["entrypoint"][-1].removesuffix(FILES).split("exec haproxy ")[1].split()
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        for file in (self._config, self._edge_config, self._stats_config):
            options += ["-f", str(file)]
        return ["env", *variables, PROGRAM, *options]

    def reload(self) -> None:
        """Load the certificate again. The signal is repeated, because HAProxy loses one right after its start."""
        process = self._process
        assert process

        def is_reloading() -> bool:
            process.send_signal(signal.SIGUSR2)
            return b"Reloading HAProxy" in (self.folder / "log").read_bytes()

        assert succeeds_within(20, is_reloading, interval=1)
