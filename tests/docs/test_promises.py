"""Promises of the documentation that are no single number. `test_claims` has the numbers."""

import inspect
import re
from pathlib import Path

import pytest
from django.conf import settings

from tests.docs.markdown import ROOT
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
