"""The private folder of a server: where it is, who can read it, and when it is removed."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from health.multiprocess import runtime_folder


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
