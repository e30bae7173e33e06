"""`make mutants` puts the faults into a module that it should, and notices which of them tests miss."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.mutants import configuration
from tests.mutants.__main__ import sample
from tests.mutants.forks import Outcome, outcome_of
from tests.mutants.mutations import Mutant, mutants_of
from tests.mutants.patching import changes, functions_of, is_in_function
from tests.mutants.report import difference

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mutants need signals and file descriptors of Linux")
ROOT = Path(__file__).resolve().parents[2]
MODULE = b'''"""A module whose tests overlook one fault."""

LIMITS = {"page": 10, "batch": 2}


def sizes(total: int) -> list[int]:
    """Return the sizes of batches."""
    if total < 0:
        raise ValueError("The total is negative.")
    return [min(LIMITS["batch"], total - start) for start in range(0, total, LIMITS["batch"])]
'''


@pytest.mark.parametrize(
    ("code", "expected"),
    {
        "x = a == b": ["x = a != b"],
        "x = a is not b": ["x = a is b"],
        "x = a < b <= c": ["x = a <= b <= c", "x = a < b < c"],
        "x = a and b": ["x = a or b", "x = ((b))", "x = ((a))"],
        "x = not a": ["x = (a)"],
        "f(1, key=2)": ["pass", "f(2, key=2)", "f(1, key=3)", "f(1)"],
        "x = {'a': 1, 'b': 2}": ["x = {'b': 2}", "x = {'a': 1}", "x = {'a': 2, 'b': 2}", "x = {'a': 1, 'b': 3}"],
        "x = (a, b)": ["x = (b,)", "x = (a,)"],
        "x.y = z": ["pass"],
        "x += y": ["x -= y", "pass"],
        "if a: x = b": ["if True: x = b", "if False: x = b"],
        "for a in b: continue": ["for a in (): continue", "for a in b: pass"],
        "x = a[1:]": ["x = a[2:]", "x = a[:]"],
        "x = 'id full_name'": ['x = "mutated"', "x = 'full_name'", "x = 'id'"],
        "@d\ndef f(a=1): return b": [
            "\ndef f(a=1): return b",
            "@d\ndef f(a=2): return b",
            "@d\ndef f(a=1): return None",
        ],
        "try: a()\nexcept E: b()": ["try: pass\nexcept E: b()", "try: a()\nexcept (): b()", "try: a()\nexcept E: pass"],
        # For people and type checkers only.
        '"""Docstring"""': [],
        "raise E('Not found.')": ["pass"],
        "log.warning('Not found: %s', 1)": ["pass", "log.warning('Not found: %s', 2)"],
        "x: 'int'": [],
        "__slots__ = ('a',)": [],
    }.items(),
)
def test_faults(code: str, expected: list[str]) -> None:
    assert sorted(mutant.content.decode() for mutant in mutants_of("module.py", code.encode())) == sorted(expected)


def test_faults_of_migrations() -> None:
    code = '''
COUNT = 1
SQL = """CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON t; ALTER TABLE t ENABLE ALWAYS TRIGGER a"""
SQL_BEFORE = "ALTER TABLE t ENABLE ALWAYS TRIGGER a"
operations = [migrations.AddIndex(index=Index(fields=["a", "b"])), migrations.RunSQL(SQL, "DROP TRIGGER a")]
'''
    changed = [difference(mutant) for mutant in mutants_of("core/migrations/0001_initial.py", code.encode())]
    assert len(changed) == 6  # three operations twice or once, ALWAYS, RunSQL
    for part in ("AFTER UPDATE OR DELETE", "AFTER INSERT OR DELETE", "INSERT OR UPDATE  ON", "t ENABLE TRIGGER a"):
        assert any(part in change.split("\n+")[1] for change in changed), part


def test_name_stays_the_same_when_other_code_changes() -> None:
    names = [mutant.name for mutant in mutants_of("module.py", MODULE)]
    moved = MODULE.replace(b"LIMITS = ", b"OTHER = 1\n\n\nLIMITS = ")
    assert set(names) <= {mutant.name for mutant in mutants_of("module.py", moved)}
    assert len(set(names)) == len(names)
    assert "module.py:sizes: total < 0 \N{RIGHTWARDS ARROW} total <= …" in names


def test_sample_hardly_changes_with_the_code() -> None:
    changed = mutants_of("module.py", MODULE.replace(b"< 0", b"<= 0 or total > 1000"))
    before = {mutant.name for mutant in sample(mutants_of("module.py", MODULE), 8, "1")}
    after = {mutant.name for mutant in sample(changed, 8, "1")}
    assert len(before) == len(after) == 8
    assert len(before & after) >= 4
    assert before != {mutant.name for mutant in sample(mutants_of("module.py", MODULE), 8, "2")}


@pytest.fixture
def module(tmp_path: Path) -> ModuleType:
    path = tmp_path / "mutated_module.py"
    path.write_bytes(MODULE)
    spec = importlib.util.spec_from_file_location("mutated_module", path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_functions_are_patched_and_survivors_are_found(module: ModuleType) -> None:
    def tests() -> str:
        try:
            module.sizes(-1)
        except ValueError:
            return "" if module.sizes(5) == [2, 2, 1] else "other sizes"
        return "no error"

    path = str(module.__file__)
    survivors = []
    for mutant in mutants_of("module.py", MODULE):
        if mutant.function and is_in_function(mutant):
            outcome = outcome_of(_patched(tests, mutant, path), 30)
            survivors += [mutant.name] * (outcome.status == "survived")
    assert survivors == ["module.py:sizes: total < 0 → total <= …", "module.py:sizes: 0 → 1"]
    assert tests() == ""  # only the forks have been changed


def _patched(tests: Callable[[], str], mutant: Mutant, path: str) -> Callable[[], str]:
    def run() -> str:
        for function, code in changes(mutant, functions_of(path), path):
            function.__code__ = code
        return tests()

    return run


def test_table_is_not_in_a_function() -> None:
    mutants = mutants_of("module.py", MODULE)
    assert {mutant.function for mutant in mutants if not is_in_function(mutant)} == {""}


def test_fork_that_hangs_or_crashes_is_killed_with_its_processes() -> None:
    def hang() -> str:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        time.sleep(60)
        return ""

    def crash() -> str:
        raise ZeroDivisionError

    existing = psutil.Process().children(recursive=True)
    assert outcome_of(hang, 1).status == "timeout"
    assert outcome_of(crash, 30).status == "killed"
    assert outcome_of(lambda: os._exit(7), 30) == Outcome("killed", "exit code 7")
    assert psutil.Process().children(recursive=True) == existing


def test_modules_and_tests_exist() -> None:
    modules = configuration.modules()
    for path in [*modules, *(test for tests in modules.values() for test in tests)]:
        assert (ROOT / path).is_file(), path


def test_equivalents_exist() -> None:
    for module in {name.split(":")[0] for name in configuration.equivalents()}:
        names = {mutant.name for mutant in mutants_of(module, (ROOT / module).read_bytes())}
        assert {name for name in configuration.equivalents() if name.startswith(f"{module}:")} <= names
