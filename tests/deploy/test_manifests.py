"""compose.yaml, Kubernetes and KServe files against their published schemas, and against each other."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from salf_serving.front_settings import FrontSettings
from salf_serving.settings import DEFAULT_STOP_TIMEOUT_S
from tests.deploy import kserve_models, kustomizing, scratch_image
from tests.deploy.conftest import ROOT

DEPLOY = ROOT / "deploy"
#: What the guard takes beyond that to kill and to clean up (process.py).
GUARD_MARGIN_S = 10
OVERLAYS = sorted(path.parent for path in DEPLOY.glob("kubernetes/overlays/*/kustomization.yaml"))


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([Path(sys.executable).parent / name, *arguments], capture_output=True, text=True, cwd=ROOT)


def server_of(overlay: Path) -> dict[str, Any]:
    """The server's container."""
    return of_kind(kustomizing.build(overlay), "Deployment")["spec"]["template"]["spec"]["containers"][0]


def kserves_server() -> dict[str, Any]:
    """The same under KServe."""
    return next(yaml.safe_load_all((DEPLOY / "kserve" / "serving-runtime.yaml").read_text()))["spec"]["containers"][0]


def servers() -> dict[str, dict[str, Any]]:
    return {**{overlay.name: server_of(overlay) for overlay in OVERLAYS}, "kserve": kserves_server()}


def startup_timeout_s(words: list[str]) -> int:
    return int(words[words.index("--startup-timeout") + 1])


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
    needed_s = 2 * DEFAULT_STOP_TIMEOUT_S + GUARD_MARGIN_S

    assert int(server["stop_grace_period"].removesuffix("s")) > needed_s
    for spec, container in ((pod, pod["containers"][0]), (kserve, kserves_server())):
        before_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert before_s > 5, "CoreDNS' answers about a headless service are kept for 5 s"
        assert spec["terminationGracePeriodSeconds"] > before_s + needed_s


def test_salf_says_why_it_cannot_start_before_anybody_loses_patience():
    stages = scratch_image.stages(ROOT / "Dockerfile")
    patience_s = {name: one["startupProbe"]["periodSeconds"] * one["startupProbe"]["failureThreshold"]
                  for name, one in servers().items()}  # fmt: skip
    timeouts_s = {}
    for target in ("cpu", "gpu"):
        instructions = dict(stages[target][1])
        timeouts_s[target] = startup_timeout_s(json.loads(instructions["CMD"].replace("\\", "")))
        assert int(re.findall(r"--start-period=(\d+)s", instructions["HEALTHCHECK"])[0]) >= timeouts_s[target]

    for name, overlay in {"cpu": "cpu", "gpu": "gpu"}.items():
        assert patience_s[overlay] > timeouts_s[name] + 60, "models are copied first"
    assert patience_s["object-store"] > timeouts_s["cpu"] + 60
    assert patience_s["kserve"] > startup_timeout_s(kserves_server()["args"]) + 60


@pytest.mark.parametrize("where", ["cpu", "gpu", "object-store", "kserve"])
def test_probes_ask_the_supervisor(where):
    server = servers()[where]
    port = 8003 if where == "kserve" else "status"

    assert server["startupProbe"]["httpGet"] == server["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}
    assert server["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[kind]["timeoutSeconds"] > 1, "a busy server may need more than the second that is the default"
    liveness, readiness = server["livenessProbe"], server["readinessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > (
        readiness["periodSeconds"] * readiness["failureThreshold"]
    ), "a server leaves the balance before it is killed"


@pytest.mark.parametrize("where", ["cpu", "gpu", "object-store", "kserve"])
def test_a_servers_threads_and_memory_are_what_it_is_given(where):
    """Its CPU limit is what graphs divide (cores.py); it asks for as much, or other pods take it away under load."""
    resources = servers()[where]["resources"]

    for kind in ("cpu", "memory"):
        assert resources["requests"][kind] == resources["limits"][kind]
    assert int(resources["limits"]["cpu"]) >= 1


def test_the_autoscaler_alone_says_how_many_pods_there_are():
    resources = kustomizing.build(OVERLAYS[0])

    assert "replicas" not in of_kind(resources, "Deployment")["spec"]
    assert of_kind(resources, "HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 2


def test_a_drain_takes_one_pod_at_a_time_and_is_not_held_up_by_a_broken_one():
    budget = of_kind(kustomizing.build(OVERLAYS[0]), "PodDisruptionBudget")["spec"]

    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_compose_keeps_every_service_small_and_watches_a_server_that_does_not_start():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]

    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert "server" not in service.get("depends_on", ())
    server = services["server"]
    assert server["read_only"]
    assert [mount.split(":")[0] for mount in server["tmpfs"]] == ["/tmp"]
    # Of 64 cores, seen: 565 threads for the demonstration models, and a trial starts a second set.
    assert server["pids_limit"] >= 2048


def test_composes_services_find_each_other_and_their_files():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    mounts = {inside: name for service in services.values() for volume in service["volumes"]
              for name, inside, *_ in [volume.split(":")]}  # fmt: skip
    configuration = next(word for word in services["prometheus"]["command"] if "config.file" in word).partition("=")[2]
    folder, _, file = configuration.rpartition("/")
    (scraped,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    provisioning = DEPLOY / mounts["/etc/grafana/provisioning"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "salf.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]

    assert (DEPLOY / mounts[folder] / file).is_file()
    assert scraped["static_configs"][0]["targets"] == ["server:8003"]
    assert (DEPLOY / mounts[provider["options"]["path"]] / "salf.json").is_file()
    assert source["url"] == "http://prometheus:9090"
    assert (
        f"--storage.tsdb.path={next(inside for inside, name in mounts.items() if name == 'prometheus')}"
        in (services["prometheus"]["command"])
    )
    assert {"server", "prometheus"} <= services.keys()


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


def test_the_publisher_writes_where_servers_read_and_is_closed_like_them():
    publisher = yaml.safe_load((DEPLOY / "kubernetes" / "publisher.yaml").read_text())
    resources = kustomizing.build(DEPLOY / "kubernetes" / "overlays" / "cpu")
    server = of_kind(resources, "Deployment")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in publisher["spec"]["volumes"]}
    (container,) = publisher["spec"]["containers"]

    kubernetes_validate.validate(publisher, "1.37", strict=True)
    assert volumes["models"]["persistentVolumeClaim"] == {
        "claimName": of_kind(resources, "PersistentVolumeClaim")["metadata"]["name"]
    }
    assert {"name": "models", "mountPath": "/models"} in container["volumeMounts"]
    assert container["image"] == server["containers"][0]["image"]
    assert publisher["spec"]["securityContext"] == server["securityContext"]
    assert container["securityContext"] == server["containers"][0]["securityContext"]
    labels = publisher["metadata"].get("labels", {}).items()
    assert not of_kind(resources, "Service")["spec"]["selector"].items() <= labels, "it answers no client"


def test_kserves_container_has_the_same_restrictions():
    assert kserves_server()["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
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
