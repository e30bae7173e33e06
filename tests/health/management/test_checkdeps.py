"""`manage.py checkdeps`, run as a separate process against real servers that start and stop."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.api.test_envelope import REASONS
from tests.support.databases import manage, migrated_database
from tests.support.dependency_servers import PgBouncer, Postgres, Valkey, as_application, as_owner, needs_pgbouncer
from tests.support.forked_python import ForkedPython, run
from tests.support.plugin import Servers
from tests.support.polling import SLOWNESS, ends_within

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["postgres", "redis", "qdrant", "migrations", "queue"]


def checkdeps(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(["manage.py", "checkdeps", *arguments], {**os.environ, **environment})


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return ForkedPython(
        ["manage.py", "checkdeps", *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def migrated(servers: Servers) -> dict[str, str]:
    """Return an environment with a migrated database. pytest-django's test database has another name."""
    url = as_application(migrated_database(servers.postgres, "migrated"))
    return {"DATABASE_URL": url, "HEALTH_TIMEOUT": "10"}  # for a busy machine


def test_text_output_when_everything_is_healthy(migrated: dict[str, str]) -> None:
    completed = checkdeps(**migrated)
    assert (completed.returncode, completed.stderr) == (0, "")
    *rows, last = completed.stdout.splitlines()
    assert [row.split()[0] for row in rows] == NAMES
    assert all(row.split()[1] == "healthy" for row in rows)
    assert last == "ready"
    assert "\x1b" not in completed.stdout
    assert len({row.index(" ms ") for row in rows}) == 1


def test_json_output_is_the_report_with_details_for_staff(migrated: dict[str, str]) -> None:
    completed = checkdeps("--format", "json", **migrated)
    assert (completed.returncode, completed.stderr) == (0, "")
    report = json.loads(completed.stdout)
    assert set(report) == {"status", "dependencies", "checked_at"}
    assert report["status"] == "ready"
    assert list(report["dependencies"]) == NAMES
    for dependency in report["dependencies"].values():
        public = {"status", "critical", "latency_ms", "reason"}
        for_staff = {"detail", "version", "transport", "usage", "certificate_expires_at"}
        assert set(dependency) == public | for_staff
    transports = {name: dependency["transport"] for name, dependency in report["dependencies"].items()}
    assert transports == {"postgres": "local", "redis": "local", "qdrant": "local", "migrations": None, "queue": None}
    versions = {name: dependency["version"] for name, dependency in report["dependencies"].items()}
    assert versions["postgres"].startswith("18.")
    assert versions["redis"]
    assert versions["qdrant"] == "1.20.0"


def test_works_before_migrations_and_during_outages(servers: Servers) -> None:
    completed = checkdeps("--format", "json", REDIS_URL="redis://127.0.0.1:1/0", QDRANT_URL="http://127.0.0.1:1")
    assert completed.returncode == 1
    dependencies = json.loads(completed.stdout)["dependencies"]
    assert {name: dependency["reason"] for name, dependency in dependencies.items()} == {
        "postgres": None,
        "redis": "connection_refused",
        "qdrant": "connection_refused",
        "migrations": "migrations_pending",
        "queue": "migrations_pending",
    }


def test_text_output_has_hint(servers: Servers) -> None:
    completed = checkdeps(DATABASE_URL="postgres://user:hunter2@127.0.0.1:1/name")
    assert completed.returncode == 1
    assert re.search(r"^postgres +unhealthy .*connection_refused.*Hint: ", completed.stdout, re.MULTILINE)
    assert "127.0.0.1" in completed.stdout
    assert "hunter2" not in completed.stdout + completed.stderr
    assert completed.stdout.splitlines()[-1] == "not_ready"


def test_only_checks_named_dependencies(migrated: dict[str, str]) -> None:
    completed = checkdeps(
        "--only", "redis", "--only", "qdrant", "--format", "json", DATABASE_URL="postgres://a@127.0.0.1:1/b"
    )
    assert completed.returncode == 0
    assert list(json.loads(completed.stdout)["dependencies"]) == ["redis", "qdrant"]


@pytest.fixture(scope="module")
def limited(servers: Servers) -> Iterator[str]:
    """Yield the URL of a database with a connection limit of 12, for a role with a limit of 13."""
    servers.postgres.execute("CREATE DATABASE limited CONNECTION LIMIT 12")
    servers.postgres.execute("CREATE ROLE limited LOGIN PASSWORD 'limited' CONNECTION LIMIT 13")
    yield f"postgres://limited:limited@127.0.0.1:{servers.postgres.port}/"
    servers.postgres.execute("DROP DATABASE limited")
    servers.postgres.execute("DROP ROLE limited")


@pytest.mark.parametrize(
    ("user", "database", "workers", "limit"),
    [
        ("tester", "tests", 13, None),  # 13 workers with 4 threads: 91
        ("tester", "tests", 14, "98 connections to PostgreSQL, which accepts 97 (max_connections without"),
        ("limited", "tests", 1, None),
        ("limited", "tests", 2, "14 connections to PostgreSQL, which accepts 13 (the role's CONNECTION LIMIT)."),
        ("limited", "limited", 2, "14 connections to PostgreSQL, which accepts 12 (the database's CONNECTION LIMIT)."),
        ("tester", "limited", 2, None),  # superusers are exempt
    ],
)
def test_warns_of_too_few_connections(
    servers: Servers, limited: str, user: str, database: str, workers: int, limit: str | None
) -> None:
    url = f"{limited}{database}" if user == "limited" else servers.postgres.url.replace("/tests", f"/{database}")
    arguments = ("--only", "postgres", "--format", "json")
    completed = checkdeps(*arguments, DATABASE_URL=url, WEB_CONCURRENCY=str(workers), WEB_THREADS="4")
    assert completed.returncode == 0
    assert json.loads(completed.stdout)["status"] == "ready"
    if limit is None:
        assert completed.stderr == ""
    else:
        assert completed.stderr.startswith(f"Warning: This server may open {limit}")


@needs_pgbouncer
def test_limit_of_a_pooled_server_does_not_count(servers: Servers, tmp_path: Path) -> None:
    pooler = PgBouncer(tmp_path, servers.postgres)
    pooler.start()
    try:
        completed = checkdeps("--only", "postgres", DATABASE_URL=pooler.url, WEB_CONCURRENCY="50")
    finally:
        pooler.kill()
    assert (completed.returncode, completed.stderr) == (0, "")


def test_optional_failure_exits_with_0(migrated: dict[str, str]) -> None:
    completed = checkdeps(**migrated, REDIS_URL="redis://127.0.0.1:1/0", HEALTH_OPTIONAL="redis")
    assert completed.returncode == 0
    assert completed.stdout.splitlines()[-1] == "degraded"
    assert "(optional)" in completed.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "mysql"],
        ["--timeout", "0"],
        ["--timeout", "soon"],
        ["--timeout", "nan"],
        ["--wait", "-1"],
        ["--format", "xml"],
        ["--nonsense"],
        ["redis"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    completed = checkdeps(*arguments)
    assert completed.returncode == 2
    assert completed.stdout == ""
    assert "Traceback" not in completed.stderr
    if arguments[0] in ("--timeout", "--wait"):
        assert "must be a number of seconds greater than 0" in completed.stderr


@pytest.fixture
def stopped_redis(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "stopped_redis")
    yield server
    server.kill()


def test_wait_until_dependency_is_healthy(migrated: dict[str, str], stopped_redis: Valkey) -> None:
    with start("--wait", "30", "--format", "json", **migrated, REDIS_URL=stopped_redis.url) as process:
        assert process.stderr
        assert process.stderr.readline() == "waiting for redis (connection_refused)\n"
        stopped_redis.start()
        output, _ = process.communicate(timeout=40)
    assert process.returncode == 0
    assert json.loads(output)["status"] == "degraded"  # no worker uses this Redis


def test_wait_times_out(migrated: dict[str, str]) -> None:
    started_at = time.monotonic()
    completed = checkdeps("--wait", "2", **migrated, REDIS_URL="redis://127.0.0.1:1/0")
    assert completed.returncode == 1
    assert 2 <= time.monotonic() - started_at < 12 * SLOWNESS


def test_wait_ignores_optional_dependencies(migrated: dict[str, str]) -> None:
    completed = checkdeps("--wait", "50", **migrated, REDIS_URL="redis://127.0.0.1:1/0", HEALTH_OPTIONAL="redis")
    assert completed.returncode == 0
    assert completed.stderr == ""


def test_exits_promptly_while_a_check_hangs(tmp_path: Path) -> None:
    """Measure from the last line of the output to the exit, so that the start of the process does not count."""
    frozen = Postgres(tmp_path / "frozen")
    frozen.start()
    frozen.freeze()
    try:
        with start("--timeout", "0.5", DATABASE_URL=frozen.url) as process:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(len(NAMES) + 1)]
            with ends_within(0.5):
                assert process.wait(20) == 1
        assert lines[0].split()[:2] == ["postgres", "unhealthy"]
        assert "timeout" in lines[0]
        assert lines[-1] == "not_ready\n"
    finally:
        frozen.kill()


def test_ctrl_c_exits_without_traceback(migrated: dict[str, str]) -> None:
    with start("--wait", "60", **migrated, REDIS_URL="redis://127.0.0.1:1/0") as process:
        assert process.stderr
        assert "waiting" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert process.returncode == 130


def test_every_reason_has_a_hint() -> None:
    from health.checks.failure_reasons import HINTS

    assert set(HINTS) == REASONS


# On a terminal

_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_in_terminal(*arguments: str, columns: int, **environment: str) -> tuple[int, str]:
    """Run the command in a pseudo-terminal. Return the exit code and everything written to stdout and stderr."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    # Some shells and pytest-xdist set these, which override the size of the terminal.
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = ForkedPython(
        ["manage.py", "checkdeps", *arguments],
        env={**inherited, "TERM": "xterm-256color", **environment},
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    output = b""
    try:
        while data := os.read(master, 65536):
            output += data
    except OSError:  # how Linux reports that the other side is closed
        pass
    os.close(master)
    return process.wait(10), output.decode().replace("\r\n", "\n")


DOWN = {"REDIS_URL": "redis://127.0.0.1:1/0", "QDRANT_URL": "http://127.0.0.1:1", "HEALTH_OPTIONAL": "qdrant"}


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_table_fits_terminal(migrated: dict[str, str], columns: int) -> None:
    exit_code, output = run_in_terminal(columns=columns, **migrated, **DOWN)
    assert exit_code == 1
    for colour, status in ((31, "unhealthy"), (33, "unhealthy"), (32, "healthy  ")):
        assert f"\x1b[{colour};1m{status}\x1b[0m" in output
    lines = _ESCAPE_SEQUENCE.sub("", output).splitlines()
    assert all(len(line) <= columns for line in lines)
    text = " ".join(" ".join(lines).split())
    for part in ("connection_refused (optional)", "Hint: nothing is listening", "18."):
        assert part in text, part
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in NAMES] == NAMES
    assert lines[-1] == "not_ready"
    if columns >= 80:
        assert len({line.index(" ms ") for line in lines if " ms " in line}) == 1


def test_colour_can_be_disabled(migrated: dict[str, str]) -> None:
    for arguments, environment in (([], {"NO_COLOR": "1"}), (["--no-color"], {})):
        exit_code, output = run_in_terminal(*arguments, columns=80, **migrated, **environment)
        assert exit_code == 0
        assert "healthy" in output
        assert "\x1b" not in output


def test_wait_shows_countdown_on_terminal(migrated: dict[str, str]) -> None:
    wait = str(5 * SLOWNESS)  # longer than the first round of checks
    exit_code, output = run_in_terminal("--wait", wait, columns=80, **migrated, REDIS_URL="redis://127.0.0.1:1/0")
    assert exit_code == 1
    assert re.search(r"\rwaiting \d+ s for redis \(connection_refused\) ", output)
    assert output.splitlines()[-1].endswith("not_ready\x1b[0m")


def test_names_the_host_that_responded(servers: Servers, migrated: dict[str, str]) -> None:
    """The first host is down. `migrate` reaches the second one too."""
    port = servers.postgres.port
    url = migrated["DATABASE_URL"].replace(f"127.0.0.1:{port}", f"127.0.0.1:1,127.0.0.1:{port}")
    url += "?target_session_attrs=read-write"
    completed = checkdeps("--only", "postgres", "--only", "migrations", "--format", "json", DATABASE_URL=url)
    dependencies = json.loads(completed.stdout)["dependencies"]
    assert (completed.returncode, dependencies["postgres"]["detail"]) == (0, f"127.0.0.1:{port}/migrated")
    assert manage("migrate", "--check", url=as_owner(url)).returncode == 0


def test_names_every_host_if_none_responds() -> None:
    completed = checkdeps("--only", "postgres", DATABASE_URL="postgres://u:secret@127.0.0.1:1,127.0.0.2:1/db")
    assert completed.returncode == 1
    assert 'server at "127.0.0.1", port 1' in completed.stdout
    assert 'server at "127.0.0.2", port 1' in completed.stdout
    assert "secret" not in completed.stdout + completed.stderr
