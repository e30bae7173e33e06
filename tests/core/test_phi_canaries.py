"""Sensitive values never leak into logs, metrics, files, process titles or error responses, even if everything fails.

The scenario stores a unique canary string in each column that the models declare as PHI, PERSONAL or SECRET, and sends
one in every part of a request. Then it makes everything fail that can: in a server that runs as in production but logs
at DEBUG, in commands, and in PostgreSQL, which logs as docker-compose.yml configures it, but to all destinations. The
tests search all output for canaries.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pyrage
import pytest
import yaml
from django.apps import apps
from django.contrib.auth.hashers import make_password
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models

from core import phi
from core.models import AuditEvent, Authenticator, Export, ExportChunk, Job, Message, RecoveryCodes, Session, User
from tests.support.dependency_servers import Postgres, as_owner
from tests.support.forked_python import ForkedPython
from tests.support.plugin import Servers
from tests.support.polling import succeeds_within
from tests.support.reveal import REASON
from tests.support.second_factor import CONTINUE, code_of, secret_of
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

PASSWORD = "the admin's password"
INPUT = "canary-input"  # prefix of the canaries in requests
LEAKS = ("PHI", "PERSONAL", "SECRET")


def canaries(kind: str, set_number: int, model: type[models.Model]) -> dict[str, Any]:
    """Return a canary for each column of this kind. Fail for a type of field that this function doesn't know."""
    values: dict[str, Any] = {}
    for name in phi.columns(model, kind):
        word = f"canary-{kind}-{model._meta.db_table}-{name}-{set_number}".lower()
        field = model._meta.get_field(name)
        if isinstance(field, models.EmailField):
            values[name] = f"{word}@example.org"
        else:
            values[name] = {word: [word]} if isinstance(field, models.JSONField) else word
            if isinstance(field, ArrayField):
                values[name] = [word]
            assert isinstance(field, models.JSONField | models.CharField | models.TextField | ArrayField), field
    return values


def find_canaries(text: str, *kinds: str) -> set[str]:
    return set(re.findall(rf"canary-(?:{'|'.join(kinds)})[a-z0-9_-]*", text, re.IGNORECASE))


class Scenario:
    """A server with its own database, and their output by channel."""

    app: VoiceAssistServer

    def __init__(self, folder: Path, servers: Servers) -> None:
        compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        options = [word for word in compose["services"]["postgres"]["command"] if word.startswith("log_")]
        # An operator may enable these to find slow or blocked statements, and log shippers read csvlog or jsonlog.
        diagnostics = [
            "logging_collector=on",
            "log_destination=stderr,csvlog,jsonlog",
            "log_statement=all",
            "log_min_duration_statement=0",
            "log_lock_waits=on",
            "deadlock_timeout=50ms",
        ]
        self.postgres = Postgres(folder / "postgres", options=[*options, *diagnostics])
        self.postgres.start()
        self.environment = {
            "VOICEASSIST_ENV": "production",
            "SECRET_KEY": "only-for-these-tests-" * 3,
            "ALLOWED_HOSTS": "127.0.0.1",
            "HTTPS_ONLY": "false",  # as in docker-compose.yml, which has no certificate
            "DATABASE_URL": self.postgres.application_url,
            "LOG_LEVEL": "DEBUG",
            "WEB_CONCURRENCY": "1",
            "TMPDIR": str(folder),
        }
        self.folder, self.redis = folder, servers.redis
        self.output: defaultdict[str, str] = defaultdict(str)
        self.responses: list[httpx.Response] = []
        self.clients = contextlib.ExitStack()

    def command(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return ForkedPython(
            ["manage.py", *arguments], env={**os.environ, **self.environment, **environment}, cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def wait_for_exit(self, *processes: "subprocess.Popen[str]", code: int) -> None:
        for process in processes:
            output, _ = process.communicate(timeout=60)
            self.output["commands"] += output
            assert process.returncode == code, output

    def connect(self) -> psycopg.Connection:
        """Connect without statement logging, because the test's own statements contain canaries."""
        no_logging = "-c log_statement=none -c log_min_duration_statement=-1"
        return psycopg.connect(self.postgres.url, autocommit=True, options=no_logging, application_name="test")

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        with self.connect() as session:
            cursor = session.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def plant(self, number: int) -> dict[str, models.Model]:
        """Store a user with a second factor, a session and a message with a canary in each sensitive column."""

        def insert(model: type[models.Model], **values: Any) -> models.Model:
            values |= {name: value for kind in LEAKS for name, value in canaries(kind, number, model).items()}
            row = model(**values)
            self.insert(row)
            return row

        user = insert(User, is_staff=True)
        insert(Authenticator, id=1000 + number, user=user, name="app")
        insert(RecoveryCodes, user=user)
        session = insert(Session, user=user, message_count=1)
        return {"user": user, "session": session, "message": insert(Message, session=session, role="user")}

    def insert(self, row: models.Model) -> None:
        fields = phi.stored_fields(type(row))
        values = [field.get_db_prep_save(field.pre_save(row, True), connection) for field in fields]
        columns = ", ".join(str(field.column) for field in fields)
        marks = ", ".join(["%s"] * len(fields))
        self.sql(f"INSERT INTO {row._meta.db_table} ({columns}) VALUES ({marks})", *values)

    def capture_activity(self) -> None:
        """Capture the running statements and the titles of processes."""
        self.output["statements"] += str(
            self.sql("SELECT query FROM pg_stat_activity WHERE application_name <> 'test'")
        )
        parents = (self.app.process.pid, self.postgres._process.pid if self.postgres._process else 0)
        for process in [p for pid in parents for p in psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.output["process titles"] += " ".join(process.cmdline()) + "\n"

    def wait_for_blocked_process(self) -> int:
        """Wait until a PostgreSQL process waits for a lock, and return its pid."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if rows := self.sql("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                time.sleep(0.2)  # longer than deadlock_timeout, so that it has logged the wait
                self.capture_activity()
                return int(rows[0][0])
            time.sleep(0.05)
        raise AssertionError("no process waits for a lock")


class Client(httpx.Client):
    """An HTTP client that records each response, and sends the CSRF token with each form."""

    def __init__(self, scenario: Scenario) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)
        super().__init__(base_url=scenario.app.url, timeout=30, limits=limits, event_hooks={"response": [self._record]})
        self.scenario = scenario
        scenario.clients.callback(self.close)
        self.get("/admin/login/")

    def _record(self, response: httpx.Response) -> None:
        response.read()
        self.scenario.responses.append(response)

    def send_form(self, path: str, **form: Any) -> int:
        headers = {"X-CSRFToken": self.cookies["csrftoken"]}
        return self.post(path, data=form, headers=headers).status_code

    def log_in(self, username: str, password: str) -> int:
        return self.send_form("/admin/login/", username=username, password=password)


@pytest.fixture(scope="module")
def scenario(servers: Servers) -> Iterator[Scenario]:
    with tempfile.TemporaryDirectory(prefix="voiceassist-canaries-") as folder:
        scenario = Scenario(Path(folder), servers)
        try:
            migrate = scenario.command("migrate", DATABASE_URL=as_owner(scenario.postgres.url))
            scenario.wait_for_exit(migrate, code=0)
            scenario.insert(
                User(email="admin@example.org", password=make_password(PASSWORD), is_staff=True, is_superuser=True)
            )
            with VoiceAssistServer(port=0, **scenario.environment) as scenario.app:
                run_scenario(scenario)
                yield scenario
        finally:
            scenario.clients.close()
            scenario.postgres.kill()


def run_scenario(scenario: Scenario) -> None:
    rows, deleted_rows = scenario.plant(1), scenario.plant(2)
    staff = Client(scenario)
    invalid_requests(scenario)
    requests_rejected_before_any_view(scenario)
    failed_logins(scenario, rows)
    assert staff.log_in("admin@example.org", PASSWORD) == 302
    secret = secret_of(staff.get(CONTINUE))
    assert staff.send_form(CONTINUE, step="enrol", code=f"{INPUT}-code") == 200
    assert staff.send_form(CONTINUE, step="enrol", code=code_of(secret)) == 200
    assert staff.send_form(CONTINUE) == 302
    admin_pages(staff, rows)
    invalid_posts(staff, rows)
    reveal(staff, rows)
    failing_views(scenario, staff, rows)
    deletion(staff, deleted_rows)
    background_jobs(scenario, staff, rows)
    failing_commands(scenario, rows)
    killed_during_a_write(scenario, staff, rows)
    scenario.capture_activity()
    capture_logs(scenario)


def invalid_requests(scenario: Scenario) -> None:
    client = Client(scenario)
    headers = {
        "X-Patient": f"{INPUT}-header",
        "Cookie": f"csrftoken={INPUT}-token; patient={INPUT}-cookie",
        "traceparent": f"00-{INPUT}-trace-01",
        "X-Request-ID": f"{INPUT} request",
        "User-Agent": f"{INPUT}-agent",
        "Referer": f"http://x/{INPUT}-referer",
        "X-Forwarded-For": f"{INPUT}-address",
    }
    for path in (f"/{INPUT}-path?q={INPUT}-query", f"/admin/{INPUT}-path/?q={INPUT}-query", f"/health?{INPUT}-query"):
        assert client.get(path, headers=headers).status_code in (200, 302, 404)
        assert client.request("FOO", path, headers=headers).status_code == 405
    assert client.get("/", headers={"Host": f"{INPUT}-host.example.org"}).status_code == 400
    assert client.post("/", json={"patient": f"{INPUT}-json"}).status_code in (403, 405)
    assert client.post("/", content=f"{{{INPUT}-json", headers={"Content-Type": "application/json"}).is_client_error
    assert client.post("/admin/login/", data={"username": f"{INPUT}-form"}, headers={"Cookie": ""}).status_code == 403
    with contextlib.suppress(httpx.TransportError):  # the server may close the connection before the response arrives
        assert client.send_form("/admin/login/", username=f"{INPUT}-large" + "x" * 3_000_000) == 413
    assert client.send_form("/admin/login/", **{f"{INPUT}-field-{n}": "" for n in range(1001)}) == 400
    boundary = {"Content-Type": f"multipart/form-data; boundary={INPUT} boundary\x7f"}
    assert client.post("/admin/login/", content=f"--{INPUT}", headers=boundary).is_client_error


def requests_rejected_before_any_view(scenario: Scenario) -> None:
    """Send incomplete and malformed requests, and an upload whose temporary files are captured while it is sent."""
    token = Client(scenario).cookies["csrftoken"]
    file = f'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n{INPUT}-file'.encode()
    for head, rest in (
        (f"GET /{INPUT}-line HTTP/{INPUT}\r\n\r\n", b""),
        (f"{INPUT} /{INPUT}-line HTTP/1.1\r\n\r\n", b""),
        (f"GET /{INPUT}-line HTTP/1.1\r\n{INPUT} header: {INPUT}\r\n\r\n", b""),
        (f"GET /{INPUT}-line{'x' * 9000} HTTP/1.1\r\n\r\n", b""),
        (f"GET /{INPUT}-line HTTP/1.1\r\nHost: {INPUT}", b""),
        (f"POST /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n{INPUT}"[:-5], b""),
        ("POST /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
         f"Cookie: csrftoken={token}\r\nContent-Length: 9000000\r\n\r\n", file + b"x" * 4_000_000),
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", scenario.app.port), 5) as raw:
            raw.sendall(head.encode() + rest)
            if rest:
                time.sleep(0.3)
                capture_files(scenario)
            raw.shutdown(socket.SHUT_WR)
            while data := raw.recv(65536):
                scenario.output["responses without a view"] += data.decode()


def failed_logins(scenario: Scenario, rows: dict[str, Any]) -> None:
    client = Client(scenario)
    assert client.log_in(rows["user"].email, f"{INPUT}-password") == 200
    assert client.log_in(f"{INPUT}-password-in-the-wrong-field", f"{INPUT}-password") == 200


def admin_pages(staff: Client, rows: dict[str, Any]) -> None:
    staff.get("/admin/")
    for name, row in rows.items():
        for page in ("", f"{row.pk}/change/", f"{row.pk}/delete/", f"?q={row.pk}"):
            assert staff.get(f"/admin/core/{name}/{page}").status_code == 200
        assert staff.send_form(f"/admin/core/{name}/", q=f"{INPUT}-search") == 302
        results = staff.get(staff.scenario.responses[-1].headers["Location"])
        assert results.status_code == 200
        assert f'value="{INPUT}-search"' in results.text
        assert staff.get(f"/admin/core/{name}/?{INPUT}__lookup={INPUT}-value").status_code in (302, 400)
        assert staff.get(f"/admin/core/{name}/?created_at__gte={INPUT}-value").status_code in (302, 400)
    assert staff.get("/admin/core/auditevent/").status_code == 200
    for path in ("/metrics", "/ready", "/api/schema/", "/api/docs/"):
        staff.get(path)


def invalid_posts(staff: Client, rows: dict[str, Any]) -> None:
    user = f"/admin/core/user/{rows['user'].pk}"
    password = {"password1": f"{INPUT}-password", "password2": f"{INPUT}-another"}
    assert staff.send_form("/admin/core/user/add/", email=f"{INPUT} email", **password) == 200
    assert staff.send_form("/admin/core/user/add/", email=rows["user"].email, **password) == 200
    assert staff.send_form(f"{user}/change/", email=f"{INPUT} email", groups=f"{INPUT}-group") == 200
    assert staff.send_form(f"{user}/password/", **password) == 200
    for page in (f"{INPUT}-id/reveal/", f"{rows['user'].pk}/reveal/"):
        assert staff.send_form(f"/admin/core/message/{page}") == 404
    assert staff.get(f"/admin/core/message/{rows['message'].pk}/reveal/").status_code in (302, 405)
    assert staff.send_form(f"/admin/core/user/{INPUT}-id/delete/", post="yes") == 302
    for action in ("delete_selected", f"{INPUT}-action"):
        assert staff.send_form("/admin/core/message/", action=action, _selected_action=f"{INPUT}-id") in (200, 302)


def reveal(staff: Client, rows: dict[str, Any]) -> None:
    reason = {"reason": "other", "details": f"{INPUT}-reason"}
    for name in ("session", "message"):
        for view in ("reveal", "read"):
            assert staff.send_form(f"/admin/core/{name}/{rows[name].pk}/{view}/", reason="other") == 200
            assert staff.send_form(f"/admin/core/{name}/{rows[name].pk}/{view}/", **reason) == 200
    assert staff.send_form(f"/admin/core/session/{rows['session'].pk}/read/", before=f"{INPUT}-cursor", **reason) == 400


def failing_views(scenario: Scenario, staff: Client, rows: dict[str, Any]) -> None:
    """Cause errors for which PostgreSQL quotes a whole row that a constraint refuses, or a whole invalid statement."""
    user, session = rows["user"], rows["session"]
    scenario.sql("ALTER TABLE users ADD CONSTRAINT quotes CHECK (specialty <> 'quote me') NOT VALID")
    scenario.sql("ALTER TABLE sessions ADD CONSTRAINT quotes CHECK (NOT is_archived) NOT VALID")
    form = {"email": user.email, "full_name": f"{INPUT}-name", "specialty": "quote me"}
    assert staff.send_form(f"/admin/core/user/{user.pk}/change/", **form) == 500
    assert staff.send_form("/admin/core/session/", action="archive", _selected_action=str(session.pk)) == 500
    scenario.sql("ALTER TABLE audit_events ADD CONSTRAINT quotes CHECK (actor_email IS NULL) NOT VALID")
    assert staff.send_form(f"/admin/core/message/{rows['message'].pk}/reveal/", **REASON) == 500
    assert Client(scenario).log_in(user.email, f"{INPUT}-password") == 500
    scenario.sql("ALTER TABLE audit_events DROP CONSTRAINT quotes")
    scenario.sql("ALTER TABLE users RENAME full_name TO gone")
    assert staff.get(f"/admin/core/session/{session.pk}/change/?q={INPUT}-query").status_code == 500
    scenario.sql("ALTER TABLE users RENAME gone TO full_name")


def deletion(staff: Client, rows: dict[str, Any]) -> None:
    assert staff.send_form(f"/admin/core/user/{rows['user'].pk}/delete/", post="yes") == 302
    assert staff.get("/admin/core/auditevent/").status_code == 200


def background_jobs(scenario: Scenario, staff: Client, rows: dict[str, Any]) -> None:
    """Export a user and delete another one, both with a reason, in a worker.

    A reason is personal data: the forms say that it is recorded in the audit trail.
    """
    reason = "canary-personal-jobs-reason"
    exported, deleted = (f"/admin/core/user/{user.pk}" for user in (rows["user"], scenario.plant(3)["user"]))
    key = str(pyrage.x25519.Identity.generate().to_public())
    assert staff.send_form(f"{exported}/export/", recipient=f"{INPUT}-key", reason=reason) == 200
    assert staff.send_form(f"{exported}/export/", recipient=key, reason=reason) == 302
    assert staff.send_form(f"{deleted}/delete/", post="yes", reason=reason) == 302
    for page in (f"{exported}/change/", f"{deleted}/change/", "/admin/core/job/"):
        assert staff.get(page).status_code == 200
    worker = scenario.command("worker")
    jobs = "SELECT count(*) FROM jobs WHERE NOT is_scheduled AND status = 'succeeded'"
    assert succeeds_within(60, lambda: scenario.sql(jobs) == [(2,)])
    capture_files(scenario)
    worker.terminate()
    scenario.wait_for_exit(worker, code=0)


def failing_commands(scenario: Scenario, rows: dict[str, Any]) -> None:
    """Fail with a refused row in a shell and in one of its threads, a duplicate email, and a failing migration."""
    scenario.sql(
        "CREATE FUNCTION broken() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'emails: %', (SELECT string_agg(email, ' ') FROM users); END $$"
    )
    scenario.sql(
        "CREATE EVENT TRIGGER broken ON ddl_command_start WHEN tag IN ('CREATE TABLE') EXECUTE FUNCTION broken()"
    )
    invalid_update = "Message.objects.update(role='doctor')"
    lines = (
        "import threading",
        "from core.models import Message",
        f"thread = threading.Thread(target=lambda: {invalid_update})",
        "thread.start(), thread.join()",
        invalid_update,
    )
    duplicate = {"DJANGO_SUPERUSER_EMAIL": rows["user"].email, "DJANGO_SUPERUSER_PASSWORD": f"{INPUT}-password"}
    scenario.wait_for_exit(
        scenario.command("shell", "-c", "\n".join(lines)),
        scenario.command("createsuperuser", "--noinput", **duplicate),
        scenario.command("createsuperuser", "--noinput", "--traceback", **duplicate),
        scenario.command(
            "migrate",
            DJANGO_SETTINGS_MODULE="tests.support.migrating.settings",
            DATABASE_URL=as_owner(scenario.postgres.url),
        ),
        code=1,
    )
    scenario.sql("DROP EVENT TRIGGER broken")


def killed_during_a_write(scenario: Scenario, staff: Client, rows: dict[str, Any]) -> None:
    """Terminate a command's connection, and kill a process of PostgreSQL, which then restarts all its processes."""
    user, session = rows["user"], rows["session"]
    program = (
        "from core.conversations import append_message; from core.models import Message;"
        f"content = Message.objects.get(pk='{rows['message'].pk}').content;"
        f"append_message('{session.pk}', role='user', content=content, metadata={{'from': content}})"
    )
    form = {"email": user.email, "full_name": f"{INPUT}-name", "specialty": "cardiology"}
    change = threading.Thread(target=staff.send_form, args=(f"/admin/core/user/{user.pk}/change/",), kwargs=form)
    with contextlib.closing(scenario.connect()) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT 1 FROM messages, sessions, users FOR UPDATE")
        append = scenario.command("shell", "-c", program)
        scenario.sql("SELECT pg_terminate_backend(%s)", scenario.wait_for_blocked_process())
        scenario.wait_for_exit(append, code=1)
        change.start()
        os.kill(scenario.wait_for_blocked_process(), signal.SIGKILL)
        change.join(30)
    assert scenario.responses[-1].status_code == 503
    scenario.postgres.start()  # returns after crash recovery
    assert staff.get(f"/admin/core/user/{user.pk}/change/").status_code == 200


def capture_files(scenario: Scenario) -> None:
    """Capture the temporary files and the data files of Redis, but not the data files of PostgreSQL."""
    for folder in (scenario.folder, scenario.redis.folder):
        for path in folder.rglob("*"):
            if path.is_file() and path.name != "log" and scenario.postgres.data not in path.parents:
                scenario.output["files"] += path.read_bytes().decode(errors="ignore")


def capture_logs(scenario: Scenario) -> None:
    scenario.output["log"] = scenario.app.log()
    logs = {path.suffix: path.read_text() for path in (scenario.postgres.data / "log").iterdir()}
    assert set(logs) == {".log", ".csv", ".json"}
    assert all("INSERT INTO" in text for text in logs.values())
    scenario.output["PostgreSQL's log"] = "".join(logs.values())
    scenario.output["metrics"] = scenario.app.get("/metrics")[2].decode()
    scenario.output["audit"] = str(scenario.sql("SELECT * FROM audit_events"))
    capture_files(scenario)


CHANNELS = ("log", "PostgreSQL's log", "metrics", "files", "commands", "statements", "process titles",
            "responses without a view")  # fmt: skip


@pytest.mark.parametrize("channel", CHANNELS)
def test_channel_contains_no_canary(scenario: Scenario, channel: str) -> None:
    assert scenario.output[channel]
    assert find_canaries(scenario.output[channel], *LEAKS, "input") == set()


def test_every_channel_is_tested(scenario: Scenario) -> None:
    assert set(scenario.output) == {*CHANNELS, "audit"}


def test_failures_were_logged(scenario: Scenario) -> None:
    """Otherwise the absence of canaries would prove nothing."""
    errors = [json.loads(line).get("error") for line in scenario.output["log"].splitlines()]
    constraints = [error["constraint"] for error in errors if isinstance(error, dict)]
    assert constraints.count("quotes") == 4
    assert scenario.output["commands"].count("uncaught exception") == 5
    assert scenario.output["commands"].count('"constraint": "messages_role_known"') == 2
    assert "still waiting for" in scenario.output["PostgreSQL's log"]
    assert "was terminated by signal 9" in scenario.output["PostgreSQL's log"]
    assert "INSERT INTO" in scenario.output["PostgreSQL's log"]
    assert "UPDATE" in scenario.output["statements"]


def test_phi_is_only_on_reveal_pages(scenario: Scenario) -> None:
    shown: set[str] = set()
    for response in scenario.responses:
        if response.is_success and response.url.path.endswith(("/reveal/", "/read/")):
            assert "no-store" in response.headers["Cache-Control"]
            shown |= find_canaries(response.text, "phi")
        else:
            assert find_canaries(response.text, "phi") == set(), response.url
    planted = {word for model in (Session, Message) for word in find_canaries(str(canaries("PHI", 1, model)), "phi")}
    assert shown == planted


def test_personal_data_is_only_on_staff_pages(scenario: Scenario) -> None:
    for response in scenario.responses:
        if not (response.is_success and response.url.path.startswith("/admin/core/")):
            sent = find_canaries(f"{response.url} {response.request.read().decode()}", "personal", "input")
            # An invalid form is shown again with its input.
            assert find_canaries(response.text, "personal", "input") <= sent, response.url
        assert find_canaries(response.text, "secret") == set(), response.url


def test_error_responses_and_headers_contain_no_canary(scenario: Scenario) -> None:
    for response in scenario.responses:
        headers = str({name: value for name, value in response.headers.items() if name != "location"})
        assert find_canaries(headers, *LEAKS, "input") == set(), response.url
        assert find_canaries(response.headers.get("Location", ""), *LEAKS) == set()
        if response.is_error:
            assert find_canaries(response.text, *LEAKS, "input") == set(), response.url


def test_audit_trail_contains_personal_data_and_masks_phi(scenario: Scenario) -> None:
    assert find_canaries(scenario.output["audit"], "phi", "secret", "input") == {f"{INPUT}-reason"}
    assert find_canaries(scenario.output["audit"], "personal")
    assert phi.MASK in scenario.output["audit"]


def test_every_sensitive_model_has_canaries() -> None:
    models_with_canaries = {
        model for model in apps.get_app_config("core").get_models() if any(phi.columns(model, *LEAKS))
    }
    # Only the database writes audit events. `background_jobs` sends canaries that jobs store, and exports contain those
    # of a user.
    written_by_the_scenario = {AuditEvent, Job, Export, ExportChunk}
    assert models_with_canaries == {User, Session, Message, Authenticator, RecoveryCodes} | written_by_the_scenario
