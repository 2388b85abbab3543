"""What a model repository holds, one row for each version of each family."""

from dataclasses import dataclass
from pathlib import Path

from salf_contract import Fidelity, ManifestError, Metadata
from salf_export.repository import StoredModel, read_families
from salf_export.version_files import read_manifest


@dataclass(frozen=True)
class ListedVersion:
    """One version of a family.

    Attributes:
        name: the explain model.
        version: its number.
        served: models of the family that serve this version; others may serve another one.
        models: models of the family that have this version.
        contract_id: 32 hex digits that every answer carries.
        fidelity: how it was compared with the trained model; None if it was not.
        accuracy: figures from the model card, 0..1.
        size_bytes: of all files of the version, in all models.
        published_at: UTC, ISO 8601; None for a version without a manifest.
    """

    name: str
    version: int
    served: tuple[str, ...]
    models: tuple[str, ...]
    contract_id: str
    fidelity: Fidelity | None
    accuracy: dict[str, float]
    size_bytes: int
    published_at: str | None


def list_repository(repository: Path) -> tuple[ListedVersion, ...]:
    """Every version of every family, by name and version. Nothing is checked; see `verify_repository`.

    Raises:
        RepositoryError: the repository cannot be read.
    """
    return tuple(
        _row(name, version, [model for model in family if version in model.documents])
        for name, family in sorted(read_families(repository).items())
        for version in sorted({version for model in family for version in model.documents})
    )


def _row(name: str, version: int, models: list[StoredModel]) -> ListedVersion:
    document: Metadata = models[-1].documents[version]
    folders = [model.folder / str(version) for model in models]
    try:
        manifest = read_manifest(folders[-1])
    except ManifestError:
        manifest = None
    return ListedVersion(
        name=name,
        version=version,
        served=tuple(model.name for model in models if model.served == version),
        models=tuple(model.name for model in models),
        contract_id=document.contract_id,
        fidelity=document.fidelity,
        accuracy=dict(document.accuracy),
        size_bytes=sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()),
        published_at=None if manifest is None else manifest.published_at,
    )
