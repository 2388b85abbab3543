"""The manifest: what files a version of a model consists of, and where they came from.

It lies as `manifest.json` in the version directory. Triton ignores it. Reading files is up to the rooms; this module
compares what they found.
"""

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from salf_contract.errors import ManifestError
from salf_contract.guarded import GuardedDocument, parse_guarded

MANIFEST_FILE = "manifest.json"
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileStamp(BaseModel):
    """A file's content, in 64 hex digits of SHA-256, and its size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: _Sha256
    size_bytes: int = Field(ge=0)

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The stamp of a content that is at hand."""
        return cls(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


class Manifest(GuardedDocument):
    """One version of one model, as it was published."""

    format_version: Literal[1] = 1
    model: str = Field(description="name of the model's folder")
    version: int = Field(ge=1)
    family: tuple[str, ...] = Field(min_length=1, description="models published together, this one included")
    published_at: str = Field(description="UTC, ISO 8601")
    files: dict[str, FileStamp] = Field(min_length=1, description="path in the version directory, with / -> stamp")
    provenance: dict[str, str] = Field(default_factory=dict, description="hashes of the sources, versions of the tools")

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, FileStamp]) -> dict[str, FileStamp]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or str(path) != name or name in (".", MANIFEST_FILE):
                raise ValueError(f"{name!r} is no path of a file in the version directory")
        return files


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: not JSON, fields missing or unknown, another format version, or a byte was changed since it was
            written.
    """
    try:
        return parse_guarded(content, Manifest)
    except ValueError as error:
        raise ManifestError(f"{MANIFEST_FILE} {error}; publish the version again") from error


def manifest_problems(manifest: Manifest, found: Mapping[str, FileStamp]) -> tuple[str, ...]:
    """Compare a version directory with its manifest.

    Args:
        manifest: of the version.
        found: path in the version directory, with / -> stamp, of every file there; the manifest itself may be left out.

    Returns:
        One phrase for each file that is missing, changed or not listed, by name; empty if all is as published.
    """
    problems = []
    for name in sorted(manifest.files.keys() | found.keys() - {MANIFEST_FILE}):
        wanted, got = manifest.files.get(name), found.get(name)
        if got is None:
            problems.append(f"{name} is missing")
        elif wanted is None:
            problems.append(f"{name} was not published")
        elif got.size_bytes != wanted.size_bytes:
            problems.append(f"{name} has {got.size_bytes} bytes, published were {wanted.size_bytes}")
        elif got.sha256 != wanted.sha256:
            problems.append(f"{name} has SHA-256 {got.sha256[:12]}..., published was {wanted.sha256[:12]}...")
    return tuple(problems)
