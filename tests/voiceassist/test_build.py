"""The identity of the build: from the file in the image, or from git in a checkout."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client

from tests.support.voiceassist_server import ROOT
from voiceassist import __version__, build

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TIME = "2026-11-27T17:00:00Z"


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
    return tmp_path


def test_commit_of_a_checkout(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert build.identity(checkout) == (commit, None)
    git(checkout, "checkout", "--quiet", "-b", "feature/a")
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "second")
    second = git(checkout, "rev-parse", "HEAD")
    assert build.identity(checkout) == (second, None)
    git(checkout, "pack-refs", "--all")
    assert not (checkout / ".git" / "refs" / "heads" / "feature" / "a").exists()
    assert build.identity(checkout) == (second, None)
    git(checkout, "checkout", "--quiet", "--detach", commit)
    assert build.identity(checkout) == (commit, None)


@pytest.mark.parametrize("head", [None, "", "ref: refs/heads/missing\n", "nonsense\n", b"\xff\xfe"])
def test_commit_is_unknown_without_a_readable_head(tmp_path: Path, head: str | bytes | None) -> None:
    if head is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "HEAD").write_bytes(head if isinstance(head, bytes) else head.encode())
    assert build.identity(tmp_path) == (None, None)


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        (f"{COMMIT}\n{TIME}\n", (COMMIT, TIME)),
        (f"{COMMIT[:7]}\nunknown\n", (COMMIT[:7], None)),
        (f"unknown\n{TIME}\n", (None, TIME)),
        (f"{COMMIT}-dirty\n2026-11-27\n", (None, None)),
        ("", (None, None)),
    ],
)
def test_file_of_the_image_comes_first(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, text: str, identity: tuple[str | None, str | None]
) -> None:
    file = checkout / "build-identity"
    file.write_text(text)
    monkeypatch.setattr(build, "_FILE", file)
    assert build.identity(checkout) == identity


def test_dockerfile_labels_the_image_and_writes_the_file() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', dockerfile))
    assert {name: labels[name] for name in ("version", "revision", "created")} == {
        "version": __version__,
        "revision": "$COMMIT",
        "created": "$BUILT_AT",
    }
    assert f">voiceassist/{build._FILE.name} " in dockerfile


def test_index_has_the_identity(client: Client) -> None:
    data = json.loads(client.get("/").content)["data"]
    assert (data["commit"], data["built_at"]) == (settings.COMMIT, settings.BUILT_AT)
    assert set(data) == {"service", "version", "commit", "built_at", "links"}
