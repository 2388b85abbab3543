"""Pictures in WebDataset's tar archives, each read from its place in the archive."""

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO

from salf_batch.errors import InvalidSourceError, UnreadableInputError
from salf_batch.stores import Place


def tar_inputs(archive: Place, *, suffixes: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Pictures of an uncompressed archive in its own order, as `ARCHIVE#MEMBER`.

    Args:
        archive: a .tar file.
        suffixes: endings of members that are pictures.

    Raises:
        InvalidSourceError: no tar archive, or a truncated one.
        UnreadableInputError: there is no such file.
    """
    with (
        archive.open() as file,
        _opened(archive, file) as members,
    ):
        try:
            for member in members:
                if member.isfile() and member.name.lower().endswith(suffixes):
                    yield f"{archive.uri}#{member.name}", _load(archive, member)
                members.members = []  # type: ignore[attr-defined]  # tarfile would keep a record of every member
            # To tarfile, an archive ends where a member's head cannot be read.
            file.seek(members.offset)
            if any(file.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"no member and no end at byte {members.offset}")
        except tarfile.TarError as error:
            raise InvalidSourceError(f"the archive {archive.uri} is broken ({error}); pack it again") from error


def _load(archive: Place, member: tarfile.TarInfo) -> Callable[[], bytes]:
    if member.issparse():
        return partial(_refuse_sparse, f"{archive.uri}#{member.name}")
    return partial(archive.read, member.offset_data, member.offset_data + member.size)


def _refuse_sparse(uri: str) -> bytes:
    raise UnreadableInputError(
        f"{uri} is a sparse file, of which the archive leaves parts out; pack it without --sparse"
    )


def _opened(archive: Place, file: BinaryIO) -> tarfile.TarFile:
    if isinstance(file, io.BytesIO):
        raise InvalidSourceError(
            f"{archive.uri}: its web server gives whole files only, and would give this one again for each picture; "
            f"copy the archive to a disk or an object store"
        )
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except tarfile.TarError as error:
        raise InvalidSourceError(f"{archive.uri} is no uncompressed tar archive ({error})") from error
