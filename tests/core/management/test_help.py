"""Each of our commands starts in a new Python process. Most other tests fork one that has imported libraries."""

import subprocess
import sys

import pytest
from django.core.management import get_commands

from tests.docs.markdown import ROOT

OWN = sorted(name for name, package in get_commands().items() if package in ("core", "health"))


@pytest.mark.parametrize("name", OWN)
def test_describes_itself(name: str) -> None:
    command = [sys.executable, "manage.py", name, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: manage.py {name} ")
