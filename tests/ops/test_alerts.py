"""What is written for those on call: the rules, the page that explains them, and the dashboard."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands

from tests.support.prometheus import OPS, PROMTOOL, needs_prometheus
from tests.support.voiceassist_server import ROOT

RULES = (OPS / "prometheus" / "alerts.yml").read_text()
RUNBOOK = (ROOT / "docs" / "RUNBOOK.md").read_text()
ALERTS = re.findall(r"^      - alert: (\w+)$", RULES, re.MULTILINE)
PARTS = ("What it means.", "What users see.", "How to confirm.", "What to do", "When to escalate.")
DASHBOARD = json.loads((OPS / "grafana" / "dashboards" / "voiceassist.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TITLES = [panel["title"] for panel in PANELS]


def promtool(*words: str | Path) -> None:
    assert PROMTOOL, "install Debian's prometheus"
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr


@needs_prometheus
def test_the_rules_are_valid_and_fire_when_they_should_and_only_then() -> None:
    promtool("check", "rules", OPS / "prometheus" / "alerts.yml")
    promtool("test", "rules", OPS / "prometheus" / "alerts_test.yml")


@needs_prometheus
def test_the_configuration_is_valid(tmp_path: Path) -> None:
    """With the file that the container's start makes."""
    (tmp_path / "token").touch()
    (tmp_path / "alerts.yml").write_text(RULES)
    config = (OPS / "prometheus" / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(config.replace("/tmp/metrics-token", str(tmp_path / "token")))
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_each_alert_fires_in_a_case() -> None:
    cases = (OPS / "prometheus" / "alerts_test.yml").read_text()
    assert len(ALERTS) == len(set(ALERTS)) > 9
    assert {alert for alert in ALERTS if f'alertname="{alert}"' not in cases} == set()


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_how_bad_it_is_and_where_to_read_on(alert: str) -> None:
    rule = RULES.split(f"- alert: {alert}\n")[1].split("- alert: ")[0]
    assert re.search(r"labels: \{severity: (critical|warning)\}", rule)
    assert re.search(r"\n        for: [1-9]\d*m\n", rule), "what lasts for a moment only wakes nobody"
    assert re.search(r'\n          summary: "[^"]{20,100}"\n', rule)
    assert re.search(r"\n          description: >-\n", rule)
    assert f"\n          runbook_url: docs/RUNBOOK.md#{alert.lower()}\n" in rule
    section = RUNBOOK.split(f"\n## {alert}\n")[1].split("\n## ")[0]
    assert [part for part in PARTS if section.count(f"**{part}") != 1] == []


def test_the_runbook_explains_no_alert_that_is_gone() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE) == ALERTS
    anchors = {f"#{alert.lower()}" for alert in ALERTS}
    assert set(re.findall(r"\]\((#[^)]+)\)", RUNBOOK)) <= anchors


def test_the_runbook_names_only_commands_and_services_that_there_are() -> None:
    commands = set(re.findall(r"manage\.py (\w+)", RUNBOOK))
    assert {"checkdeps", "migrate"} <= commands <= set(get_commands())
    verbs = r"(?:exec|logs(?: --\w+ \w+)*|restart|run --rm|up -d(?: --no-deps)?|ps(?: --all)?)"
    services = set(re.findall(rf"docker compose (?:--profile observability )?{verbs} ([a-z][\w-]+)", RUNBOOK))
    composed = set(re.findall(r"^  ([a-z][\w-]+):$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE))
    assert {"postgres", "redis", "qdrant", "migrate", "voiceassist-server"} <= services <= composed


# The dashboard, as far as that shows without Grafana


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: dict[tuple[int, int], str] = {}
    for panel in every:
        at = panel["gridPos"]
        assert at["x"] >= 0
        assert at["w"] > 0
        assert at["x"] + at["w"] <= 24, panel["title"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, (panel["title"], taken[cell])
            taken[cell] = panel["title"]
    width, height = 24, max(y for _, y in taken) + 1
    assert len(taken) == width * height, "a hole"


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_each_panel_can_be_read(panel: Any) -> None:
    assert panel["type"] in ("stat", "timeseries", "state-timeline")
    assert panel["description"].endswith(".")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in ("none", "short", "s", "ops", "reqps", "percentunit")
    steps = defaults["thresholds"]["steps"]
    assert steps[0]["value"] is None
    values = [step["value"] for step in steps[1:]]
    assert values == sorted(values)
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEFG"[: len(panel["targets"])])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        of_servers = 'job=~"$job", instance=~"$instance"' in target["expr"]
        assert of_servers or target["expr"].startswith("count(ALERTS{")
        labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        if grouped := re.search(r"\bby \(([^)]*)\)", target["expr"]):
            assert labels == {label.strip() for label in grouped[1].split(",")} - {"le", ""}, panel["title"]


def test_a_threshold_that_is_drawn_is_the_alerts() -> None:
    drawn = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        for panel in PANELS
        if "The alert is at" in panel["description"] or panel["title"] == "Latency"
    }
    assert drawn == {
        "Errors": 0.05,
        "95th percentile": 5,
        "Latency": 5,
        "Check duration, 95th percentile": 0.5,
        "Logins in ten minutes": 30,
    }
    for threshold in drawn.values():
        assert re.search(rf"> {re.escape(str(threshold))}\s", RULES)


def test_what_is_provisioned_fits_together() -> None:
    provisioning = OPS / "grafana" / "provisioning"
    datasource = (provisioning / "datasources" / "prometheus.yml").read_text()
    provider = (provisioning / "dashboards" / "voiceassist.yml").read_text()
    compose = (ROOT / "docker-compose.yml").read_text()
    chosen = {item["name"]: item for item in DASHBOARD["templating"]["list"]}
    assert f"    uid: {chosen['datasource']['current']['value']}\n" in datasource
    assert chosen["datasource"]["query"] == "prometheus"
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"} == set(chosen)
    interval = re.search(r"scrape_interval: (\w+)", (OPS / "prometheus" / "prometheus.yml").read_text())
    assert interval
    assert f"timeInterval: {interval[1]} " in datasource
    folder = re.search(r"path: (\S+)", provider)
    assert folder
    assert f"./ops/grafana/dashboards:{folder[1]}:ro" in compose
    assert DASHBOARD["uid"] == "voiceassist"
    assert "id" not in DASHBOARD  # each Grafana gives its own
