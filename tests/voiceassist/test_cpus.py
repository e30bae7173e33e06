"""The default of WEB_CONCURRENCY: the number of CPUs that the process may use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.voiceassist_server import ROOT
from voiceassist import cpus

POD = "kubepods/pod1/abc"


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """Create /proc/self/cgroup and the files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v1(folder: str, quota: int) -> dict[str, str]:
    return {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("affinity", "cgroup", "files", "expected"),
    [
        (6, "0::/\n", {}, 6),
        (64, "0::/\n", {}, 8),
        # Version 2
        (64, "0::/\n", {"cpu.max": "max 100000\n"}, 8),
        (64, "0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        (64, "0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        (64, "0::/\n", {"cpu.max": "25000 50000\n"}, 1),
        (3, "0::/\n", {"cpu.max": "400000 100000\n"}, 3),
        (64, "0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "300000 100000\n"}, 3),
        (64, "0::/a.slice/b\n", {"a.slice/b/cpu.max": "max 100000\n", "a.slice/cpu.max": "300000 100000\n"}, 3),
        # Without a cgroup namespace, only the container's own cgroup is mounted.
        (64, f"0::/{POD}\n", {"cpu.max": "300000 100000\n"}, 3),
        # Version 1
        (64, f"4:memory:/x\n3:cpu,cpuacct:/{POD}\n", v1("cpu/", -1), 8),
        (64, f"4:memory:/x\n3:cpu,cpuacct:/{POD}\n", v1("cpu/", 250_000), 3),
        (64, f"3:cpuacct,cpu:/{POD}\n0::/\n", v1(f"cpu/{POD}/", 50_000), 1),
        (64, f"3:cpuset:/{POD}\n", v1("cpu/", 250_000), 8),  # limits no CPU time
        # Missing or malformed files
        (5, "", {"cpu.max": "100000 100000\n"}, 5),
        (5, "0::/\n", {"cpu.max": "nonsense\n"}, 5),
    ],
)
def test_usable_cpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    affinity: int,
    cgroup: str,
    files: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    assert cpus.usable_cpus(machine(tmp_path, cgroup, files)) == expected


def test_usable_cpus_without_affinity_and_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert cpus.usable_cpus(tmp_path) == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.usable_cpus(tmp_path) == 1


@pytest.mark.skipif(
    not shutil.which("taskset") and "CI" not in os.environ, reason="taskset is not installed; CI has it"
)
def test_web_concurrency_follows_cpu_affinity() -> None:
    code = "from voiceassist import settings; print(settings.WEB_CONCURRENCY)"
    first = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(
        ["taskset", "--cpu-list", first, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
