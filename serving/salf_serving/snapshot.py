"""Copies of models: what is served is never read from the repository, where people change files."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from salf_contract import CONFIG_FILE, ConfigError, parse_config, served_versions
from salf_serving.errors import RefusedVersionError
from salf_serving.repository import version_folders

_CHUNK_BYTES = 2**20


def versions_to_serve(model: Path) -> tuple[Path, ...]:
    """Version folders that config.pbtxt's `version_policy` chooses, oldest first.

    Raises:
        RefusedVersionError: config.pbtxt cannot be read, or names a version that is not there.
    """
    folders = version_folders(model)
    try:
        text = (model / CONFIG_FILE).read_text()
        wanted = served_versions(text)
        newest = 1 if wanted is not None else _newest(text)
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise RefusedVersionError(f"model {model.name}: {error}", reason="metadata") from error
    if wanted is None:
        return folders if newest is None else folders[-newest:]
    missing = sorted(set(wanted) - {int(folder.name) for folder in folders})
    if missing:
        raise RefusedVersionError(
            f"model {model.name} should serve version {missing[0]}, which is not there; publish it again or change "
            f"version_policy in {CONFIG_FILE}",
            reason="metadata",
        )
    return tuple(folder for folder in folders if int(folder.name) in wanted)


def signature(model: Path) -> str:
    """Changes whenever a served file of a model does; reads no file but config.pbtxt.

    Raises:
        RefusedVersionError: see `versions_to_serve`.
        OSError: a file went away meanwhile.
    """
    digest = hashlib.sha256((model / CONFIG_FILE).read_bytes())
    for path in _served_files(model):
        stat = path.stat()
        digest.update(f"{path.relative_to(model)}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}\n".encode())
    return digest.hexdigest()


def content_digest(model: Path) -> str:
    """SHA-256 over names and contents of a model's served files."""
    digest = hashlib.sha256()
    for path in _served_files(model):
        digest.update(f"{path.relative_to(model)}|{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def copy_model(model: Path, target: Path) -> None:
    """Copy a model with the versions that it serves, and no others.

    Raises:
        RefusedVersionError: see `versions_to_serve`.
        OSError: a file cannot be read, or the disk is full.
    """
    left_out = {folder.name for folder in version_folders(model)} - {path.name for path in versions_to_serve(model)}

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) == model and name in left_out]

    try:
        shutil.copytree(model, target, ignore=ignored)
    except shutil.Error as error:  # all that failed, as a list
        raise OSError(str(error.args[0][0][-1])) from error


def link_model(model: Path, target: Path) -> None:
    """A second copy of a copy, which costs no space: hard links."""
    shutil.copytree(model, target, copy_function=os.link)


def file_sha256(path: Path) -> str:
    """64 hex digits; reads the file in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def files_below(folder: Path) -> tuple[Path, ...]:
    """All files of a folder, sorted."""
    return tuple(sorted(path for path in folder.rglob("*") if path.is_file()))


def _served_files(model: Path) -> Iterator[Path]:
    served = {folder.name for folder in versions_to_serve(model)}
    unserved = {folder.name for folder in version_folders(model)} - served
    for path in files_below(model):
        if path.relative_to(model).parts[0] not in unserved:
            yield path


def _newest(config: str) -> int | None:
    """How many of the newest versions a policy without numbers serves; None: all."""
    for field in parse_config(config):
        for message in field.messages if field.name == "version_policy" else ():
            for policy in message:
                if policy.name == "all":
                    return None
                if policy.name == "latest":
                    numbers = [part.values[0] for inner in policy.messages for part in inner]
                    return int(str(numbers[0])) if numbers and str(numbers[0]).isdecimal() else 1
    return 1
