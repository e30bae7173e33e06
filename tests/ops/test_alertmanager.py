"""An outage of a real server and its end reach a webhook and a mailbox, over a real Prometheus and Alertmanager."""

import base64
import email.policy
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer
from typing import Any

import pytest
import trustme
import yaml

from tests.support.alertmanager import SCRIPT, Alertmanager, MailServer, needs_alertmanager, script_environment
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.prometheus import Prometheus, needs_prometheus
from tests.support.server_process import free_port
from tests.support.voiceassist_server import VoiceAssistServer

RUNBOOK = "http://localhost:8000/admin/status/docs/RUNBOOK.md#voiceassistserverdown"
PASSWORD = 'it\'s a "secret"'
EMAIL = {
    "ALERT_EMAIL_TO": "on-call@example.org",
    "ALERT_EMAIL_FROM": "voiceassist@example.org",
    "ALERT_SMTP_SERVER": "mail.example.org:587",
}


class Webhook(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Webhook)
        self.notifications: list[dict[str, Any]] = []

    def alerts(self, status: str) -> list[dict[str, Any]]:
        alerts = [alert for notification in self.notifications for alert in notification["alerts"]]
        return [a for a in alerts if (a["status"], a["labels"]["alertname"]) == (status, "VoiceAssistServerDown")]


class _Webhook(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.notifications.append({"path": self.path, **json.loads(body)})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@contextmanager
def served(server: BaseServer) -> Iterator[None]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@needs_prometheus
@needs_alertmanager
def test_outage_and_its_end_are_notified_by_webhook_and_mail(servers: Servers, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    webhook, mail, port = Webhook(), MailServer(context), free_port()
    alertmanager = Alertmanager(
        tmp_path / "alertmanager",
        tmp_path / "authority.pem",
        **EMAIL | {"ALERT_SMTP_SERVER": f"localhost:{mail.server_address[1]}"},
        ALERT_SMTP_USERNAME="voiceassist",
        ALERT_SMTP_PASSWORD=PASSWORD,
        ALERT_WEBHOOK_URL=f"http://127.0.0.1:{webhook.server_port}/it's?token=1",
    )
    prometheus = Prometheus(
        tmp_path / "prometheus", target=port, worker=free_port(), token="", alertmanager=alertmanager.port
    )
    with ExitStack() as stack:
        for server in (webhook, mail):
            stack.enter_context(served(server))
        for process in (alertmanager, prometheus):
            stack.enter_context(process)
        assert succeeds_within(60, lambda: webhook.alerts("firing")), (alertmanager.folder / "log").read_text()
        assert succeeds_within(20, lambda: mail.mails), (alertmanager.folder / "log").read_text()
        with VoiceAssistServer(port=port, HEALTH_OPTIONAL="migrations"):
            assert succeeds_within(60, lambda: webhook.alerts("resolved"))
            assert succeeds_within(20, lambda: any("[RESOLVED]" in text for text in mail.mails)), mail.mails
    alert = webhook.alerts("firing")[0]
    assert alert["annotations"]["runbook_url"] == RUNBOOK
    assert set(alert["labels"]) == {"alertname", "instance", "job", "severity", "runbook"}
    assert webhook.notifications[0]["groupLabels"] == {"job": "voiceassist-server"}
    assert webhook.notifications[0]["path"] == "/it's?token=1"
    assert base64.b64decode(mail.logins[0]).decode().split("\0")[1:] == ["voiceassist", PASSWORD]
    message = email.message_from_string(mail.mails[0], policy=email.policy.default)
    body = message.get_body()
    assert body is not None
    assert RUNBOOK in body.get_content()
    assert message["To"] == "on-call@example.org"


def write_config(folder: Path, **values: str) -> subprocess.CompletedProcess[str]:
    """Run start.sh, with a command that prints the configuration."""
    config = folder / "alertmanager.yml"
    command = ["sh", str(SCRIPT), str(config), "cat", str(config)]
    environment = {"PATH": "/usr/bin:/bin", **script_environment(folder, **values)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@needs_alertmanager
def test_without_a_receiver_alertmanager_starts_and_says_so(tmp_path: Path) -> None:
    with Alertmanager(tmp_path, tmp_path):
        pass
    assert "No receiver is configured" in (tmp_path / "log").read_text()


def test_receivers_are_those_that_are_set(tmp_path: Path) -> None:
    done = write_config(tmp_path, ALERT_WEBHOOK_URL="https://hooks.example.org/it's")
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout)["receivers"] == [
        {"name": "on-call", "webhook_configs": [{"url": "https://hooks.example.org/it's"}]}
    ]
    (receiver,) = yaml.safe_load(write_config(tmp_path, **EMAIL).stdout)["receivers"]
    assert set(receiver) == {"name", "email_configs"}
    assert "auth_username" not in receiver["email_configs"][0]
    assert (tmp_path / "alertmanager.yml").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["ALERT_EMAIL_FROM", "ALERT_SMTP_SERVER"])
def test_incomplete_mail_receiver_stops_the_start(tmp_path: Path, name: str) -> None:
    done = write_config(tmp_path, **EMAIL | {name: ""})
    assert done.returncode == 1
    assert "Set ALERT_EMAIL_FROM and ALERT_SMTP_SERVER in .env." in done.stderr
