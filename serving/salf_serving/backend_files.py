"""Our Python-based backends, as Triton's backend directory holds them: copies, since Triton follows no links.

`python -m salf_serving.backend_files FOLDER [BACKEND ...]` writes them, for images that bring Triton themselves.
"""

import hashlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import salf_contract

#: Backends that read pictures and documents by the contract carry a copy of it.
_WITH_CONTRACT = ("salf_encoded",)
#: Backends that run a graph share these modules; each gets copies.
_WITH_GRAPH_BACKEND = ("onnxruntime", "openvino")
_GRAPH_BACKEND = ("graph_backend.py", "graph_config.py")


def backend_files() -> dict[Path, Path]:
    """Path inside the backend directory -> where the file lies in this installation."""
    room = Path(__file__).parent
    ours = room / "backends"
    files = {path.relative_to(ours): path for path in ours.rglob("*.py")}
    files |= {Path(backend) / name: room / name for backend in _WITH_GRAPH_BACKEND for name in _GRAPH_BACKEND}
    contract = Path(salf_contract.__file__).parent
    for backend in _WITH_CONTRACT:
        files |= {Path(backend) / contract.name / path.name: path for path in contract.glob("*.py")}
    return dict(sorted(files.items()))


def files_hash(files: Mapping[Path, Path]) -> str:
    """16 hex digits that change with any file's name or content."""
    digest = hashlib.sha256()
    for name, source in files.items():
        digest.update(f"{name}\0{hashlib.sha256(source.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def copy_backends(folder: Path, files: Mapping[Path, Path]) -> None:
    """Copy the files into a backend directory; folders are made."""
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, folder / name)


if __name__ == "__main__":
    _, folder, *names = sys.argv if sys.argv[1:] else sys.exit("usage: salf_serving.backend_files FOLDER [BACKEND ...]")
    files = backend_files()
    unknown = set(names) - {path.parts[0] for path in files}
    if unknown:
        sys.exit(f"salf has no backend {', '.join(sorted(unknown))}")
    copy_backends(Path(folder), {path: source for path, source in files.items() if not names or path.parts[0] in names})
