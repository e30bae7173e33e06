"""Promises of the documentation that are no single number. `test_claims` has the numbers."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.docs.markdown import ROOT
from tests.support.load_settings import load_settings
from voiceassist import __version__, environment


def minutes(phrase: str) -> int:
    number = phrase.split()[0]
    return {word: number for number, word in {1: "a", 2: "two", 5: "five", 10: "ten"}.items()}.get(number) or int(
        number
    )


def test_the_runbook_has_the_times_of_the_alerts() -> None:
    """The first duration in "What it means" is that of `for`, with the range of the rate if the alert is about none."""
    alerts = (ROOT / "ops" / "prometheus" / "alerts.yml").read_text()
    runbook = re.sub(r"\s+", " ", (ROOT / "docs" / "RUNBOOK.md").read_text())
    found = {}
    for name, rule in re.findall(r"- alert: (\w+)\n(.*?)labels:", alerts, re.DOTALL):
        meaning = runbook.split(f" ## {name} **What it means.** ")[1].split(". ")[0]
        duration = re.search(r"\b[Ff]or (?:more than )?((?:a|[a-z0-9]+) minutes?)\b", meaning)
        if duration:
            [wait] = re.findall(r"for: (\d+)m", rule)
            [before] = re.findall(r"unless.*\[(\d+)m\]", rule, re.DOTALL) or ["0"]
            found[name] = (minutes(duration[1]), int(wait) + int(before))
    assert len(found) > 10
    assert {name: times for name, times in found.items() if times[0] != times[1]} == {"VoiceAssistJobsStuck": (10, 1)}
    assert "> 600" in alerts.split("alert: VoiceAssistJobsStuck")[1].split("for:")[0]  # seconds, of the job


def test_any_variable_can_be_given_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.ENVIRONMENT_VARIABLES:
        (tmp_path / name).write_text(f"value of {name}\n")
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    env = environment.Environment()
    assert {env.text(name) for name in settings.ENVIRONMENT_VARIABLES} == {
        f"value of {name}" for name in settings.ENVIRONMENT_VARIABLES
    }
    # Every other method reads through this one.
    assert inspect.getsource(environment).count("self._values.get(") == 1


def test_the_changelog_begins_with_the_next_or_the_current_version() -> None:
    versions = re.findall(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = versions[1:] if versions[0] == "Unreleased" else versions
    assert released[:1] in ([], [__version__])


README_DEFAULTS = re.findall(r"^\| `([A-Z_]+)` \| [^|]+ \| `([^`]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_readme_has_the_defaults() -> None:
    values = load_settings({})
    defaults = {name: default for name, default in README_DEFAULTS if name in values}
    assert {"HEALTH_TIMEOUT", "WEB_THREADS", "LOG_LEVEL", "OTEL_SERVICE_NAME", "DATABASE_TIMEOUT"} <= set(defaults)
    differ = {
        name: default for name, default in defaults.items() if default not in (str(values[name]), _short(values[name]))
    }
    # The table gives the values of production first.
    assert differ == {"ADMIN_MFA": "required", "BIND": "0.0.0.0:8000", "LOG_FORMAT": "json"}


def _short(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) else str(value).lower()


# A page, a sentence, and the file and text that make it true.
SENTENCES = [
    (
        "LOCAL_DEVELOPMENT",
        "adds 100 users, 2,000 sessions and 40,000 messages",
        "core/management/commands/seed_demo.py",
        '(("users", 100), ("sessions", 2000), ("messages", 40_000))',
    ),
    (
        "FIRST_HOUR",
        "add 100 synthetic users with 2,000 conversations",
        "core/management/commands/seed_demo.py",
        '(("users", 100), ("sessions", 2000),',
    ),
    (
        "SECURITY_COMPLIANCE",
        "Compose keeps five files of 10 MB per service",
        "docker-compose.yml",
        'options: {max-size: 10m, max-file: "5"}',
    ),
    ("SECURITY_COMPLIANCE", "| backups | 30 days (`BACKUP_DAYS`) |", "ops/backup/backup.sh", "days=${BACKUP_DAYS:-30}"),
    ("BACKUP", "older than `BACKUP_DAYS` (30)", "ops/backup/backup.sh", "days=${BACKUP_DAYS:-30}"),
    ("OPERATIONS", "`max_connections` 200", "docker-compose.yml", "-c, max_connections=200,"),
    ("OPERATIONS", "`maxmemory` 256 MB", "docker-compose.yml", "maxmemory 256mb"),
    (
        "OPERATIONS",
        "Both checks run twice a second. One failure, or no response within 3 s, removes a server; two",
        "ops/haproxy.cfg",
        "default-server check inter 500ms fall 1 rise 2",
    ),
    ("OPERATIONS", "HAProxy: `timeout check 3s`", "ops/haproxy.cfg", "timeout check 3s"),
    ("OPERATIONS", "buffers requests for at most 20 s", "ops/haproxy.cfg", "timeout http-request 20s"),
    ("OPERATIONS", "below the load balancer's timeout (60 s)", "ops/haproxy.cfg", "timeout server 60s"),
    ("OPERATIONS", "Compose: 4 s;", "docker-compose.yml", 'health/container_probe.py, /ready, "4"]'),
    ("OPERATIONS", "`default_pool_size` (20)", "ops/pgbouncer.ini", "default_pool_size = 20"),
    ("OPERATIONS", "(Kubernetes: `timeoutSeconds: 3`;", "ops/kubernetes/base/deployment.yaml", "timeoutSeconds: 3"),
    (
        "OBSERVABILITY",
        "The page refreshes every two seconds, every four while nothing changes",
        "health/static/health/status.js",
        "const INTERVAL = 2000,",
    ),
    (
        "OBSERVABILITY",
        "stops the refreshes for at most ten minutes",
        "health/static/health/status.js",
        "MAX_PAUSE = 600000;",
    ),
    (
        "LOCAL_DEVELOPMENT",
        "PostgreSQL 18 and Valkey run from wheels",
        "voiceassist/embedded/programs.py",
        '"pginstall18"',
    ),
]


@pytest.mark.parametrize(
    ("page", "sentence", "path", "text"), SENTENCES, ids=[" ".join(s[1].split()[:6]) for s in SENTENCES]
)
def test_sentence_is_true(page: str, sentence: str, path: str, text: str) -> None:
    assert sentence in re.sub(r"\s+", " ", (ROOT / "docs" / f"{page}.md").read_text())
    assert text in (ROOT / path).read_text()
