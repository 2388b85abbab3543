"""The manifest: what files a version of a model consists of, and where they came from.

It lies as `manifest.json` in the version directory. Triton ignores it. Reading files is up to the rooms; this module
compares what they found.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from salf_contract.errors import ManifestError

MANIFEST_FILE = "manifest.json"
_DIGEST_NAME = "digest"
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileStamp(_Document):
    """A file's content, in 64 hex digits of SHA-256, and its size."""

    sha256: _Sha256
    size_bytes: int = Field(ge=0)

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The stamp of a content that is at hand."""
        return cls(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


class Manifest(_Document):
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

    @property
    def digest(self) -> str:
        """SHA-256 of everything else in the document: the manifest guards itself with it."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """The document as stable, readable JSON, with its digest."""
        return json.dumps(self.model_dump(mode="json") | {_DIGEST_NAME: self.digest}, indent=1, sort_keys=True) + "\n"


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: not JSON, fields missing or unknown, another format version, or a byte was changed since it was
            written.
    """
    try:
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ManifestError(f"{MANIFEST_FILE} is no JSON object; publish the version again")
        document.pop(_DIGEST_NAME, None)
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ManifestError(
            f"{MANIFEST_FILE} cannot be read: {where}: {first['msg']}; publish the version again"
        ) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{MANIFEST_FILE} is no JSON: {error}; publish the version again") from error
    if content != manifest.to_json().encode():
        raise ManifestError(f"{MANIFEST_FILE} was changed after it was written; publish the version again")
    return manifest


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
