"""Every target of the Makefile is run by CI or a test."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.benchmarks.smoke import COMMANDS
from tests.docs.markdown import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.MULTILINE))
CI = ".ci/run"
# What runs each target, or what runs the same commands.
RUN_BY = {
    "help": "tests/docs/test_targets.py",
    "run": "tests/fresh_clone/test_make.py",
    "test": CI,
    "test-slow": CI,
    "test-pythons": CI,
    "fresh-clone": CI,
    "mutants": CI,  # a sample
    "failover": CI,
    "benchmark": "tests/benchmarks/smoke.py",
    "benchmark-data": "tests/benchmarks/smoke.py",
    "benchmark-users": "tests/benchmarks/smoke.py",
    "benchmark-compare": "tests/benchmarks/smoke.py",
    "drill": CI,
    "soak": CI,
    "smoke": "Makefile",  # a part of `make check`
    "check": CI,
    "kubernetes": CI,
    "prometheus-rule": "tests/docs/test_targets.py",
    "stop": "tests/fresh_clone/test_make.py",
    "lock": "tests/requirements/test_locks.py",  # compares input and output, because it needs the network
    "format": "tests/docs/test_targets.py",
}


def recipe(target: str) -> str:
    match = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert match
    return match[1]


def test_every_target_is_run() -> None:
    assert set(RUN_BY) == TARGETS
    commands = (ROOT / CI).read_text()
    assert {name for name in TARGETS if re.search(rf"\bmake {name}\b(?!-)", commands)} == {
        name for name, where in RUN_BY.items() if where == CI
    }
    assert "$(MAKE) --no-print-directory smoke" in recipe("check")


@pytest.mark.parametrize("target", sorted(name for name in TARGETS if name.startswith("benchmark")))
def test_benchmarks_are_part_of_smoke(target: str) -> None:
    modules = set(re.findall(r"-m tests\.benchmarks\.(\w+)", recipe(target)))
    assert modules and modules <= {command[0] for command in COMMANDS}


def test_help_lists_every_target() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^make ([a-z-]+)\t\S", done.stdout, re.MULTILINE)) == TARGETS


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with the Makefile and the environment, so that a target can change files."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    return tmp_path


def make(folder: Path, target: str) -> None:
    # The environment is up to date.
    subprocess.run(["make", "--old-file=.venv/installed-dev", target], cwd=folder, check=True, capture_output=True)


def test_format(copy: Path) -> None:
    (copy / "module.py").write_text("import sys\nimport os\nprint( os.name,sys.path )\n")
    make(copy, "format")
    assert (copy / "module.py").read_text() == "import os\nimport sys\n\nprint(os.name, sys.path)\n"


def test_prometheus_rule(copy: Path) -> None:
    """tests/ops/test_kubernetes.py compares its content with the alerts."""
    rule = Path("ops/kubernetes/prometheus-operator/prometheus-rule.yaml")
    for path in (rule, Path("ops/prometheus/alerts.yml")):
        (copy / path).parent.mkdir(parents=True)
        shutil.copy(ROOT / path, copy / path)
    before = (copy / rule).read_text()
    (copy / rule).write_text(before[: before.index("  groups:") + 10])
    make(copy, "prometheus-rule")
    assert (copy / rule).read_text() == before
    assert not list(copy.rglob("*.new"))
