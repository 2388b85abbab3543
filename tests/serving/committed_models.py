"""The committed models, and manifests written anew for copies of them."""

from pathlib import Path

from salf_contract import FileStamp, Manifest
from salf_serving.snapshot import versions_to_serve

COMMITTED = Path(__file__).parents[2] / "model_repository"


def newest(model: Path) -> Path:
    return versions_to_serve(model)[-1]


def write_manifest(folder: Path, **changes) -> None:
    files = {path.name: FileStamp.of(path.read_bytes()) for path in folder.iterdir() if path.name != "manifest.json"}
    given = {"model": folder.parent.name, "version": int(folder.name), "family": (folder.parent.name,),
             "published_at": "2026-01-01T00:00:00Z", "files": files}  # fmt: skip
    (folder / "manifest.json").write_text(Manifest(**given | changes).to_json())
