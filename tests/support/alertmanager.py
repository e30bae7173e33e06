"""A real Alertmanager with the configuration that ops/alertmanager/start.sh writes, and a mail server for it."""

import os
import shutil
import socketserver
import ssl
import urllib.request
from pathlib import Path

import pytest

from tests.support.prometheus import OPS
from tests.support.server_process import Server

PROGRAM = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
needs_alertmanager = pytest.mark.skipif(PROGRAM is None and "CI" not in os.environ, reason="Alertmanager not found")
SCRIPT = OPS / "alertmanager" / "start.sh"
VARIABLES = ("ALERT_EMAIL_TO", "ALERT_EMAIL_FROM", "ALERT_SMTP_SERVER", "ALERT_SMTP_USERNAME")


def script_environment(folder: Path, **values: str) -> dict[str, str]:
    """Return the variables that docker-compose.yml passes, with these values. Writes the files of secrets."""
    files = {}
    for name in ("ALERT_WEBHOOK_URL", "ALERT_SMTP_PASSWORD"):
        (folder / name).write_text(f"{values.pop(name, '')}\n")
        files[f"{name}_FILE"] = str(folder / name)
    return {**dict.fromkeys(VARIABLES, ""), **files, **values}


class Alertmanager(Server):
    """Notifies after a second instead of half a minute. `values` are variables and secrets of docker-compose.yml."""

    def __init__(self, folder: Path, authority: Path, **values: str) -> None:
        super().__init__(folder)
        self._environment = script_environment(folder, **values) | {"SSL_CERT_FILE": str(authority)}

    def command(self) -> list[str]:
        assert PROGRAM, "Alertmanager not found. Install Debian's package prometheus-alertmanager."
        config = self.folder / "alertmanager.yml"
        faster = f"sed -i 's/group_by/group_wait: 1s, group_interval: 1s, group_by/' {config} && exec \"$@\""
        return ["env", *(f"{name}={value}" for name, value in self._environment.items()),
                "sh", str(SCRIPT), str(config), "sh", "-c", faster, "--",
                PROGRAM, f"--config.file={config}", f"--storage.path={self.folder / 'data'}",
                "--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{self.port}"]  # fmt: skip

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5):
                return True
        except OSError:
            return False


class MailServer(socketserver.ThreadingTCPServer):
    """Accepts mail over STARTTLS, after a login. Only as much of SMTP as one client needs."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.context = context
        self.logins: list[str] = []
        self.mails: list[str] = []


class _Smtp(socketserver.BaseRequestHandler):
    server: MailServer

    def handle(self) -> None:
        file = self.request.makefile("rwb")
        is_encrypted = False

        def reply(text: str) -> None:
            file.write(f"{text}\r\n".encode())
            file.flush()

        reply("220 localhost")
        while line := file.readline().decode().strip():
            command = line.split()[0].upper()
            if command == "EHLO":
                reply("250-localhost\r\n250 AUTH PLAIN" if is_encrypted else "250-localhost\r\n250 STARTTLS")
            elif command == "STARTTLS":
                reply("220 ready")
                self.request = self.server.context.wrap_socket(self.request, server_side=True)
                file, is_encrypted = self.request.makefile("rwb"), True
            elif command == "AUTH":
                self.server.logins.append(line.split()[-1])
                reply("235 accepted")
            elif command == "DATA":
                reply("354 go on")
                self.server.mails.append(b"".join(iter(file.readline, b".\r\n")).decode())
                reply("250 accepted")
            elif command == "QUIT":
                reply("221 bye")
                break
            else:
                reply("250 accepted")
        file.close()
        self.request.close()
