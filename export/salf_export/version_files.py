"""Files of one version: written with their manifest, and compared with it."""

import functools
import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from salf_contract import (
    MANIFEST_FILE,
    FileStamp,
    Manifest,
    ManifestError,
    Metadata,
    manifest_problems,
    parse_manifest,
)

_CHUNK_BYTES = 1 << 20
#: Their versions decide what an export's files hold.
_TOOLS = (
    "salf", "numpy", "torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt",
)  # fmt: skip
_GIT_TIMEOUT_S = 10.0


def write_version(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write a version directory, or copy it.

    Args:
        folder: made; must not exist.
        files: path in it, with / -> content, or the file to copy.
    """
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content)


def write_manifest(folder: Path, document: Metadata, *, model: str, family: tuple[str, ...]) -> None:
    """Stamp all files of a version directory, as they are on the disk."""
    manifest = Manifest(
        model=model,
        version=document.version,
        family=family,
        published_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        files=file_stamps(folder),
        provenance={**document.provenance, **provenance_of_tools()},
    )
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json().encode())


def file_stamps(folder: Path) -> dict[str, FileStamp]:
    """Path with / -> stamp, of every file in a version directory but its manifest.

    Raises:
        OSError: one cannot be read.
    """
    stamps = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name == MANIFEST_FILE or (path.is_dir() and not path.is_symlink()):
            continue
        digest, size_bytes = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
        stamps[name] = FileStamp(sha256=digest.hexdigest(), size_bytes=size_bytes)
    return stamps


def read_manifest(folder: Path) -> Manifest | None:
    """A version directory's manifest; None if there is none.

    Raises:
        ManifestError: it is broken or was changed.
    """
    try:
        return parse_manifest((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"{MANIFEST_FILE} cannot be read: {error.strerror}") from error


def version_problems(folder: Path) -> tuple[str, ...] | None:
    """Compare a version directory with its manifest.

    Returns:
        One phrase a problem; None if there is no manifest to compare with.
    """
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return None
        problems = manifest_problems(manifest, file_stamps(folder))
    except (ManifestError, OSError) as error:
        return (str(error),)
    if (manifest.model, str(manifest.version)) != (folder.parent.name, folder.name):
        problems += (f"its manifest is that of {manifest.model} version {manifest.version}",)
    return problems


@functools.cache
def provenance_of_tools() -> Mapping[str, str]:
    """Versions of what is installed of the tools, and the commit of salf's source tree where that is known."""
    found = {"python_version": python_version()}
    for package in _TOOLS:
        try:
            found[f"{package}_version"] = version(package)
        except PackageNotFoundError:
            continue
    commit = _git("rev-parse", "HEAD")
    if commit:
        # Data that is written into the tree, such as this repository, does not make the sources dirty.
        found["salf_commit"] = commit + ("-dirty" if _git("status", "--porcelain", "--", "*.py") else "")
    return found


def _git(*arguments: str) -> str:
    """What git says about the tree that this file is tracked in; empty without git, or for an installed salf."""
    here = Path(__file__)
    if _run_git("ls-files", "--error-unmatch", here.name, cwd=here.parent) is None:
        return ""
    return _run_git(*arguments, cwd=here.parents[2]) or ""


def _run_git(*arguments: str, cwd: Path) -> str | None:
    """Git's answer; None if it fails or is not there."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, *arguments], cwd=cwd, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
