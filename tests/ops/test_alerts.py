"""The alert rules, the runbook that explains them, and the dashboard."""

import itertools
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
RUNBOOK_PARTS = ("What it means.", "What users see.", "How to confirm.", "What to do", "When to escalate.")
DASHBOARD = json.loads((OPS / "grafana" / "dashboards" / "voiceassist.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TITLES = [panel["title"] for panel in PANELS]


def promtool(*arguments: str | Path) -> None:
    assert PROMTOOL, "promtool not found. Install Debian's package prometheus."
    result = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not result.stderr


@needs_prometheus
def test_rules_are_valid_and_pass_promtools_cases() -> None:
    promtool("check", "rules", OPS / "prometheus" / "alerts.yml")
    promtool("test", "rules", OPS / "prometheus" / "alerts_test.yml", OPS / "prometheus" / "backup_alerts_test.yml")


@needs_prometheus
def test_prometheus_configuration_is_valid(tmp_path: Path) -> None:
    (tmp_path / "token").touch()  # a secret of the container
    (tmp_path / "alerts.yml").write_text(RULES)
    config = (OPS / "prometheus" / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(config.replace("/run/secrets/METRICS_TOKEN", str(tmp_path / "token")))
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_every_alert_has_a_case() -> None:
    cases = (OPS / "prometheus" / "alerts_test.yml").read_text()
    assert len(ALERTS) == len(set(ALERTS)) > 9
    assert {alert for alert in ALERTS if f'alertname="{alert}"' not in cases} == set()


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_a_severity_and_a_runbook_section(alert: str) -> None:
    rule = RULES.split(f"- alert: {alert}\n")[1].split("- alert: ")[0]
    assert re.search(r"labels: \{severity: (critical|warning)\}", rule)
    assert re.search(r"\n        for: [1-9]\d*m\n", rule), "Brief failures would page."
    assert re.search(r'\n          summary: "[^"]{20,100}"\n', rule)
    assert re.search(r"\n          description: >-\n", rule)
    url = f'{{{{ or $externalLabels.runbook "docs/RUNBOOK.md" }}}}#{alert.lower()}'
    assert f"\n          runbook_url: '{url}'\n" in rule
    section = RUNBOOK.split(f"\n## {alert}\n")[1].split("\n## ")[0]
    assert [part for part in RUNBOOK_PARTS if section.count(f"**{part}") != 1] == []


def test_runbook_has_no_section_for_a_removed_alert() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE) == ALERTS
    anchors = {f"#{alert.lower()}" for alert in ALERTS}
    assert set(re.findall(r"\]\((#[^)]+)\)", RUNBOOK)) <= anchors


def test_commands_and_services_in_the_runbook_exist() -> None:
    commands = set(re.findall(r"manage\.py (\w+)", RUNBOOK))
    assert {"checkdeps", "migrate"} <= commands <= set(get_commands())
    verbs = r"(?:exec|logs(?: --\w+ \w+)*|restart|run --rm|up -d(?: --no-deps)?|ps(?: --all)?)"
    services = set(re.findall(rf"docker compose (?:--profile observability )?{verbs} ([a-z][\w-]+)", RUNBOOK))
    defined = set(re.findall(r"^  ([a-z][\w-]+):$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE))
    assert {"postgres", "redis", "qdrant", "migrate", "voiceassist-server"} <= services <= defined


def test_dashboard_panels_fill_the_grid_without_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: dict[tuple[int, int], str] = {}
    for panel in panels:
        position = panel["gridPos"]
        assert position["x"] >= 0
        assert position["w"] > 0
        assert position["x"] + position["w"] <= 24, panel["title"]
        columns = range(position["x"], position["x"] + position["w"])
        rows = range(position["y"], position["y"] + position["h"])
        for cell in itertools.product(columns, rows):
            assert cell not in cells, (panel["title"], cells[cell])
            cells[cell] = panel["title"]
    width, height = 24, max(y for _, y in cells) + 1
    assert len(cells) == width * height, "The grid has a gap."


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_panel_has_a_description_unit_and_legend(panel: Any) -> None:
    assert panel["type"] in ("stat", "timeseries", "state-timeline")
    assert panel["description"].endswith(".")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in ("none", "short", "s", "ops", "reqps", "percentunit", "bytes")
    steps = defaults["thresholds"]["steps"]
    assert steps[0]["value"] is None
    values = [step["value"] for step in steps[1:]]
    assert values == sorted(values)
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEFG"[: len(panel["targets"])])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        filters_servers = 'job=~"$job", instance=~"$instance"' in target["expr"]
        assert filters_servers or target["expr"].startswith("count(ALERTS{")
        labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        if grouped := re.search(r"\bby \(([^)]*)\)", target["expr"]):
            assert labels == {label.strip() for label in grouped[1].split(",")} - {"le", ""}, panel["title"]


def test_panel_thresholds_match_the_alerts() -> None:
    thresholds = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        for panel in PANELS
        if "The alert is at" in panel["description"] or panel["title"] == "Latency"
    }
    assert thresholds == {
        "Errors": 0.05,
        "95th percentile": 5,
        "Latency": 5,
        "Check duration, 95th percentile": 0.5,
        "Logins in ten minutes": 30,
        "Oldest due job": 600,
        "Reveals of PHI in ten minutes": 30,
        "PostgreSQL connections in use": 0.8,
    }
    for threshold in thresholds.values():
        assert re.search(rf"> {re.escape(str(threshold))}\s", RULES)


def test_grafana_provisioning_is_consistent() -> None:
    provisioning = OPS / "grafana" / "provisioning"
    datasource = (provisioning / "datasources" / "prometheus.yml").read_text()
    provider = (provisioning / "dashboards" / "voiceassist.yml").read_text()
    compose = (ROOT / "docker-compose.yml").read_text()
    variables = {item["name"]: item for item in DASHBOARD["templating"]["list"]}
    assert f"    uid: {variables['datasource']['current']['value']}\n" in datasource
    assert variables["datasource"]["query"] == "prometheus"
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"} == set(variables)
    interval = re.search(r"scrape_interval: (\w+)", (OPS / "prometheus" / "prometheus.yml").read_text())
    assert interval
    assert f"timeInterval: {interval[1]} " in datasource
    folder = re.search(r"path: (\S+)", provider)
    assert folder
    assert f"./ops/grafana/dashboards:{folder[1]}:ro" in compose
    assert DASHBOARD["uid"] == "voiceassist"
    assert "id" not in DASHBOARD  # Grafana assigns one
