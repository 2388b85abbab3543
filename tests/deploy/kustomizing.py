"""As much of kustomize as our overlays use: resources, images, common labels and JSON patches.

The real one is not to be had where this is tested; whatever else a kustomization says is refused here.
"""

from pathlib import Path
from typing import Any

import jsonpatch
import yaml

_KNOWN = {"apiVersion", "kind", "resources", "images", "labels", "patches"}


def build(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl kustomize FOLDER` would print, one object a resource."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert not kustomization.keys() - _KNOWN, f"{folder}: {kustomization.keys() - _KNOWN} is not understood here"
    resources: list[dict[str, Any]] = []
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        resources += build(path) if path.is_dir() else [one for one in yaml.safe_load_all(path.read_text()) if one]
    for patch in kustomization.get("patches", []):
        target = patch["target"]
        hit = [index for index, one in enumerate(resources)
               if (one["kind"], one["metadata"]["name"]) == (target["kind"], target["name"])]  # fmt: skip
        assert hit, f"{folder}: no {target} to patch"
        for index in hit:
            resources[index] = jsonpatch.apply_patch(resources[index], yaml.safe_load(patch["patch"]))
    for image in kustomization.get("images", []):
        hits = [
            container for container in _containers(resources) if container["image"].rsplit(":", 1)[0] == image["name"]
        ]
        assert hits, f"{folder}: no container has image {image['name']}"
        for container in hits:
            name, tag = container["image"].rsplit(":", 1)
            container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
    for labels in kustomization.get("labels", []):
        for one in resources:
            _label(one, labels["pairs"])
    return resources


def _containers(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pods = [one["spec"]["template"]["spec"] for one in resources if one["kind"] == "Deployment"]
    return [container for pod in pods for container in (*pod.get("initContainers", []), *pod["containers"])]


def _label(one: dict[str, Any], pairs: dict[str, str]) -> None:
    one["metadata"].setdefault("labels", {}).update(pairs)
    spec = one.get("spec", {})
    if "template" in spec:
        spec["template"]["metadata"]["labels"].update(pairs)
    selector = spec.get("selector") or spec.get("podSelector")
    if isinstance(selector, dict):
        selector.get("matchLabels", selector).update(pairs)
