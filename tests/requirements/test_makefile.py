"""What the Makefile does before the installer runs."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNNAMED_USER = 4711


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("target", ["run", "test"])
def test_a_user_without_a_name_is_refused_before_anything_is_installed(target: str) -> None:
    as_user = ["setpriv", f"--reuid={UNNAMED_USER}", f"--regid={UNNAMED_USER}", "--clear-groups"]
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder can be entered by its owner only
        folder = Path(name)
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copytree(ROOT / "requirements", folder / "requirements")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, UNNAMED_USER, UNNAMED_USER)
        environment = {"PATH": os.environ["PATH"]}
        done = subprocess.run([*as_user, "make", target], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.stdout == ""
        assert done.stderr.startswith(f"make: the user {UNNAMED_USER} has no name, which PostgreSQL needs. Add a line")
        assert sorted(path.name for path in folder.iterdir()) == ["Makefile", "requirements"]
