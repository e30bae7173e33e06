"""Packages that libraries would import only because they are installed."""

import subprocess
import sys
from typing import Any

import pytest

from core import unused_imports
from tests.support.voiceassist_server import ROOT


def loaded_after(program: str) -> set[str]:
    """Return which of the packages a new Python has imported at the end of the program."""
    end = f"\nimport sys; print(*({set(unused_imports._UNUSED)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program + end], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_server_does_not_import_them() -> None:
    # In the order of voiceassist/gunicorn.py.
    assert (
        loaded_after("from core import secret_files; from voiceassist import settings, wsgi, gunicorn_worker") == set()
    )


def test_libraries_would_import_them() -> None:
    """Otherwise the module could be removed."""
    program = "import rest_framework.compat, redis.asyncio, structlog"
    assert loaded_after(program) == set(unused_imports._UNUSED)


@pytest.mark.parametrize("package", unused_imports._UNUSED)
def test_others_can_import_them(package: Any) -> None:
    assert package in loaded_after(f"import core, rest_framework.compat, redis, structlog, {package}")
