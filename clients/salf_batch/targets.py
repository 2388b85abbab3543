"""A scored store: a folder of Parquet files, one for each range of inputs, and a manifest that says of what.

    TARGET/_salf.json              source, model and settings; written first, never changed
    TARGET/part-000000.parquet     rows of the inputs 0 to shard_size - 1, in order
    TARGET/part-000001.parquet     ...

A part appears whole or not at all: on this machine it is written aside, flushed to the disk and renamed; object stores
show an object when its upload is complete. So the parts that exist are what is done, and nothing else is kept that
could disagree with them. Readers of Parquet datasets skip names that begin with an underscore.
"""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from salf_batch.errors import (
    InvalidTargetError,
    StoreUnavailableError,
    TargetInUseError,
    TargetMismatchError,
    TargetWriteError,
    UnreadableInputError,
)
from salf_batch.stores import Place, place_of
from salf_batch.tables import DEFAULT_COLUMN
from salf_contract import first_problem

MANIFEST = "_salf.json"
_LOCK = "_lock"
_INCOMPLETE = ".incomplete"
_PART = re.compile(r"part-(\d{6,})\.parquet")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Manifest(BaseModel):
    """What a scored store holds rows of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    source: str
    source_fingerprint: str = Field(description="SHA-256 of all uris in order")
    inputs: int = Field(ge=1)
    column: str | None = Field(default=None, description="of the source's pictures, if it is a table")
    model: str
    version: int
    contract_id: str
    shard_size: int = Field(ge=1)
    top: int = Field(ge=1, description="concepts in a row at most")
    maps: bool

    @property
    def shards(self) -> int:
        """How many parts there are when all is done."""
        return -(-self.inputs // self.shard_size)

    @property
    def pictures_column(self) -> str | None:
        """Column that holds a table's pictures; None of sources whose inputs are named by what they point to."""
        return (self.column or DEFAULT_COLUMN) if self.source.lower().endswith(".parquet") else None

    def rows_of(self, shard: int) -> int:
        """How many rows a part has."""
        return min(self.shard_size, self.inputs - shard * self.shard_size)


def target_of(name: str) -> Place:
    """Where a target lies.

    Args:
        name: a path, or such as s3://bucket/folder.

    Raises:
        InvalidTargetError: the name is empty.
        BatchError: as `place_of`.
    """
    if not name.strip():
        raise InvalidTargetError("the target has no name; give the folder of a scored store, or a new one")
    return place_of(name.rstrip("/") or name)


def claim(target: Place, wanted: Manifest) -> None:
    """Make a target hold what is wanted, or find that it does.

    Raises:
        TargetMismatchError: it holds rows of something else.
        InvalidTargetError: it holds something that is no scored store.
        TargetWriteError: it cannot be written.
    """
    names = _names(target)
    for name in names:
        if name.endswith(_INCOMPLETE):  # what a run was writing when it was killed; this one holds the lock
            target.asked(partial(target.files.rm_file, f"{target.path}/{name}"))
    found = begun(target)
    if found is not None:
        _check_same(target, found, wanted)
        return
    if MANIFEST not in names and any(name != _LOCK and not name.endswith(_INCOMPLETE) for name in names):
        raise InvalidTargetError(f"{target.uri} is not empty, and no scored store; give a new folder with --out")
    path = target.at(f"{target.path}/{MANIFEST}")
    write(path, (wanted.model_dump_json(indent=1) + "\n").encode())


def begun(target: Place) -> Manifest | None:
    """What a target holds rows of; None if nothing was scored into it yet.

    One without a part, on this machine, where a lock keeps others out, is begun anew.

    Raises:
        InvalidTargetError: its manifest cannot be read.
    """
    if not _exists(target.at(f"{target.path}/{MANIFEST}")):
        return None
    manifest = read_manifest(target)
    return manifest if not target.is_local or any(map(_PART.fullmatch, _names(target))) else None


def read_manifest(target: Place) -> Manifest:
    """What a scored store holds.

    Raises:
        InvalidTargetError: no scored store, or one of another salf.
    """
    try:
        return Manifest.model_validate_json(target.at(f"{target.path}/{MANIFEST}").read())
    except UnreadableInputError as error:
        raise InvalidTargetError(f"{target.uri} is no scored store; make one with `salf score`") from error
    except ValidationError as error:
        raise InvalidTargetError(
            f"{target.uri}/{MANIFEST} cannot be read ({first_problem(error)}); score into a new folder"
        ) from error


def parts(target: Place, manifest: Manifest) -> dict[int, Place]:
    """The parts that are complete, by number; one of another length than it must have is not.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    found = {}
    for name in sorted(_names(target)):
        match = _PART.fullmatch(name)
        if match and int(match[1]) < manifest.shards:
            part = target.at(f"{target.path}/{name}")
            if _rows(part) == manifest.rows_of(int(match[1])):
                found[int(match[1])] = part
    return found


def part_of(target: Place, manifest: Manifest, shard: int) -> Place | None:
    """A part, if it is complete.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    part = target.at(f"{target.path}/part-{shard:06d}.parquet")
    try:
        return part if _exists(part) and _rows(part) == manifest.rows_of(shard) else None
    except UnreadableInputError:
        return None


def write_part(target: Place, shard: int, data: bytes) -> None:
    """Add a part.

    Raises:
        TargetWriteError: disk full or no permission; nothing is left behind.
    """
    write(target.at(f"{target.path}/part-{shard:06d}.parquet"), data)


def write(place: Place, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        TargetWriteError: disk full or no permission; nothing is left behind.
    """
    if not place.is_local:
        try:
            place.asked(partial(place.files.pipe_file, place.path, data))
        except (StoreUnavailableError, UnreadableInputError) as error:
            raise TargetWriteError(f"the target cannot be written: {error}") from error
        return
    path = Path(place.path)
    # A name of its own: of two workers of a cluster, one may be taken for dead and still write the same part.
    aside = path.with_name(f"_{path.name.removeprefix('_')}.{secrets.token_hex(4)}{_INCOMPLETE}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        if error.errno in _FULL:
            raise TargetWriteError(
                f"no space is left for {path} ({error.strerror}); what is done stays: make room and run again"
            ) from error
        raise TargetWriteError(f"{path} cannot be written ({error.strerror}); choose another target") from error


@contextmanager
def locked(target: Place) -> Iterator[None]:
    """Keep other runs on this machine from writing to a target; object stores have no lock.

    Raises:
        TargetInUseError: another run holds it.
        TargetWriteError: the folder cannot be made.
    """
    if not target.is_local:
        yield
        return
    path = Path(target.path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / _LOCK).open("wb")
    except OSError as error:
        raise TargetWriteError(f"{path} cannot be written ({error.strerror}); choose another target") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TargetInUseError(f"another run writes to {path}; wait for it, or stop it") from error
        yield


def _check_same(target: Place, found: Manifest, wanted: Manifest) -> None:
    if found.contract_id != wanted.contract_id:
        raise TargetMismatchError(
            f"{target.uri} holds rows of model '{found.model}' version {found.version} (contract {found.contract_id}), "
            f"but the server answers with '{wanted.model}' version {wanted.version} (contract {wanted.contract_id}); "
            f"serve the first one again, or give a new folder with --out"
        )
    if found.source_fingerprint != wanted.source_fingerprint:
        raise TargetMismatchError(
            f"{target.uri} holds rows of {found.source} with {found.inputs} inputs, but {wanted.source} lists "
            f"{wanted.inputs}, or others; give a new folder with --out"
        )
    # Rows of a table are named by their number: another column's pictures have the same names.
    if found.pictures_column != wanted.pictures_column:
        raise TargetMismatchError(
            f"{target.uri} holds rows of the pictures in column '{found.pictures_column}', not in "
            f"'{wanted.pictures_column}'; use the same --column, or give a new folder with --out"
        )
    for name in ("shard_size", "top", "maps"):
        if getattr(found, name) != getattr(wanted, name):
            raise TargetMismatchError(
                f"{target.uri} was begun with {name} {getattr(found, name)}, not {getattr(wanted, name)}; use the "
                f"same, or give a new folder with --out"
            )


def _names(target: Place) -> set[str]:
    def listed() -> list[str]:
        target.files.invalidate_cache(target.path)
        try:
            return list(target.files.ls(target.path, detail=False))
        except FileNotFoundError:
            return []

    names = {path.rstrip("/").rpartition("/")[2] for path in target.asked(listed)}
    return names - {target.path.rpartition("/")[2], ""}


def _exists(place: Place) -> bool:
    # Not the file system's `exists`, to which a store in trouble has nothing.
    try:
        place.asked(partial(place.files.info, place.path))
    except UnreadableInputError:
        return False
    return True


def _rows(part: Place) -> int:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    with part.open() as file:
        try:
            return int(parquet.read_metadata(file).num_rows)
        except (pa.ArrowInvalid, OSError):  # Arrow calls a damaged footer an OSError
            return -1


def _flush_folder(folder: Path) -> None:
    """Renames are lost with the power unless the folder is flushed as well."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
