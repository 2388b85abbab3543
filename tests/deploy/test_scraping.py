"""Prometheus in a cluster: finds the manifests' pods, and calls them what rules and autoscaler expect."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import kustomizing
from tests.deploy.conftest import ROOT

DEPLOY = ROOT / "deploy"
SCRAPE = DEPLOY / "kubernetes" / "base" / "prometheus-scrape.yaml"
JOB = yaml.safe_load(SCRAPE.read_text())["scrape_configs"][0]


def targets_of(name: str, labels: dict[str, str], containers: list[dict[str, Any]], phase: str = "Running") -> Any:
    """What Prometheus' discovery of pods gives of one: a target for each port, with all that it knows as labels."""
    known = {"namespace": "vision", "pod_name": name, "pod_phase": phase}
    known |= {f"pod_label_{re.sub('[^a-zA-Z0-9_]', '_', key)}": value for key, value in labels.items()}
    return [
        {
            "targets": [f"10.1.2.3:{port['containerPort']}"],
            "labels": {f"__meta_kubernetes_{key}": value for key, value in known.items()}
            | {"__meta_kubernetes_pod_container_port_number": str(port["containerPort"])},
        }
        for container in containers
        for port in container["ports"]
    ]


def of_the_deployment(name: str, **changed: Any) -> Any:
    resources = kustomizing.build(DEPLOY / "kubernetes" / "overlays" / "cpu")
    template = next(one for one in resources if one["kind"] == "Deployment")["spec"]["template"]
    return targets_of(name, **{"labels": template["metadata"]["labels"], **changed},
                      containers=template["spec"]["containers"])  # fmt: skip


def of_kserve(name: str) -> Any:
    runtime = next(yaml.safe_load_all((DEPLOY / "kserve" / "serving-runtime.yaml").read_text()))["spec"]
    return targets_of(name, runtime["labels"], runtime["containers"])


def left(promtool: Path, targets: Any, folder: Path) -> list[dict[str, str]]:
    """Labels of the targets that Prometheus keeps. Debian's knows no Kubernetes, so they are told to it."""
    job = {**JOB, "static_configs": targets}
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    command = [promtool, "check", "service-discovery", "--timeout", "3s", folder / "prometheus.yaml", "salf"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return [one["labels"] for one in json.loads(ran.stdout) if one.get("labels")]


def test_it_finds_each_of_salfs_pods_once_and_names_it_for_the_rules(debian_program, tmp_path):
    pods = [
        *of_the_deployment("salf-1"),
        *of_kserve("kserve-1"),
        *of_the_deployment("stranger", labels={"app.kubernetes.io/name": "other"}),
        *of_the_deployment("evicted", phase="Failed"),
    ]

    targets = left(debian_program("promtool", "prometheus"), pods, tmp_path)

    assert sorted(one["pod"] for one in targets) == ["kserve-1", "salf-1"]
    for one in targets:
        assert (one["job"], one["namespace"], one["__address__"]) == ("salf", "vision", "10.1.2.3:8003")
        assert one["__metrics_path__"] == "/metrics"


def test_it_scrapes_as_the_one_configuration_for_all_does():
    (everywhere,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    settings = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["global"]

    assert JOB["job_name"] == everywhere["job_name"]
    assert JOB["scrape_interval"] == settings["scrape_interval"]


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "object-store"])
def test_the_network_policy_lets_it_and_clients_in_and_the_autoscaler_asks_for_what_it_gives(overlay):
    resources = {one["kind"]: one for one in kustomizing.build(DEPLOY / "kubernetes" / "overlays" / overlay)}
    container = resources["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    allowed = {
        rule["ports"][0]["port"]: next(iter(rule["from"][0])) for rule in resources["NetworkPolicy"]["spec"]["ingress"]
    }
    (rule,) = yaml.safe_load((DEPLOY / "kubernetes/base/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (metric,) = resources["HorizontalPodAutoscaler"]["spec"]["metrics"]

    assert ports == {"grpc": 8001, "status": 8003}
    assert allowed == {8001: "podSelector", 8003: "namespaceSelector"}
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert resources["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "salf"
