"""What deploy/ tells Prometheus and Grafana: valid, explained, and right on made-up series."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_server import FILES, RULES, rules

from deploy.grafana.generate import DASHBOARD_FILE, dashboard, queries, text

ROOT = Path(__file__).parents[2]
ALERTS = [rule for rule in rules() if "alert" in rule]


@pytest.fixture(scope="module")
def promtool(debian_program):
    program = debian_program("promtool", "prometheus")

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [str(part) for part in (program, *arguments)], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_configuration_and_rules_are_valid(promtool):
    assert f"{len(RULES)} rule files found" in promtool("check", "config", FILES / "prometheus.yaml")
    promtool("check", "rules", *RULES)


def test_committed_windows_and_thresholds_fire_when_they_should(promtool):
    promtool("test", "rules", Path(__file__).with_name("rules_test.yaml"))


def test_every_alert_is_seen_to_fire_with_its_committed_window():
    fired: set[str] = set()
    for case in yaml.safe_load(Path(__file__).with_name("rules_test.yaml").read_text())["tests"]:
        fired |= {one["alertname"] for one in case.get("alert_rule_test", ()) if one["exp_alerts"]}
        for one in case.get("promql_expr_test", ()):
            words = [one["expr"], *(sample.get("labels", "") for sample in one["exp_samples"])]
            fired |= set(re.findall(r'alertname="(\w+)"', " ".join(words))) if one["exp_samples"] else set()

    assert fired == {alert["alert"] for alert in ALERTS}


def test_alerts_and_the_page_about_them_agree():
    page = (ROOT / "docs" / "alerts.md").read_text()
    sections = re.findall(r"^## (Salf\w+)$", page, re.MULTILINE)
    table = dict(re.findall(r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \|", page, re.MULTILINE))
    assert table == {alert["alert"]: alert["labels"]["severity"] for alert in ALERTS}
    assert sorted(sections) == sorted(table)
    rows = {row.split("](")[0].removeprefix("| ["): row for row in page.splitlines() if row.startswith("| [Salf")}
    for alert in ALERTS:
        said = alert["annotations"]
        if waits := alert.get("for"):
            assert f"for {waits.removesuffix('m')} minutes |" in rows[alert["alert"]]
        assert said["summary"]
        assert said["description"]
        assert said["runbook_url"].endswith(f"/docs/alerts.md#{alert['alert'].lower()}")


def test_every_recorded_rule_is_explained():
    page = (ROOT / "docs" / "metrics.md").read_text()
    for rule in rules():
        if "record" not in rule:
            continue
        series, _, operation = rule["record"].rpartition(":")
        assert f"`{series}:" in page
        assert operation in page


def test_the_dashboard_is_what_its_code_writes():
    assert DASHBOARD_FILE.read_text() == text(), "run python -m deploy.grafana.generate"
    drawn = [target["expr"] for panel in json.loads(text())["panels"] for target in panel.get("targets", [])]
    assert set(drawn) < set(queries())
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    taken = {
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    }
    assert len(taken) == sum(at["w"] * at["h"] for at in places), "panels overlap"


def test_the_dashboard_finds_its_source():
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    used = {panel["datasource"]["uid"] for panel in dashboard()["panels"] if "datasource" in panel}
    assert used == {source["uid"]}
    (provider,) = yaml.safe_load((folder / "dashboards" / "salf.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
