"""`manage.py checkdeps` as a user runs it: in a process of its own, against real servers that come and go."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.api.test_envelope import REASONS
from tests.support.dependency_servers import Postgres, Valkey
from tests.support.plugin import Servers

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["postgres", "redis", "qdrant", "migrations"]


def checkdeps(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "checkdeps", *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "manage.py", "checkdeps", *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def migrated(servers: Servers) -> dict[str, str]:
    """An environment whose database is migrated: the tests' own is made by pytest-django under another name."""
    servers.postgres.execute("CREATE DATABASE migrated")
    environment = {"DATABASE_URL": servers.postgres.url.replace("/tests", "/migrated")}
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        env={**os.environ, **environment},
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    return environment


def test_all_well(migrated: dict[str, str]) -> None:
    done = checkdeps(**migrated)
    assert (done.returncode, done.stderr) == (0, "")
    *rows, last = done.stdout.splitlines()
    assert [row.split()[0] for row in rows] == NAMES
    assert all(row.split()[1] == "healthy" for row in rows)
    assert last == "ready"
    assert "\x1b" not in done.stdout
    # Aligned: the same column for everybody's latency.
    assert len({row.index(" ms ") for row in rows}) == 1


def test_json_is_the_report_with_detail_and_version(migrated: dict[str, str]) -> None:
    done = checkdeps("--format", "json", **migrated)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report) == {"status", "dependencies", "checked_at"}
    assert report["status"] == "ready"
    assert list(report["dependencies"]) == NAMES
    for dependency in report["dependencies"].values():
        assert set(dependency) == {"status", "critical", "latency_ms", "reason", "detail", "version"}
    versions = {name: dependency["version"] for name, dependency in report["dependencies"].items()}
    assert versions["postgres"].startswith("18.")
    assert versions["redis"]
    assert versions["qdrant"] == "1.20.0"


def test_before_any_migration_and_while_dependencies_are_down(servers: Servers) -> None:
    done = checkdeps("--format", "json", REDIS_URL="redis://127.0.0.1:1/0", QDRANT_URL="http://127.0.0.1:1")
    assert done.returncode == 1
    dependencies = json.loads(done.stdout)["dependencies"]
    assert {name: dependency["reason"] for name, dependency in dependencies.items()} == {
        "postgres": None,
        "redis": "connection_refused",
        "qdrant": "connection_refused",
        "migrations": "migrations_pending",
    }


def test_the_table_says_what_to_do(servers: Servers) -> None:
    done = checkdeps(DATABASE_URL="postgres://user:hunter2@127.0.0.1:1/name")
    assert done.returncode == 1
    assert re.search(r"^postgres +unhealthy .*connection_refused.*Hint: ", done.stdout, re.MULTILINE)
    assert "127.0.0.1" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "not_ready"


def test_only(migrated: dict[str, str]) -> None:
    done = checkdeps(
        "--only", "redis", "--only", "qdrant", "--format", "json", DATABASE_URL="postgres://a@127.0.0.1:1/b"
    )
    assert done.returncode == 0
    assert list(json.loads(done.stdout)["dependencies"]) == ["redis", "qdrant"]


def test_optional_ones_only_degrade(migrated: dict[str, str]) -> None:
    done = checkdeps(**migrated, REDIS_URL="redis://127.0.0.1:1/0", HEALTH_OPTIONAL="redis")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "degraded"
    assert "(optional)" in done.stdout


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
def test_wrong_usage(arguments: list[str]) -> None:
    done = checkdeps(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.fixture
def late(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "late")
    yield server
    server.kill()


def test_wait_until_it_is_there(migrated: dict[str, str], late: Valkey) -> None:
    with start("--wait", "30", "--format", "json", **migrated, REDIS_URL=late.url) as process:
        assert process.stderr
        assert process.stderr.readline() == "waiting for redis (connection_refused)\n"
        late.start()
        output, _ = process.communicate(timeout=40)
    assert process.returncode == 0
    assert json.loads(output)["status"] == "ready"


def test_wait_ends(migrated: dict[str, str]) -> None:
    began = time.monotonic()
    done = checkdeps("--wait", "2", **migrated, REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert 2 <= time.monotonic() - began < 12


def test_wait_does_not_wait_for_optional_ones(migrated: dict[str, str]) -> None:
    done = checkdeps("--wait", "50", **migrated, REDIS_URL="redis://127.0.0.1:1/0", HEALTH_OPTIONAL="redis")
    assert done.returncode == 0
    assert done.stderr == ""


def test_it_ends_soon_after_its_answer_though_a_check_is_frozen(tmp_path: Path) -> None:
    """The tail is measured in the process: from the last line of its answer to its end."""
    frozen = Postgres(tmp_path / "frozen")
    frozen.start()
    frozen.freeze()
    try:
        with start("--timeout", "0.5", DATABASE_URL=frozen.url) as process:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(5)]
            answered = time.monotonic()
            assert process.wait(10) == 1
            assert time.monotonic() - answered < 1 + 1  # one of them for a busy machine
        assert lines[0].split()[:2] == ["postgres", "unhealthy"]
        assert "timeout" in lines[0]
        assert lines[-1] == "not_ready\n"
    finally:
        frozen.kill()


def test_ctrl_c_while_waiting_is_no_traceback(migrated: dict[str, str]) -> None:
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


# At a terminal

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def at_terminal(*arguments: str, columns: int, **environment: str) -> tuple[int, str]:
    """Runs it in a pseudo-terminal. Returns the exit code and all that came to it, from stdout and stderr."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "manage.py", "checkdeps", *arguments],
        env={**os.environ, "TERM": "xterm-256color", **environment},
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
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(master)
    return process.wait(10), output.decode().replace("\r\n", "\n")


DOWN = {"REDIS_URL": "redis://127.0.0.1:1/0", "QDRANT_URL": "http://127.0.0.1:1", "HEALTH_OPTIONAL": "qdrant"}


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_gets_a_table_that_fits(migrated: dict[str, str], columns: int) -> None:
    code, output = at_terminal(columns=columns, **migrated, **DOWN)
    assert code == 1
    assert "\x1b[31m✘ unhealthy" in output
    assert "\x1b[33m▲ unhealthy" in output
    assert "\x1b[32m✔ healthy" in output
    lines = _ESCAPE.sub("", output).splitlines()
    assert all(len(line) <= columns for line in lines)
    words = " ".join("".join(lines).split())
    for part in ("connection_refused (optional)", "→ nothing listens there", "18."):
        assert part in words, part
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in NAMES] == NAMES
    assert [line.strip() for line in lines if line.strip()][-1] == "✘ not_ready"
    if columns >= 80:
        assert len({line.index(" ms ") for line in lines if " ms " in line}) == 1


def test_a_terminal_without_colour_gets_none(migrated: dict[str, str]) -> None:
    code, output = at_terminal(columns=80, NO_COLOR="1", **migrated)
    assert code == 0
    assert "✔ healthy" in output
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", output)


def test_a_terminal_sees_the_waiting(migrated: dict[str, str]) -> None:
    code, output = at_terminal("--wait", "1", columns=80, **migrated, REDIS_URL="redis://127.0.0.1:1/0")
    assert code == 1
    assert "waiting for redis (connection_refused), 1 s left" in output
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor is back


def test_a_pipe_does_not_pay_for_the_terminal() -> None:
    program = (
        "import sys, django; django.setup()\n"
        "from django.core.management import call_command; call_command('checkdeps', '--only', 'redis')\n"
        "assert 'rich' not in sys.modules"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "voiceassist.settings"}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True, timeout=60)


def test_of_several_hosts_the_one_that_answered_is_named(servers: Servers, migrated: dict[str, str]) -> None:
    """The first one is down; `migrate` reaches the second one too."""
    port = servers.postgres.port
    url = migrated["DATABASE_URL"].replace(f"127.0.0.1:{port}", f"127.0.0.1:1,127.0.0.1:{port}")
    url += "?target_session_attrs=read-write"
    done = checkdeps("--only", "postgres", "--only", "migrations", "--format", "json", DATABASE_URL=url)
    found = json.loads(done.stdout)["dependencies"]
    assert (done.returncode, found["postgres"]["detail"]) == (0, f"127.0.0.1:{port}/migrated")
    command = [sys.executable, "manage.py", "migrate", "--check"]
    assert subprocess.run(command, env={**os.environ, "DATABASE_URL": url}, cwd=ROOT, timeout=60).returncode == 0


def test_every_host_is_named_when_none_answers() -> None:
    done = checkdeps("--only", "postgres", DATABASE_URL="postgres://u:secret@127.0.0.1:1,127.0.0.2:1/db")
    assert done.returncode == 1
    assert 'server at "127.0.0.1", port 1' in done.stdout
    assert 'server at "127.0.0.2", port 1' in done.stdout
    assert "secret" not in done.stdout + done.stderr
