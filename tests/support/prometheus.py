"""A real Prometheus with the configuration and rules in ops/, where each minute is shortened to a second.

Tests that need it are skipped without its programs, but not in CI.
"""

import json
import os
import re
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.dependency_servers import Server

OPS = Path(__file__).resolve().parents[2] / "ops"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")

needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL) and "CI" not in os.environ, reason="Prometheus and promtool not found"
)


class Prometheus(Server):
    """Scrapes the server and the worker on the loopback ports `target` and `worker` with the bearer token `token`.

    `alertmanager` is the port of Alertmanager, by default one on which nothing listens.
    """

    def __init__(self, folder: Path, *, target: int, worker: int, token: str, alertmanager: int = 1) -> None:
        super().__init__(folder)
        self.instance = f"127.0.0.1:{target}"
        rules = (OPS / "prometheus" / "alerts.yml").read_text()
        (folder / "alerts.yml").write_text(re.sub(r"\b(\d+)m\b", r"\1s", rules))
        (folder / "token").write_text(token)
        config = (OPS / "prometheus" / "prometheus.yml").read_text()
        for shipped, replacement in {
            "15s": "250ms",
            "voiceassist-server:8000": self.instance,
            "voiceassist-worker:8000": f"127.0.0.1:{worker}",
            "/run/secrets/METRICS_TOKEN": str(folder / "token"),
            "alertmanager:9093": f"127.0.0.1:{alertmanager}",
        }.items():
            assert shipped in config
            config = config.replace(shipped, replacement)
        self.config = folder / "prometheus.yml"
        self.config.write_text(config)

    def command(self) -> list[str]:
        assert PROMETHEUS, "Prometheus not found. Install Debian's package prometheus."
        return [PROMETHEUS, f"--config.file={self.config}", f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]  # fmt: skip

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def _api(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._api("query", query=expression)["result"]
        return result

    def firing(self) -> dict[str, dict[str, str]]:
        """Return the labels of each firing alert by the alert's name."""
        alerts = self._api("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts if alert["state"] == "firing"}
