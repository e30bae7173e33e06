"""PostgreSQL's log contains no values of our statements with the settings that docker-compose.yml has.

Each case sends values to a real server that logs to all three destinations, lets statements fail and wait, and compares
what the logs contain with what the application warns of. tests/core/test_phi_canaries.py does so for the whole server.
"""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from core.clients.postgresql import server_log
from tests.support.dependency_servers import NO_VALUES_IN_LOG, Postgres
from tests.support.polling import succeeds_within
from tests.support.voiceassist_server import ROOT, VoiceAssistServer
from tests.voiceassist.test_settings import run

COMPOSE = (ROOT / "docker-compose.yml").read_text()
STATEMENTS_LOGGED = {"log_statement": "all", "log_min_duration_statement": "0"}
TABLES = """
    CREATE TABLE patients (id int PRIMARY KEY, email text UNIQUE, CHECK (email NOT LIKE 'refused-%'));
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.id = 99 THEN RAISE EXCEPTION 'refused %', NEW.email USING DETAIL = NEW.email; END IF; RETURN NEW;
    END $$;
    CREATE TRIGGER refuse AFTER INSERT ON patients FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    all_logs = ("logging_collector=on", "log_destination=stderr,csvlog,jsonlog")
    folder = tmp_path_factory.mktemp("postgres")
    folder.chmod(0o755)  # the server may run as another user
    with Postgres(folder, options=all_logs) as server:
        server.execute(TABLES)
        yield server


def connect(postgres: Postgres, settings: dict[str, str]) -> psycopg.Connection:
    settings = {"log_lock_waits": "on", "deadlock_timeout": "20ms", **settings}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return psycopg.connect(postgres.url, autocommit=True, options=options)


def read_logs(postgres: Postgres) -> dict[str, str]:
    """Return the text of each kind of log by its suffix."""
    return {path.suffix: path.read_text(errors="replace") for path in (postgres.data / "log").iterdir()}


def is_sleeping(postgres: Postgres, pid: int) -> bool:
    with psycopg.connect(postgres.url) as observer:
        query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        return observer.execute(query, [pid]).fetchone() == ("PgSleep",)


def send_values(postgres: Postgres, connection: psycopg.Connection, canary: str) -> None:
    """Send the canary in statements that succeed, fail in four ways, wait for a lock, and end with the connection."""
    pid = connection.info.backend_pid
    errors: list[str | None] = []

    def send(statement: str, parameter: str = canary) -> None:
        try:
            connection.execute(statement.encode(), [parameter])
        except psycopg.Error as error:
            errors.append(error.sqlstate)

    send("INSERT INTO patients VALUES (1, %s) ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email")
    send("INSERT INTO patients VALUES (2, %s)")  # unique: the DETAIL quotes it
    send("INSERT INTO patients VALUES (3, 'refused-' || %s)")  # CHECK: the DETAIL quotes the row
    send("INSERT INTO patients VALUES (99, %s)", f"{canary}-99")  # a trigger's message, DETAIL and CONTEXT
    send("SELECT CAST(%s AS text)::int")  # the message quotes it
    send("SELECT * FROM patients WHERE email = %s")
    with closing(psycopg.connect(postgres.url)) as holder:
        holder.execute("SELECT * FROM patients FOR UPDATE")
        waiting = threading.Thread(target=send, args=["UPDATE patients SET email = %s WHERE id = 1"])
        waiting.start()
        assert succeeds_within(10, lambda: f"process {pid} still waiting" in read_logs(postgres)[".log"])
        holder.rollback()
        waiting.join()
    terminated = threading.Thread(target=send, args=["SELECT pg_sleep(60), CAST(%s AS text)"])
    terminated.start()
    assert succeeds_within(10, lambda: is_sleeping(postgres, pid))
    postgres.execute(f"SELECT pg_terminate_backend({pid})")
    terminated.join()
    assert errors == ["23505", "23514", "P0001", "22P02", "57P01"]


def logs_with(postgres: Postgres, canary: str) -> set[str]:
    """Return the kinds of logs that contain the canary as text, or as numbers, which a logged plan has."""
    marker = f"end-of-{canary}"
    with closing(connect(postgres, {"log_statement": "all"})) as connection:
        connection.execute(f"SELECT '{marker}'".encode())
    assert succeeds_within(10, lambda: all(marker in text for text in read_logs(postgres).values()))
    numbers = " ".join(str(byte) for byte in canary.encode())
    texts = {suffix: text.replace(marker, "") for suffix, text in read_logs(postgres).items()}
    return {suffix for suffix, text in texts.items() if canary in text or numbers in text}


STRUCTURED = {".csv", ".json"}


@pytest.mark.parametrize(
    ("settings", "changes", "logs"),
    [
        ({}, [], set()),
        (STATEMENTS_LOGGED, [], set()),
        ({"log_error_verbosity": "verbose", "log_min_error_statement": "error", **STATEMENTS_LOGGED}, [], set()),
        ({"log_parameter_max_length": "-1"}, [], set()),  # no statement is logged
        (
            {"log_parameter_max_length": "-1", **STATEMENTS_LOGGED},
            ["log_parameter_max_length = 0"],
            STRUCTURED,
        ),
        (
            {"log_parameter_max_length": "-1", "log_transaction_sample_rate": "1"},
            ["log_parameter_max_length = 0"],
            STRUCTURED,
        ),
        ({"log_parameter_max_length_on_error": "-1"}, ["log_parameter_max_length_on_error = 0"], STRUCTURED),
        ({"debug_print_plan": "on"}, ["debug_print_plan = off"], STRUCTURED),
        ({"log_min_messages": "error"}, ["log_min_messages = log"], {".log", *STRUCTURED}),
        (
            {"log_min_messages": "warning", "log_error_verbosity": "default", "log_parameter_max_length": "-1"},
            ["log_min_messages = log"],
            {".log", *STRUCTURED},
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_logs_contain_values_exactly_if_the_application_warns(
    postgres: Postgres, request: pytest.FixtureRequest, settings: dict[str, str], changes: list[str], logs: set[str]
) -> None:
    canary = f"canary-{request.node.callspec.indices['settings']}x"
    with closing(connect(postgres, settings)) as connection:
        warnings = server_log.find_problems(connection)
        send_values(postgres, connection, canary)
    assert logs_with(postgres, canary) == logs
    assert set(warnings) == ({"logs_values"} if changes else set())
    for change in changes:
        assert f"ALTER ROLE tester SET {change}" in warnings["logs_values"]
    assert "".join(warnings.values()).count("ALTER ROLE") == len(changes)


def test_extensions_that_log_values_are_found(postgres: Postgres) -> None:
    """The embedded PostgreSQL has neither of them, but accepts their settings, as a server with them does."""
    for settings, change in [
        ({"auto_explain.log_min_duration": "0"}, "auto_explain.log_min_duration = -1"),
        ({"auto_explain.log_min_duration": "-1"}, ""),
        ({"pgaudit.log": "read,write", "pgaudit.log_parameter": "on"}, "pgaudit.log_parameter = off"),
        ({"pgaudit.log": "read,write", "pgaudit.log_parameter": "off"}, ""),
        ({"pgaudit.log": "none", "pgaudit.log_parameter": "on"}, ""),
    ]:
        with closing(connect(postgres, settings)) as connection:
            warning = server_log.find_problems(connection).get("logs_values", "")
        assert change in warning
        assert bool(warning) == bool(change), settings


def test_the_advice_of_the_warning_removes_it(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as superuser:
        superuser.execute("CREATE ROLE careless LOGIN PASSWORD 'x'")
        superuser.execute("ALTER ROLE careless SET log_min_messages = warning")
        superuser.execute("ALTER ROLE careless SET log_parameter_max_length_on_error = -1")
        url = postgres.url.replace(postgres.url.split("//")[1].split("@")[0], "careless:x")
        with psycopg.connect(url) as connection:
            warning = server_log.find_problems(connection)["logs_values"]
        superuser.execute(warning.split("Run ")[1].split(" as superuser")[0].encode())
        with psycopg.connect(url) as connection:
            assert server_log.find_problems(connection) == {}


def test_text_log_needs_only_terse(tmp_path: Path) -> None:
    """The text log has no DETAIL, so an upgrade does not warn of the settings that were documented before."""
    settings = {"log_parameter_max_length": "-1", **STATEMENTS_LOGGED}
    tmp_path.chmod(0o755)
    with Postgres(tmp_path / "postgres") as server:
        with closing(connect(server, settings)) as connection:
            assert server_log.find_problems(connection) == {}
        with closing(connect(server, {**settings, "log_error_verbosity": "default"})) as connection:
            assert set(server_log.find_problems(connection)) == {"logs_values"}


def test_every_postgresql_of_the_project_has_these_settings() -> None:
    embedded = (ROOT / "voiceassist/embedded/servers.py").read_text()
    documented = (ROOT / "docs/SECURITY_COMPLIANCE.md").read_text()
    for setting in NO_VALUES_IN_LOG:
        name, value = setting.split("=")
        assert setting in COMPOSE
        assert f'"{name}": "{value}"' in embedded
        assert f"\n{name} = {value}" in documented


def test_server_warns_at_its_start_without_a_probe(postgres: Postgres) -> None:
    url = f"{postgres.url}?options=-c%20log_min_messages%3Dwarning"
    with VoiceAssistServer(DATABASE_URL=url, WEB_CONCURRENCY="1", HEALTH_OPTIONAL="migrations") as app:
        assert succeeds_within(20, lambda: "log_min_messages = warning" in app.log()), app.log()
        lines = app.log_lines()
        (warning,) = [line for line in lines if line.get("kind") == "logs_values"]
        assert warning["level"] == "warning"
        status, _, body = app.get("/ready")
        assert (status, b"log_min_messages" in body) == (200, False)
        metrics = app.get("/metrics")[2].decode()
        assert 'voiceassist_database_warning{kind="logs_values"} 1.0' in metrics
        for kind in ("connection_limit", "audit_trigger_missing", "audit_role_too_powerful"):
            assert f'voiceassist_database_warning{{kind="{kind}"}} 0.0' in metrics


def test_checkdeps_warns_on_stderr(postgres: Postgres) -> None:
    url = f"{postgres.url}?options=-c%20log_min_messages%3Dwarning"
    done = run(
        ["manage.py", "checkdeps", "--only", "postgres"], {"DATABASE_URL": url, "REDIS_URL": "redis://127.0.0.1"}
    )
    assert done.returncode == 0
    assert done.stderr.startswith(
        "Warning: PostgreSQL may write PHI into its log, because of log_min_messages = warning."
    )
    assert len(done.stderr.splitlines()) == 1
    assert "Warning" not in done.stdout
