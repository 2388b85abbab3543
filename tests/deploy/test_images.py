"""The Dockerfile: linted, and pinned to what pyproject.toml says."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from salf_serving.runtime import runtime_pins
from tests.deploy.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def locked(name: str) -> dict[str, str]:
    """Package -> version of a requirements file; every one of them has hashes."""
    text = (ROOT / "deploy" / name).read_text()
    blocks = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    for block in blocks:
        assert "--hash=sha256:" in block, block
    return {match[1]: match[2] for block in blocks if (match := re.match(r"([\w.-]+)==([\w.]+)", block))}


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"
    ran = subprocess.run([hadolint, ROOT / "Dockerfile"], cwd=ROOT, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stdout


def test_base_images_are_those_of_pyproject(pins):
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))

    assert arguments == {"DEBIAN_IMAGE": pins["images"]["debian"], "TRITON_IMAGE": pins["images"]["triton"]}
    assert set(re.findall(r"^FROM (\$\{\w+\})", DOCKERFILE, re.MULTILINE)) == {"${DEBIAN_IMAGE}", "${TRITON_IMAGE}"}


def test_images_beside_the_server_are_those_of_pyproject(pins):
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    overlay = (ROOT / "deploy" / "kubernetes" / "overlays" / "object-store" / "kustomization.yaml").read_text()

    assert services["prometheus"]["image"] == pins["images"]["prometheus"]
    assert services["grafana"]["image"] == pins["images"]["grafana"]
    assert f"image: {pins['images']['rclone']}\n" in overlay


def test_the_servers_locked_packages_are_its_pins():
    assert {f"{name}=={version}" for name, version in locked("requirements-runtime.txt").items()} == set(runtime_pins())


def test_salfs_own_packages_are_locked():
    packages = locked("requirements-serve.txt")

    assert {"numpy", "pydantic", "tritonclient", "typer", "rich", "pillow", "grpcio"} <= packages.keys()
    assert not {"torch", "onnx", "onnxruntime"} & packages.keys()


def test_the_image_does_not_run_as_root():
    targets = re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)
    final = [target for target in targets if "ENTRYPOINT" in target]

    assert len(final) == 2
    for target in final:
        assert "USER 10001:10001" in target
        assert "HEALTHCHECK" in target
        assert "org.opencontainers.image.licenses" in target
