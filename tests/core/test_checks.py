"""System checks of combinations of settings."""

from typing import Any

import pytest
from django.core.checks import run_checks
from pytest_django import Settings

from tests.support.load_settings import PRODUCTION
from tests.voiceassist.test_settings import run

SAFE = {
    "HTTPS_ONLY": True,
    "BEHIND_PROXY": True,
    "HSTS_PRELOAD": False,
    "CSRF_TRUSTED_ORIGINS": ["https://a.example"],
    "METRICS_TOKEN": "token",
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"HSTS_PRELOAD": True}, []),
        ({"HTTPS_ONLY": False, "BEHIND_PROXY": False}, []),  # Django's own checks report it
        ({"HTTPS_ONLY": False}, ["W001"]),
        ({"BEHIND_PROXY": False}, ["W002"]),
        ({"HTTPS_ONLY": False, "BEHIND_PROXY": False, "HSTS_PRELOAD": True}, ["W003"]),
        ({"CSRF_TRUSTED_ORIGINS": ["https://a.example", "http://b.example"]}, ["W004"]),
        ({"METRICS_TOKEN": None}, ["W005"]),
    ],
)
def test_risky_combination_is_reported_with_a_hint(change: Any, expected: list[str], settings: Settings) -> None:
    for name, value in (SAFE | change).items():
        setattr(settings, name, value)
    messages = [m for m in run_checks(include_deployment_checks=True) if m.id and m.id.startswith("voiceassist.")]
    assert [message.id for message in messages] == [f"voiceassist.{number}" for number in expected]
    assert all(message.hint for message in messages)


@pytest.mark.parametrize(("behind_proxy", "status"), [("true", 0), ("false", 1)])
def test_check_deploy_passes_for_a_correct_configuration_only(behind_proxy: str, status: int) -> None:
    key = "a-Key-of-Production_with/Many*Characters+0123456789!abcdefgh"
    environment = {**PRODUCTION, "SECRET_KEY": key, "BEHIND_PROXY": behind_proxy, "METRICS_TOKEN": "token"}
    done = run(["manage.py", "check", "--deploy", "--fail-level", "WARNING"], environment)
    assert done.returncode == status, done.stderr
    assert ("voiceassist.W002" in done.stderr) == bool(status)
    assert "(1 silenced)" in done.stdout + done.stderr  # security.W021, because preloading HSTS is a choice
