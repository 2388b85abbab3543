"""The Dockerfile: linted, and pinned to what pyproject.toml says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from salf_serving.native import has_backends, put_backends
from salf_serving.runtime import runtime_pins
from tests.deploy import scratch_image
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


def test_manifests_name_the_image_of_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    files = [*(ROOT / "deploy" / "kubernetes").rglob("*.yaml"), *(ROOT / "deploy" / "kserve").glob("*.yaml")]
    tags = [tag for path in files for tag in re.findall(r"(?:cpu|gpu)-(\d[\w.]*)", path.read_text())]

    assert len(tags) >= 5
    assert set(tags) == {version}


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


def test_the_gpu_image_holds_the_backends_that_its_build_put_into_triton(tmp_path):
    base, built = tmp_path / "base", tmp_path / "built"
    base.mkdir()
    for folder in ("salf", "salf-runtime"):
        (built / "opt" / folder).mkdir(parents=True)
    put_backends(built / "opt" / "tritonserver")
    finished = {"gpu-base": scratch_image.Image(base), "gpu-build": scratch_image.Image(built)}

    image = scratch_image.build(ROOT / "Dockerfile", target="gpu", bases={}, work=tmp_path, finished=finished)

    assert has_backends(image.root / image.environment["SALF_TRITON"].lstrip("/"))


def test_no_package_is_fetched_without_its_hash():
    commands = []
    for _, instructions in scratch_image.stages(ROOT / "Dockerfile").values():
        offline = any(kind == "ENV" and "PIP_NO_INDEX=1" in value.split() for kind, value in instructions)
        runs = [command for kind, value in instructions if kind == "RUN" for command in value.split("&&")]
        commands += [(offline, one) for one in runs if re.search(r"pip (install|download|wheel) |serve --install", one)]

    assert len(commands) >= 9
    for offline, command in commands:
        from_here = "--no-index" in command or "PIP_NO_INDEX=1" in command or "--no-build-isolation" in command
        assert offline or from_here or "--require-hashes" in command, command
