"""What stands in a Triton model repository: model folders, their versions, and which models belong together.

A model folder holds config.pbtxt and one folder per version with the graph, metadata.json, probe.npz, serving.pbtxt
(the settings that this version was published with) and manifest.json. The models that one export writes are a family:
they are published, served and rolled back together. config.pbtxt names the one version that is served.

Nothing here or in the modules that publish, check and roll back needs torch or ONNX: a base install can operate a
repository.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from salf_contract import (
    CONFIG_FILE,
    METADATA_FILE,
    ConfigError,
    Metadata,
    MetadataError,
    may_be_model,
    parse_metadata,
    served_versions,
)
from salf_export.errors import OptionError, RepositoryError

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


@dataclass(frozen=True)
class ModelFolder:
    """What one model folder shall become.

    Attributes:
        name: of the model and its folder.
        config: text of config.pbtxt; which version it names and which documents it holds does not matter, publishing
            writes both.
        files: file name -> content, or the file to copy it from, of the new version.
    """

    name: str
    config: str
    files: Mapping[str, bytes | Path]


@dataclass(frozen=True)
class StoredModel:
    """One model folder as it stands on the disk.

    Attributes:
        folder: the folder; its name is the model's.
        config: text of config.pbtxt; empty if there is none.
        served: the version that is served; None if config.pbtxt is unreadable or names several.
        documents: version -> metadata, of the versions whose metadata can be read.
        unreadable: version -> why its metadata cannot be read.
    """

    folder: Path
    config: str
    served: int | None
    documents: Mapping[int, Metadata]
    unreadable: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.folder.name

    @property
    def versions(self) -> tuple[int, ...]:
        """All version numbers, rising."""
        return tuple(sorted(self.documents.keys() | self.unreadable.keys()))

    @property
    def family(self) -> str | None:
        """Name of the explain model it belongs to; None if none of its versions can be read."""
        return self.documents[max(self.documents)].name if self.documents else None


def check_name(name: str) -> None:
    """Raises OptionError unless `name` can be a folder and a Triton model."""
    if not name or name[0] in ".-" or not set(name) <= _SAFE or len(name) > 100:
        raise OptionError(
            f"the model name {name!r} cannot be a folder: use letters, digits, '_', '-' and '.', "
            "starting with a letter, digit or '_', at most 100"
        )


def versions_in(folder: Path) -> tuple[int, ...]:
    """Version numbers in a model folder, rising; empty if there is none."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(int(item.name) for item in folder.iterdir() if item.is_dir() and item.name.isdigit()))


def choose_version(repository: Path, names: Sequence[str], version: int | None) -> int:
    """The version to write: the given one, or one more than the highest in any of the folders.

    Raises:
        OptionError: less than 1.
        RepositoryError: it exists already.
    """
    present = {found for name in names for found in versions_in(repository / name)}
    if version is None:
        return max(present, default=0) + 1
    if version < 1:
        raise OptionError(f"version is {version}, expected 1 or more")
    if version in present:
        raise RepositoryError(
            f"version {version} of {names[0]} exists in {repository} and is never overwritten; a new export takes "
            f"{max(present) + 1}, the next free number, by itself"
        )
    return version


def read_documents(folder: Path) -> dict[int, Metadata]:
    """Version -> metadata, of every version in a model folder.

    Raises:
        RepositoryError: a version without readable metadata.
    """
    stored = read_model(folder)
    for version, reason in stored.unreadable.items():
        raise RepositoryError(
            f"{folder / str(version) / METADATA_FILE} cannot be read: {reason}; {folder.name} was not exported by this "
            "salf: choose another name, or move that folder away"
        )
    return dict(stored.documents)


def check_sizes(document: Metadata, present: Mapping[int, Metadata]) -> None:
    """Raises RepositoryError unless a version fits those that are there: one config.pbtxt states H, W, h, w of all."""

    def sizes(one: Metadata) -> tuple[int, int, int, int]:
        return (one.preparation.height, one.preparation.width, *one.map_size)

    for version, other in present.items():
        if sizes(other) != sizes(document):
            raise RepositoryError(
                f"version {version} of {document.name} has (height, width, map rows, map columns) {sizes(other)}, this "
                f"checkpoint has {sizes(document)}; versions of one model share them: export under another name"
            )


def read_model(folder: Path) -> StoredModel:
    """Read what a model folder says about itself; nothing is compared, and nothing missing is an error."""
    documents: dict[int, Metadata] = {}
    unreadable: dict[int, str] = {}
    versions = versions_in(folder)
    for version in versions:
        try:
            documents[version] = parse_metadata((folder / str(version) / METADATA_FILE).read_bytes())
        except (OSError, MetadataError) as error:
            unreadable[version] = str(error)
    try:
        config = (folder / CONFIG_FILE).read_text(encoding="utf-8")
        named = served_versions(config)
    except (OSError, UnicodeDecodeError, ConfigError):
        return StoredModel(folder, "", None, documents, unreadable)
    if named is None:  # Triton's choice is the newest
        named = versions[-1:]
    return StoredModel(folder, config, named[0] if len(named) == 1 else None, documents, unreadable)


def model_folders(repository: Path) -> tuple[Path, ...]:
    """Every folder that may be a model, by name.

    Raises:
        RepositoryError: the repository does not exist, is no folder, or cannot be read.
    """
    try:
        return tuple(sorted(path for path in repository.iterdir() if may_be_model(path) and path.is_dir()))
    except OSError as error:
        raise RepositoryError(
            f"the model repository {repository} cannot be read: {error.strerror}; give the folder that `salf export` "
            "wrote to"
        ) from error


def read_families(repository: Path) -> dict[str, tuple[StoredModel, ...]]:
    """Explain model's name -> its family, the explain model last; without folders that no export of salf wrote.

    Raises:
        RepositoryError: the repository cannot be read.
    """
    families: dict[str, list[StoredModel]] = {}
    for folder in model_folders(repository):
        model = read_model(folder)
        if model.family is not None:
            families.setdefault(model.family, []).append(model)
    return {
        name: tuple(sorted(models, key=lambda model: (model.name == name, model.name)))
        for name, models in families.items()
    }


def read_family(repository: Path, name: str) -> tuple[StoredModel, ...]:
    """The models published together as NAME, the explain model last.

    Raises:
        RepositoryError: the repository cannot be read, or has no such model.
    """
    families = read_families(repository)
    if name not in families:
        known = ", ".join(families) or "none"
        raise RepositoryError(f"there is no model {name!r} in {repository}; it has: {known}")
    return families[name]


def models_with_version(repository: Path, family: Sequence[StoredModel], version: int) -> tuple[StoredModel, ...]:
    """Those models of a family that have a version, the explain model last.

    Raises:
        RepositoryError: the explain model does not have it.
    """
    explain = family[-1]
    if version not in explain.documents:
        there = ", ".join(map(str, sorted(explain.documents))) or "none"
        raise RepositoryError(f"{explain.name} has no version {version} in {repository}; it has: {there}")
    return tuple(model for model in family if version in model.documents)
