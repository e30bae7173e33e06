"""What stops the start of the server with one line, and what it logs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.staticfiles.apps import StaticFilesConfig
from django.contrib.staticfiles.finders import get_finders
from pytest_django import Settings

from tests.support.load_settings import PRODUCTION
from tests.support.voiceassist_server import ROOT
from voiceassist import start_checks

START = [sys.executable, "-m", "gunicorn", "-c", "voiceassist/gunicorn.py", "voiceassist.wsgi:application"]


@pytest.mark.parametrize(
    ("shell", "environment", "message"),
    [
        ("exec", {"SCRIPT_NAME": "/va"}, "SCRIPT_NAME: Not supported. Unset it, and serve"),
        ("exec", {"GUNICORN_CMD_ARGS": "--env SCRIPT_NAME=/va"}, "SCRIPT_NAME: Not supported. Unset it, and serve"),
        ("ulimit -n 64; exec", {}, "open files: The limit is too low. Raise it to at least 112 (ulimit -n"),
    ],
)
def test_start_is_refused(shell: str, environment: dict[str, str], message: str) -> None:
    lines = refused_start(*START, shell=shell, **environment)
    assert lines[-1].startswith(f"voiceassist: {message}")
    assert "/va" not in " ".join(lines)


def test_production_without_static_files_is_refused_with_one_line(tmp_path: Path) -> None:
    """WhiteNoise would also warn, before the line that says what to do."""
    config = tmp_path / "gunicorn.py"
    config.write_text(
        "from pathlib import Path\n"
        "from voiceassist import settings\n"
        "settings.STATIC_ROOT = Path('/no/such/folder')\n"
        "from voiceassist.gunicorn import *\n"
        "from voiceassist.gunicorn import start\n"
        "start()\n"
    )
    starting, refused = refused_start(*START[:3], "-c", str(config), START[-1], **PRODUCTION)
    assert starting.startswith("Starting gunicorn")
    assert refused.startswith("voiceassist: static files: Not collected")


def refused_start(*command: str, shell: str = "exec", **environment: str) -> list[str]:
    """Return the messages that the server logs before it exits."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'{shell} "$@"', "sh", *command, "--bind", "127.0.0.1:0"],
        env={**os.environ, "LOG_FORMAT": "json", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    return [json.loads(line)["message"] for line in (done.stdout + done.stderr).splitlines()]


COLLECTED = {path: path for finder in get_finders() for path, _ in finder.list(StaticFilesConfig.ignore_patterns)}
MANIFEST = {"version": "1.1", "hash": "", "paths": COLLECTED}


@pytest.mark.parametrize(
    ("manifest", "missing"),
    [
        (None, len(COLLECTED)),
        ("{", len(COLLECTED)),
        (b"\xff", len(COLLECTED)),
        (json.dumps({**MANIFEST, "version": "9"}), len(COLLECTED)),
        (json.dumps({**MANIFEST, "paths": {k: v for k, v in COLLECTED.items() if k != "core/admin.css"}}), 1),
        (json.dumps(MANIFEST), 0),
    ],
)
def test_missing_static_files(
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    manifest: str | bytes | None,
    missing: int,
) -> None:
    """The manifest is missing, damaged, or of another release. Files that `collectstatic` ignores don't count."""
    folder = tmp_path / "app"
    folder.mkdir()
    for name in (".DS_Store", "style.css~"):
        (folder / name).touch()
    settings.STATICFILES_DIRS = [folder]
    if manifest is not None:
        (tmp_path / "staticfiles.json").write_bytes(manifest.encode() if isinstance(manifest, str) else manifest)
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }
    monkeypatch.setattr("voiceassist.settings.PRODUCTION", True)
    if missing:
        with pytest.raises(
            SystemExit, match=rf"^voiceassist: static files: Not collected \({missing} missing\)\. Run "
        ):
            start_checks.check(workers=2, threads=4)
    else:
        start_checks.check(workers=2, threads=4)


def test_maximum_of_connections_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "voiceassist.server"):
        start_checks.check(workers=8, threads=4)
    assert caplog.messages == ["The server may open up to 56 connections to PostgreSQL (workers: 8, threads: 4)"]
