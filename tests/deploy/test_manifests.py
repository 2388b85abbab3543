"""compose.yaml, Kubernetes and KServe files against their published schemas, and against each other."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from salf_serving.front_settings import FrontSettings
from salf_serving.settings import DEFAULT_STOP_TIMEOUT_S
from tests.deploy import kserve_models, kustomizing
from tests.deploy.conftest import ROOT

DEPLOY = ROOT / "deploy"
#: What the guard takes beyond that to kill and to clean up (process.py).
GUARD_MARGIN_S = 10
OVERLAYS = sorted(path.parent for path in DEPLOY.glob("kubernetes/overlays/*/kustomization.yaml"))


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([Path(sys.executable).parent / name, *arguments], capture_output=True, text=True, cwd=ROOT)


def of_kind(resources: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(one for one in resources if one["kind"] == kind)


def test_compose_fits_the_compose_specification():
    ran = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")

    assert ran.returncode == 0, ran.stdout


def test_a_broken_compose_file_would_be_noticed(tmp_path):
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    document["services"]["server"]["prots"] = ["1:1"]
    broken = tmp_path / "compose.yaml"
    broken.write_text(yaml.safe_dump(document))

    assert tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(broken)).returncode != 0


def test_there_is_time_to_drain_and_to_stop_before_a_container_is_killed():
    server = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["server"]
    pod = of_kind(kustomizing.build(OVERLAYS[0]), "Deployment")["spec"]["template"]["spec"]
    kserve = yaml.safe_load((DEPLOY / "kserve" / "inference-service.yaml").read_text())["spec"]["predictor"]
    before_s = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    needed_s = 2 * DEFAULT_STOP_TIMEOUT_S + GUARD_MARGIN_S

    assert int(server["stop_grace_period"].removesuffix("s")) > needed_s
    assert pod["terminationGracePeriodSeconds"] > before_s + needed_s
    assert kserve["terminationGracePeriodSeconds"] > needed_s


def test_nobody_logs_in_to_grafana_with_a_password_that_all_know():
    settings = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]["environment"]

    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert (settings["GF_AUTH_DISABLE_LOGIN_FORM"], settings["GF_AUTH_BASIC_ENABLED"]) == ("true", "false")


def test_envoy_can_try_the_largest_request_again():
    listener = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())["static_resources"]["listeners"][0]

    assert listener["per_connection_buffer_limit_bytes"] > FrontSettings().max_request_bytes


def test_compose_mounts_only_what_exists():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    sources = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]

    assert sources
    for source in sources:
        assert not source.startswith(".") or (DEPLOY / source).exists(), source


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_overlay_fits_kubernetes_schemas(overlay):
    resources = kustomizing.build(overlay)

    assert {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"} <= {
        one["kind"] for one in resources
    }
    for resource in resources:
        kubernetes_validate.validate(resource, "1.37", strict=True)


def test_an_unknown_key_in_a_manifest_would_be_noticed():
    deployment = of_kind(kustomizing.build(OVERLAYS[0]), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_selectors_find_the_pods_and_volumes_are_all_there(overlay):
    resources = kustomizing.build(overlay)
    pod = of_kind(resources, "Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    selectors = [
        of_kind(resources, "Deployment")["spec"]["selector"]["matchLabels"],
        of_kind(resources, "Service")["spec"]["selector"],
        of_kind(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(resources, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    for container in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"]["volumes"]
              if "persistentVolumeClaim" in volume}  # fmt: skip
    assert claims <= {one["metadata"]["name"] for one in resources if one["kind"] == "PersistentVolumeClaim"}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_no_container_runs_as_root_writes_to_its_image_or_keeps_capabilities(overlay):
    pod = of_kind(kustomizing.build(overlay), "Deployment")["spec"]["template"]["spec"]

    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    shared = next(volume for volume in pod["volumes"] if volume["name"] == "shared-memory")
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "512Mi"}
    for container in (*pod.get("initContainers", []), *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize(
    ("file", "kind", "type_name"),
    [
        ("serving-runtime.yaml", "ServingRuntime", "V1alpha1ServingRuntime"),
        ("inference-service.yaml", "InferenceService", "V1beta1InferenceService"),
    ],
)
def test_kserve_resources_have_only_keys_that_kserve_knows(kserve_types, file, kind, type_name):
    document = next(one for one in yaml.safe_load_all((DEPLOY / "kserve" / file).read_text()) if one["kind"] == kind)

    assert kserve_models.problems(document, type_name, kserve_types, kind) == []
    document["spec"]["surprise"] = True
    assert kserve_models.problems(document, type_name, kserve_types, kind)


def test_the_runtimes_container_fits_kubernetes_own_schema():
    runtime, settings = yaml.safe_load_all((DEPLOY / "kserve" / "serving-runtime.yaml").read_text())
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "salf"}, "spec": runtime["spec"].copy()}
    pod["spec"] = {key: pod["spec"][key] for key in ("containers", "volumes")}

    kubernetes_validate.validate(pod, "1.37", strict=True)
    kubernetes_validate.validate(settings, "1.37", strict=True)


def test_the_service_names_a_runtime_and_a_format_that_exist():
    runtime = next(yaml.safe_load_all((DEPLOY / "kserve" / "serving-runtime.yaml").read_text()))
    model = yaml.safe_load((DEPLOY / "kserve" / "inference-service.yaml").read_text())["spec"]["predictor"]["model"]

    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {one["name"] for one in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


@pytest.fixture(scope="module")
def kserve_types(pins, tmp_path_factory) -> dict[str, dict[str, str]]:
    types = kserve_models.read_types(
        kserve_models.download(pins["deploy"]["kserve"], tmp_path_factory.mktemp("kserve"))
    )
    assert "V1alpha1ServingRuntimeSpec" in types
    return types
