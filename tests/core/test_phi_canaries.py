"""What may tell of a patient, a person or a password comes out nowhere but where it is meant to, whatever breaks.

A word of its own stands in each column that the models declare as PHI, PERSONAL or SECRET, and in everything that a
client can send. Then all that can fail is made to fail: in a server as production runs it, at DEBUG, in commands, and
in PostgreSQL, which logs as docker-compose.yml has it. All that comes out is kept, and searched for these words.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
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
import pytest
import yaml
from django.apps import apps
from django.contrib.auth.hashers import make_password
from django.db import connection, models

from core import phi
from core.models import AuditEvent, Message, Session, User
from tests.support.dependency_servers import Postgres
from tests.support.plugin import Servers
from tests.support.voiceassist_server import ROOT, VoiceAssistServer

pytestmark = pytest.mark.timeout(180)  # the fixture does it all

PASSWORD = "the admin's password"
TYPED = "canary-typed"  # the beginning of what only a client has sent
LEAKS = ("PHI", "PERSONAL", "SECRET")


def canaries(kind: str, set_number: int, model: type[models.Model]) -> dict[str, Any]:
    """Returns a value for each column of this kind; a type of column that is not known here fails the test."""
    values: dict[str, Any] = {}
    for name in phi.columns(model, kind):
        word = f"canary-{kind}-{model._meta.db_table}-{name}-{set_number}".lower()
        field = model._meta.get_field(name)
        if isinstance(field, models.EmailField):
            values[name] = f"{word}@example.org"
        else:
            values[name] = {word: [word]} if isinstance(field, models.JSONField) else word
            assert isinstance(field, models.JSONField | models.CharField | models.TextField), field
    return values


def found(text: str, *kinds: str) -> set[str]:
    return set(re.findall(rf"canary-(?:{'|'.join(kinds)})[a-z0-9_-]*", text, re.IGNORECASE))


class Place:
    """A server and a database of its own, and all that has come out of them, by the name of the channel."""

    app: VoiceAssistServer

    def __init__(self, folder: Path, servers: Servers) -> None:
        compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        options = [word for word in compose["services"]["postgres"]["command"] if word.startswith("log_")]
        # What somebody turns on who looks for a slow statement or for who waits.
        curious = ["log_statement=all", "log_min_duration_statement=0", "log_lock_waits=on", "deadlock_timeout=50ms"]
        self.postgres = Postgres(folder / "postgres", options=[*options, *curious])
        self.postgres.start()
        self.environment = {
            "VOICEASSIST_ENV": "production",
            "SECRET_KEY": "of-these-tests-alone-" * 3,
            "ALLOWED_HOSTS": "127.0.0.1",
            "HTTPS_ONLY": "false",  # as docker-compose.yml, which has no certificate
            "DATABASE_URL": self.postgres.url,
            "LOG_LEVEL": "DEBUG",
            "WEB_CONCURRENCY": "1",
            "TMPDIR": str(folder),
        }
        self.folder, self.redis = folder, servers.redis
        self.out: defaultdict[str, str] = defaultdict(str)
        self.answers: list[httpx.Response] = []
        self.open = contextlib.ExitStack()

    def command(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "manage.py", *words], env={**os.environ, **self.environment, **environment}, cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ended(self, *processes: "subprocess.Popen[str]", code: int) -> None:
        for process in processes:
            output, _ = process.communicate(timeout=60)
            self.out["commands"] += output
            assert process.returncode == code, output

    def connect(self) -> psycopg.Connection:
        """Connects unseen by what is searched: the tests put values into their statements."""
        unseen = "-c log_statement=none -c log_min_duration_statement=-1"
        return psycopg.connect(self.postgres.url, autocommit=True, options=unseen, application_name="test")

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        with self.connect() as session:
            cursor = session.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def plant(self, number: int) -> dict[str, models.Model]:
        """Stores a user, a session and a message with a canary in each column that may leak."""

        def filled(model: type[models.Model], **values: Any) -> models.Model:
            planted = {name: value for kind in LEAKS for name, value in canaries(kind, number, model).items()}
            row = model(**planted, **values)
            self.insert(row)
            return row

        user = filled(User, is_staff=True)
        session = filled(Session, user=user, message_count=1)
        return {"user": user, "session": session, "message": filled(Message, session=session, role="user")}

    def insert(self, row: models.Model) -> None:
        fields = row._meta.concrete_fields
        values = [field.get_db_prep_save(field.pre_save(row, True), connection) for field in fields]
        columns = ", ".join(str(field.column) for field in fields)
        marks = ", ".join(["%s"] * len(fields))
        self.sql(f"INSERT INTO {row._meta.db_table} ({columns}) VALUES ({marks})", *values)

    def look(self) -> None:
        """Keeps what can be seen from outside while something is under way."""
        self.out["statements"] += str(self.sql("SELECT query FROM pg_stat_activity WHERE application_name <> 'test'"))
        parents = (self.app.process.pid, self.postgres._process.pid if self.postgres._process else 0)
        for process in [p for pid in parents for p in psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.out["process titles"] += " ".join(process.cmdline()) + "\n"

    def waiting(self) -> int:
        """Returns the process of PostgreSQL that waits for a lock, once there is one."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if rows := self.sql("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                time.sleep(0.2)  # until it has logged that it waits
                self.look()
                return int(rows[0][0])
            time.sleep(0.05)
        raise AssertionError("nothing waits")


class Client(httpx.Client):
    """Keeps each answer. With a cookie and its token, a POST gets past the CSRF check."""

    def __init__(self, place: Place) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)
        super().__init__(base_url=place.app.url, timeout=30, limits=limits, event_hooks={"response": [self._keep]})
        self.place = place
        place.open.callback(self.close)
        self.get("/admin/login/")

    def _keep(self, response: httpx.Response) -> None:
        response.read()
        self.place.answers.append(response)

    def send_form(self, path: str, **form: Any) -> int:
        headers = {"X-CSRFToken": self.cookies["csrftoken"]}
        return self.post(path, data=form, headers=headers).status_code

    def log_in(self, username: str, password: str) -> int:
        return self.send_form("/admin/login/", username=username, password=password)


@pytest.fixture(scope="module")
def place(servers: Servers) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="voiceassist-canaries-") as folder:
        place = Place(Path(folder), servers)
        try:
            both = [place.command("migrate"), place.command("collectstatic", "--noinput", "--verbosity=0")]
            place.ended(*both, code=0)
            place.insert(User(email="admin@example.org", password=make_password(PASSWORD), is_staff=True,
                              is_superuser=True))  # fmt: skip
            with VoiceAssistServer(port=0, **place.environment) as place.app:
                break_everything(place)
                yield place
        finally:
            place.open.close()
            place.postgres.kill()


def break_everything(place: Place) -> None:
    kept, gone = place.plant(1), place.plant(2)
    staff = Client(place)
    requests_that_are_wrong(place)
    requests_that_no_view_sees(place)
    failed_logins(place, kept)
    assert staff.log_in("admin@example.org", PASSWORD) == 302
    pages(staff, kept)
    posts_that_are_wrong(staff, kept)
    revealed(staff, kept)
    views_that_break(place, staff, kept)
    deletion(staff, gone)
    commands_that_fail(place, kept)
    killed_in_the_middle_of_a_write(place, staff, kept)
    place.look()
    after(place)


def requests_that_are_wrong(place: Place) -> None:
    client = Client(place)
    typed = {"X-Patient": f"{TYPED}-header", "Cookie": f"csrftoken={TYPED}-token; patient={TYPED}-cookie",
             "traceparent": f"00-{TYPED}-trace-01", "X-Request-ID": f"{TYPED} request", "User-Agent": f"{TYPED}-agent",
             "Referer": f"http://x/{TYPED}-referer", "X-Forwarded-For": f"{TYPED}-address"}  # fmt: skip
    for path in (f"/{TYPED}-path?q={TYPED}-query", f"/admin/{TYPED}-path/?q={TYPED}-query", f"/health?{TYPED}-query"):
        assert client.get(path, headers=typed).status_code in (200, 302, 404)
        assert client.request("FOO", path, headers=typed).status_code == 405
    assert client.get("/", headers={"Host": f"{TYPED}-host.example.org"}).status_code == 400
    assert client.post("/", json={"patient": f"{TYPED}-json"}).status_code in (403, 405)
    assert client.post("/", content=f"{{{TYPED}-json", headers={"Content-Type": "application/json"}).is_client_error
    assert client.post("/admin/login/", data={"username": f"{TYPED}-form"}, headers={"Cookie": ""}).status_code == 403
    with contextlib.suppress(httpx.TransportError):  # the end of the connection may overtake the answer
        assert client.send_form("/admin/login/", username=f"{TYPED}-large" + "x" * 3_000_000) == 400
    assert client.send_form("/admin/login/", **{f"{TYPED}-field-{n}": "" for n in range(1001)}) == 400
    boundary = {"Content-Type": f"multipart/form-data; boundary={TYPED} boundary\x7f"}
    assert client.post("/admin/login/", content=f"--{TYPED}", headers=boundary).is_client_error


def requests_that_no_view_sees(place: Place) -> None:
    """Requests that break off, or that gunicorn can't read; and a file, looked at while it is being sent."""
    token = Client(place).cookies["csrftoken"]
    file = f'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n{TYPED}-file'.encode()
    for head, rest in (
        (f"GET /{TYPED}-line HTTP/{TYPED}\r\n\r\n", b""),
        (f"{TYPED} /{TYPED}-line HTTP/1.1\r\n\r\n", b""),
        (f"GET /{TYPED}-line HTTP/1.1\r\n{TYPED} header: {TYPED}\r\n\r\n", b""),
        (f"GET /{TYPED}-line{'x' * 9000} HTTP/1.1\r\n\r\n", b""),
        (f"GET /{TYPED}-line HTTP/1.1\r\nHost: {TYPED}", b""),
        (f"POST /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n{TYPED}"[:-5], b""),
        ("POST /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
         f"Cookie: csrftoken={token}\r\nContent-Length: 9000000\r\n\r\n", file + b"x" * 4_000_000),
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", place.app.port), 5) as raw:
            raw.sendall(head.encode() + rest)
            if rest:
                time.sleep(0.3)
                look_at_files(place)
            raw.shutdown(socket.SHUT_WR)
            while data := raw.recv(65536):
                place.out["answers without a view"] += data.decode()


def failed_logins(place: Place, rows: dict[str, Any]) -> None:
    client = Client(place)
    assert client.log_in(rows["user"].email, f"{TYPED}-password") == 200
    assert client.log_in(f"{TYPED}-password-in-the-wrong-field", f"{TYPED}-password") == 200


def pages(staff: Client, rows: dict[str, Any]) -> None:
    staff.get("/admin/")
    for name, row in rows.items():
        for page in ("", f"{row.pk}/change/", f"{row.pk}/delete/", f"?q={row.pk}", f"?q={TYPED}-search"):
            assert staff.get(f"/admin/core/{name}/{page}").status_code == 200
        assert staff.get(f"/admin/core/{name}/?{TYPED}__lookup={TYPED}-value").status_code in (302, 400)
        assert staff.get(f"/admin/core/{name}/?created_at__gte={TYPED}-value").status_code in (302, 400)
    assert staff.get("/admin/core/auditevent/").status_code == 200
    for path in ("/metrics", "/ready", "/api/schema/", "/api/docs/"):
        staff.get(path)


def posts_that_are_wrong(staff: Client, rows: dict[str, Any]) -> None:
    user = f"/admin/core/user/{rows['user'].pk}"
    password = {"password1": f"{TYPED}-password", "password2": f"{TYPED}-another"}
    assert staff.send_form("/admin/core/user/add/", email=f"{TYPED} email", **password) == 200
    assert staff.send_form("/admin/core/user/add/", email=rows["user"].email, **password) == 200
    assert staff.send_form(f"{user}/change/", email=f"{TYPED} email", groups=f"{TYPED}-group") == 200
    assert staff.send_form(f"{user}/password/", **password) == 200
    for page in (f"{TYPED}-id/reveal/", f"{rows['user'].pk}/reveal/"):
        assert staff.send_form(f"/admin/core/message/{page}") == 404
    assert staff.get(f"/admin/core/message/{rows['message'].pk}/reveal/").status_code in (302, 405)
    assert staff.send_form(f"/admin/core/user/{TYPED}-id/delete/", post="yes") == 302
    for action in ("delete_selected", f"{TYPED}-action"):
        assert staff.send_form("/admin/core/message/", action=action, _selected_action=f"{TYPED}-id") in (200, 302)


def revealed(staff: Client, rows: dict[str, Any]) -> None:
    for name in ("session", "message"):
        assert staff.send_form(f"/admin/core/{name}/{rows[name].pk}/reveal/") == 200


def views_that_break(place: Place, staff: Client, rows: dict[str, Any]) -> None:
    """PostgreSQL quotes the whole row that it refuses; a statement that isn't right, itself."""
    user, session = rows["user"], rows["session"]
    place.sql("ALTER TABLE users ADD CONSTRAINT quotes CHECK (specialty <> 'quote me') NOT VALID")
    place.sql("ALTER TABLE sessions ADD CONSTRAINT quotes CHECK (NOT is_archived) NOT VALID")
    form = {"email": user.email, "full_name": f"{TYPED}-name", "specialty": "quote me"}
    assert staff.send_form(f"/admin/core/user/{user.pk}/change/", **form) == 500
    assert staff.send_form("/admin/core/session/", action="archive", _selected_action=str(session.pk)) == 500
    place.sql("ALTER TABLE audit_events ADD CONSTRAINT quotes CHECK (actor_email IS NULL) NOT VALID")
    assert staff.send_form(f"/admin/core/message/{rows['message'].pk}/reveal/") == 500
    assert Client(place).log_in(user.email, f"{TYPED}-password") == 500
    place.sql("ALTER TABLE audit_events DROP CONSTRAINT quotes")
    place.sql("ALTER TABLE users RENAME full_name TO gone")
    assert staff.get(f"/admin/core/session/{session.pk}/change/?q={TYPED}-query").status_code == 500
    place.sql("ALTER TABLE users RENAME gone TO full_name")


def deletion(staff: Client, rows: dict[str, Any]) -> None:
    assert staff.send_form(f"/admin/core/user/{rows['user'].pk}/delete/", post="yes") == 302
    assert staff.get("/admin/core/auditevent/").status_code == 200


def commands_that_fail(place: Place, rows: dict[str, Any]) -> None:
    """A row that is refused, in a shell and in a thread of it; an email that is taken; a migration that breaks."""
    place.sql("CREATE FUNCTION broken() RETURNS event_trigger LANGUAGE plpgsql AS"
              " $$ BEGIN RAISE EXCEPTION 'of %', (SELECT string_agg(email, ' ') FROM users); END $$")  # fmt: skip
    place.sql("CREATE EVENT TRIGGER broken ON ddl_command_start WHEN tag IN ('CREATE TABLE')"
              " EXECUTE FUNCTION broken()")  # fmt: skip
    refused = "Message.objects.update(role='doctor')"
    lines = (
        "import threading",
        "from core.models import Message",
        f"thread = threading.Thread(target=lambda: {refused})",
        "thread.start(), thread.join()",
        refused,
    )
    taken = {"DJANGO_SUPERUSER_EMAIL": rows["user"].email, "DJANGO_SUPERUSER_PASSWORD": f"{TYPED}-password"}
    place.ended(
        place.command("shell", "-c", "\n".join(lines)),
        place.command("createsuperuser", "--noinput", **taken),
        place.command("createsuperuser", "--noinput", "--traceback", **taken),
        place.command("migrate", DJANGO_SETTINGS_MODULE="tests.support.migrating.settings"),
        code=1,
    )
    place.sql("DROP EVENT TRIGGER broken")


def killed_in_the_middle_of_a_write(place: Place, staff: Client, rows: dict[str, Any]) -> None:
    """A command loses its connection, and the server the whole of PostgreSQL, which restarts when one of its dies."""
    user, session = rows["user"], rows["session"]
    program = (
        "from core.conversations import append_message; from core.models import Message;"
        f"content = Message.objects.get(pk='{rows['message'].pk}').content;"
        f"append_message('{session.pk}', role='user', content=content, metadata={{'from': content}})"
    )
    form = {"email": user.email, "full_name": f"{TYPED}-name", "specialty": "cardiology"}
    change = threading.Thread(target=staff.send_form, args=(f"/admin/core/user/{user.pk}/change/",), kwargs=form)
    with contextlib.closing(place.connect()) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT 1 FROM messages, sessions, users FOR UPDATE")
        append = place.command("shell", "-c", program)
        place.sql("SELECT pg_terminate_backend(%s)", place.waiting())
        place.ended(append, code=1)
        change.start()
        os.kill(place.waiting(), signal.SIGKILL)
        change.join(30)
    assert place.answers[-1].status_code == 503
    place.postgres.start()  # waits until it has recovered
    assert staff.get(f"/admin/core/user/{user.pk}/change/").status_code == 200


def look_at_files(place: Place) -> None:
    """Those of the temp directory, and what Redis keeps. PostgreSQL's are its tables."""
    for folder in (place.folder, place.redis.folder):
        for path in folder.rglob("*"):
            if path.is_file() and path.name != "log" and place.postgres.data not in path.parents:
                place.out["files"] += path.read_bytes().decode(errors="ignore")


def after(place: Place) -> None:
    place.out["log"] = place.app.log()
    place.out["PostgreSQL's log"] = (place.folder / "postgres" / "log").read_text()
    place.out["metrics"] = place.app.get("/metrics")[2].decode()
    place.out["audit"] = str(place.sql("SELECT * FROM audit_events"))
    look_at_files(place)


WAYS_OUT = ("log", "PostgreSQL's log", "metrics", "files", "commands", "statements", "process titles",
            "answers without a view")  # fmt: skip


@pytest.mark.parametrize("channel", WAYS_OUT)
def test_nothing_comes_out_by(place: Place, channel: str) -> None:
    assert place.out[channel]
    assert found(place.out[channel], *LEAKS, "typed") == set()


def test_every_channel_is_looked_at(place: Place) -> None:
    assert set(place.out) == {*WAYS_OUT, "audit"}


def test_what_was_broken_is_in_the_log(place: Place) -> None:
    """Else the silence above would prove nothing."""
    errors = [json.loads(line).get("error") for line in place.out["log"].splitlines()]
    constraints = [error["constraint"] for error in errors if isinstance(error, dict)]
    assert constraints.count("quotes") == 4
    assert place.out["commands"].count("uncaught exception") == 5
    assert place.out["commands"].count('"constraint": "messages_role_known"') == 2
    assert "still waiting for" in place.out["PostgreSQL's log"]
    assert "was terminated by signal 9" in place.out["PostgreSQL's log"]
    assert "INSERT INTO" in place.out["PostgreSQL's log"]
    assert "UPDATE" in place.out["statements"]


def test_phi_is_on_the_revealed_pages_alone(place: Place) -> None:
    shown: set[str] = set()
    for answer in place.answers:
        if answer.is_success and answer.url.path.endswith("/reveal/"):
            assert "no-store" in answer.headers["Cache-Control"]
            shown |= found(answer.text, "phi")
        else:
            assert found(answer.text, "phi") == set(), answer.url
    planted = {word for model in (Session, Message) for word in found(str(canaries("PHI", 1, model)), "phi")}
    assert shown == planted


def test_personal_data_is_on_pages_for_staff_alone(place: Place) -> None:
    for answer in place.answers:
        if not (answer.is_success and answer.url.path.startswith("/admin/core/")):
            sent = found(f"{answer.url} {answer.request.read().decode()}", "personal", "typed")
            assert found(answer.text, "personal", "typed") <= sent, answer.url  # a form again, as it was filled in
        assert found(answer.text, "secret") == set(), answer.url


def test_no_error_answer_and_no_header_repeats_what_was_sent_or_stored(place: Place) -> None:
    for answer in place.answers:
        headers = str({name: value for name, value in answer.headers.items() if name != "location"})
        assert found(headers, *LEAKS, "typed") == set(), answer.url
        assert found(answer.headers.get("Location", ""), *LEAKS) == set()
        if answer.is_error:
            assert found(answer.text, *LEAKS, "typed") == set(), answer.url


def test_the_audit_trail_names_people_and_masks_the_rest(place: Place) -> None:
    assert found(place.out["audit"], "phi", "secret", "typed") == set()
    assert found(place.out["audit"], "personal")
    assert phi.MASK in place.out["audit"]


def test_every_model_is_planted() -> None:
    of_the_core = {model for model in apps.get_app_config("core").get_models() if any(phi.columns(model, *LEAKS))}
    assert of_the_core == {User, Session, Message, AuditEvent}  # the last is written by the database alone
