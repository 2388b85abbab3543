"""Pictures in WebDataset's tar archives, each read from its place in the archive."""

import tarfile
from collections.abc import Callable, Iterator
from functools import partial

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
        archive.asked(partial(archive.files.open, archive.path, "rb")) as file,
        _opened(archive, file) as members,
    ):
        try:
            for member in members:
                if member.isfile() and member.name.lower().endswith(suffixes):
                    start = member.offset_data
                    load = partial(_member, archive, start, start + member.size)
                    yield f"{archive.uri}#{member.name}", load
                members.members = []  # type: ignore[attr-defined]  # tarfile would keep a record of every member
        except tarfile.TarError as error:
            raise InvalidSourceError(f"the archive {archive.uri} is broken ({error}); pack it again") from error


def _opened(archive: Place, file: object) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")  # type: ignore[call-overload, no-any-return]
    except tarfile.TarError as error:
        raise InvalidSourceError(f"{archive.uri} is no uncompressed tar archive ({error})") from error


def _member(archive: Place, start: int, stop: int) -> bytes:
    data = archive.read(start, stop)
    if len(data) != stop - start:
        raise UnreadableInputError(f"{archive.uri} ends within a member; pack it again")
    return data
