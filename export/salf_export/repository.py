"""Version folders of a Triton model repository: found, numbered, and published by renames.

A model folder holds config.pbtxt and one folder per version with model.onnx, metadata.json and probe.npz.
Everything is written aside first. Triton never sees a half-written version: it sees the folder or it does not.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from salf_contract import CONFIG_FILE, METADATA_FILE, Metadata, MetadataError, parse_metadata
from salf_export.errors import OptionError, RepositoryError
from salf_export.weight_files import link_same_files

_OLD_CONFIG = "config.pbtxt.before"
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


@dataclass(frozen=True)
class ModelFolder:
    """What one model folder shall become.

    Attributes:
        name: of the model and its folder.
        config: text of config.pbtxt.
        files: file name -> content, of the new version.
    """

    name: str
    config: str
    files: Mapping[str, bytes]


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
            f"version {version} of {names[0]} exists in {repository} and is never overwritten; "
            f"leave the version out to write version {max(present) + 1}, or remove the folder first"
        )
    return version


def read_documents(folder: Path) -> dict[int, Metadata]:
    """Version -> metadata, of every version in a model folder.

    Raises:
        RepositoryError: a version without readable metadata.
    """
    documents: dict[int, Metadata] = {}
    for version in versions_in(folder):
        path = folder / str(version) / METADATA_FILE
        try:
            documents[version] = parse_metadata(path.read_bytes())
        except (OSError, MetadataError) as error:
            raise RepositoryError(
                f"{path} cannot be read: {error}; {folder.name} was not exported by this salf: "
                "choose another name, or move that folder away"
            ) from error
    return documents


def publish(repository: Path, version: int, models: Sequence[ModelFolder]) -> None:
    """Write all files aside, then rename them into place, the last model last.

    A new model appears whole. For a further version config.pbtxt is replaced first: it then also describes a version
    that is not there yet, which no answer mentions.

    Args:
        repository: made if missing.
        version: free in all model folders.
        models: in the order of appearance.

    Raises:
        RepositoryError: no space, no permission, or another export took the version. What was in the repository
            stays loadable; files of this export that had already appeared are taken back.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _aside(repository) as aside:
            for model in models:
                _write(aside / model.name, version, model)
                config = repository / model.name / CONFIG_FILE
                if config.exists():  # kept for undoing, now: later there may be no space
                    shutil.copy2(config, aside / model.name / _OLD_CONFIG)
            link_same_files([aside / model.name / str(version) for model in models])
            _sync(aside)
            _appear(repository, version, models, aside)
    except OSError as error:
        full = " (free some space and run the export again)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise RepositoryError(
            f"version {version} of {models[-1].name} could not be written to {repository}: {error}{full}; "
            "the repository is as it was before"
        ) from error


def _appear(repository: Path, version: int, models: Sequence[ModelFolder], aside: Path) -> None:
    """Rename everything into place; take back what appeared if one step fails."""
    undo: list[tuple[Path, Path | None]] = []  # what appeared, and what was there before
    try:
        for model in models:
            folder = repository / model.name
            if not folder.exists():
                (aside / model.name).rename(folder)
                undo.append((folder, None))
                continue
            config = folder / CONFIG_FILE
            undo.append((config, aside / model.name / _OLD_CONFIG))
            (aside / model.name / CONFIG_FILE).replace(config)
            # Fails if another export has just written this version: a folder with files is never replaced by a rename.
            (aside / model.name / str(version)).rename(folder / str(version))
            undo.append((folder / str(version), None))
    except BaseException:
        for path, before in reversed(undo):
            if before is None:
                shutil.rmtree(path, ignore_errors=True)
            elif before.exists():
                before.replace(path)
            else:
                path.unlink(missing_ok=True)
        raise


@contextmanager
def _aside(repository: Path) -> Iterator[Path]:
    """A folder on the repository's file system: beside it, since Triton takes every folder inside for a model."""
    whole = repository.resolve()
    beside = whole.parent
    is_usable = os.access(beside, os.W_OK) and beside.stat().st_dev == whole.stat().st_dev
    aside = Path(tempfile.mkdtemp(prefix=f".{whole.name}-", dir=beside if is_usable else whole))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(folder: Path, version: int, model: ModelFolder) -> None:
    (folder / str(version)).mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(model.config)
    for name, content in model.files.items():
        (folder / str(version) / name).write_bytes(content)


def _sync(folder: Path) -> None:
    """Bring files to the disk before they are renamed: after a power cut a version is whole or absent."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
