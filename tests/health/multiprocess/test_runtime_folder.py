"""The private folder of a server: where it is, who can read it, and when it is removed."""

import fcntl
import os
import shutil
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from health.multiprocess import runtime_folder
from tests.support.forks import Fork, exit_code_in_fork
from tests.support.full_disk import file_size_limit
from tests.support.polling import succeeds_within


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runtime_folder, "path", None)
    monkeypatch.setattr(runtime_folder, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # `create` sets it
    return tmp_path


def test_folder_is_private_and_in_shared_memory(shared_memory: Path) -> None:
    runtime_folder.create()
    path = runtime_folder.path
    assert path
    assert path.parent == shared_memory
    assert path.stat().st_mode & 0o777 == 0o700
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(path)
    runtime_folder.create()  # as at a reload
    assert runtime_folder.path == path
    runtime_folder.remove()
    assert list(shared_memory.iterdir()) == []


def test_folder_is_in_the_temp_directory_without_shared_memory(
    shared_memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_folder, "_SHARED_MEMORY", tmp_path / "missing")
    assert runtime_folder.parent() == Path(tempfile.gettempdir())
    monkeypatch.setattr(runtime_folder, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert runtime_folder.parent() == Path(tempfile.gettempdir())


def test_folder_is_not_in_full_shared_memory(shared_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_folder.parent() == shared_memory
    usage = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert runtime_folder.parent() == Path(tempfile.gettempdir())


def test_only_unlocked_folders_of_servers_are_removed(
    shared_memory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "file").touch()
    names = {name: shared_memory / f"voiceassist-runtime-{name}" for name in ("unlocked", "locked", "link", "pipe")}
    for name in ("unlocked", "locked"):
        names[name].mkdir()
        (names[name] / "counter_1.db").touch()
    names["link"].symlink_to(other)
    os.mkfifo(names["pipe"])  # opening it would wait for a writer
    descriptor = os.open(names["locked"], os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        runtime_folder.create()
    finally:
        os.close(descriptor)
    left = {path.name.rpartition("-")[2] for path in shared_memory.iterdir() if path != runtime_folder.path}
    assert left == {"locked", "link", "pipe"}
    assert (other / "file").exists()
    runtime_folder.remove()


def test_folder_that_another_server_removed_before_it_was_locked_is_replaced(
    shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server that starts takes an unlocked folder for that of a killed one."""
    make_folder, made = tempfile.mkdtemp, []

    def make_and_lose(*args: str, **kwargs: str) -> str:
        made.append(make_folder(*args, **kwargs))
        if len(made) < 3:
            runtime_folder._remove_if_unlocked(Path(made[-1]))
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    runtime_folder.create()
    assert [Path(name).exists() for name in made] == [False, False, True]
    assert str(runtime_folder.path) == made[-1]
    runtime_folder.remove()


def test_servers_that_start_at_the_same_time_have_folders_of_their_own(shared_memory: Path) -> None:
    reader, writer = os.pipe()

    def start_three_times() -> None:
        os.read(reader, 1)  # until all have been started
        for _ in range(3):
            runtime_folder.create()
            assert runtime_folder.path
            runtime_folder.write("pid", str(os.getpid()))
            assert (runtime_folder.path / "pid").read_text() == str(os.getpid())
            runtime_folder.remove()

    with ExitStack() as stack:
        for end in (reader, writer):
            stack.callback(os.close, end)
        children = [stack.enter_context(Fork(start_three_times)) for _ in range(6)]
        os.write(writer, b"x" * len(children))
        assert [child.wait() for child in children] == [0] * 6
    assert list(shared_memory.iterdir()) == []


def test_folder_is_locked_as_long_as_a_process_of_the_server_runs(shared_memory: Path) -> None:
    """A worker that outlives its killed master still writes to the folder."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        ours.close()
        runtime_folder.create()
        if os.fork() == 0:  # the worker, which outlives this process and ends as it does
            theirs.sendall(str(runtime_folder.path).encode())
            theirs.recv(1)

    with ours:
        with theirs:
            assert exit_code_in_fork(serve) == 0
        folder = Path(ours.recv(1000).decode())
        assert folder.parent == shared_memory  # not "", which would be the current folder

        def is_removed() -> bool:
            runtime_folder._remove_if_unlocked(folder)
            return not folder.exists()

        assert not is_removed()
        ours.sendall(b"x")  # the worker ends
        assert succeeds_within(10, is_removed)


def test_write_replaces_a_file_at_once(shared_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_folder, "path", shared_memory)
    runtime_folder.write("name", "old")
    with (shared_memory / "name").open() as reader:
        runtime_folder.write("name", "new")
        assert reader.read() == "old"  # a reader never sees a part
    assert {path.name: path.read_text() for path in shared_memory.iterdir()} == {"name": "new"}
    monkeypatch.setattr(runtime_folder, "path", None)
    runtime_folder.write("other", "text")  # does nothing
    assert not (shared_memory / "other").exists()


# Where it is


def test_place_and_space_are_those_of_the_documentation() -> None:
    assert Path("/dev/shm") == runtime_folder._SHARED_MEMORY
    assert (runtime_folder._MIN_FREE_SPACE, runtime_folder._START_SPACE) == (16_777_216, 1_048_576)


@pytest.mark.parametrize(("free", "is_used"), [(16_777_216, True), (16_777_215, False)])
def test_shared_memory_needs_16_mib(
    free: int, is_used: bool, shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert (runtime_folder.parent() == shared_memory) is is_used


def test_shared_memory_must_be_a_directory_in_which_files_can_be_made(
    shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def access(path: Path, mode: int) -> bool:
        modes.append(mode)
        return True

    monkeypatch.setattr(os, "access", access)
    assert runtime_folder.parent() == shared_memory
    assert modes == [os.W_OK | os.X_OK]
    (shared_memory / "file").touch()
    monkeypatch.setattr(runtime_folder, "_SHARED_MEMORY", shared_memory / "file")
    assert runtime_folder.parent() == Path(tempfile.gettempdir())


def test_start_without_any_folder_exits_with_one_line(shared_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    monkeypatch.setattr(tempfile, "gettempdir", fail)
    with pytest.raises(SystemExit) as raised:
        runtime_folder.parent()
    assert raised.value.code == (
        f"voiceassist: {shared_memory} has no 16 MiB of free, writable space. No usable temporary directory found in "
        "['/tmp', '/var/tmp']. Free space in one of them, or set TMPDIR to a writable directory."
    )


# Creating and removing it


def test_start_needs_one_mib(shared_memory: Path) -> None:
    with file_size_limit(1_048_575), pytest.raises(SystemExit) as raised:
        runtime_folder.create()
    assert raised.value.code == (
        f"voiceassist: Can't write the files that workers share to {shared_memory} (File too large). "
        "Free space there, or set TMPDIR to another directory."
    )
    assert (runtime_folder.path, list(shared_memory.iterdir())) == (None, [])
    with file_size_limit(1_048_576):
        runtime_folder.create()
    assert runtime_folder.path
    assert runtime_folder.path.name.startswith(f"voiceassist-runtime-{os.getpid()}-")
    assert list(runtime_folder.path.iterdir()) == []
    runtime_folder.remove()


def test_second_call_looks_at_no_other_folder(shared_memory: Path) -> None:
    runtime_folder.create()
    (shared_memory / "voiceassist-runtime-1-a").mkdir()
    runtime_folder.create()
    assert (shared_memory / "voiceassist-runtime-1-a").exists()
    runtime_folder.remove()


def test_folder_that_is_gone_can_be_removed(shared_memory: Path) -> None:
    runtime_folder.create()
    shutil.rmtree(shared_memory)
    for _ in range(2):
        runtime_folder.remove()
        assert runtime_folder.path is None


def test_looking_for_folders_leaves_no_open_file(shared_memory: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for number in range(3):
        (shared_memory / f"voiceassist-runtime-{number}").mkdir()
        runtime_folder._remove_if_unlocked(shared_memory / f"voiceassist-runtime-{number}")
    assert list(shared_memory.iterdir()) == []
    assert set(os.listdir("/proc/self/fd")) <= before


def test_incomplete_file_has_the_name_that_is_removed_with_its_worker(
    shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_folder, "path", shared_memory)

    def die(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        runtime_folder.write("state_1.json", "text")
    assert [path.name for path in shared_memory.iterdir()] == ["state_1.json.tmp"]


def test_allocation_writes_all_bytes_at_once_and_in_parts(tmp_path: Path) -> None:
    for size in (1, 1000, 3_000_000):
        runtime_folder.allocate(tmp_path / "file", size)
        assert (tmp_path / "file").stat().st_size == size
