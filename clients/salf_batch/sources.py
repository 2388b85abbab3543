"""What can be scored: each kind of source is a function that yields its inputs, always in the same order."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeAlias

from salf_batch.archives import tar_inputs
from salf_batch.errors import InputNotThereError, InvalidSourceError, SourceNotThereError, UnreadableInputError
from salf_batch.lists import csv_inputs, json_lines_inputs, text_inputs
from salf_batch.spool import Spool
from salf_batch.stores import WEB, Place, RetryCount, place_of, scheme_of
from salf_batch.tables import parquet_inputs

#: Endings of files that are taken for pictures in folders and archives.
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
#: Endings of what holds pictures, and is taken by mistake for one.
_PACKED = (".zip", ".7z", ".rar", ".gz", ".tgz", ".zst", ".bz2", ".xz")
_NO_SOURCE = (".tsv", ".json", ".arrow", ".feather", ".xlsx")
_EXPECTED = (
    f"expected a folder or glob of {', '.join(PICTURE_SUFFIXES)}, or a .tar, .parquet, .csv, .jsonl or .txt file"
)
_GLOB = re.compile(r"[*?\[]")
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Input(NamedTuple):
    """One picture to be.

    Attributes:
        uri: its name in the row.
        load: reads its bytes; raises UnreadableInputError or StoreUnavailableError.
    """

    uri: str
    load: Callable[[], bytes]


Inputs: TypeAlias = Iterator[tuple[str, Callable[[], bytes]]]


@dataclass(frozen=True)
class Source:
    """A source that was counted.

    Attributes:
        name: as it was given.
        kind: "pictures", "tar", "parquet", "csv", "jsonl" or "list".
        count: how many inputs it has.
        fingerprint: SHA-256 of all their uris in order, 64 hex digits.
        again: gives the inputs from the first one on.
        retries: repetitions that its stores needed.
    """

    name: str
    kind: str
    count: int
    fingerprint: str
    again: Callable[[], Iterator[Input]]
    retries: RetryCount


def open_source(name: str, *, column: str | None = None, report: Callable[[int], None] = lambda _count: None) -> Source:
    """Recognise a source by its ending, and list it: once, for its inputs are kept on this machine's disk.

    Args:
        name: a folder, a picture, a glob, or files ending in .tar, .parquet, .csv, .jsonl or .txt; paths or URLs.
        column: of tables and manifests; None takes "image" in Parquet, and "uri", "path" or "image" in manifests.
        report: hears how many inputs were found so far, every thousand.

    Raises:
        SourceNotThereError: it does not exist, or holds nothing.
        InvalidSourceError: it cannot be understood.
        MissingExtraError: the store's package is not installed.
        StoreUnavailableError: its store does not answer.
    """
    if not name.strip():
        raise InvalidSourceError(f"the source has no name; {_EXPECTED}")
    retries = RetryCount()
    kind, each = _kind(name, column)

    def listed() -> Iterator[Input]:
        for file in _files(name, retries, is_folder_of_pictures=kind == "pictures"):
            for uri, load in each(file):
                yield Input(uri, load)

    digest, count, spool = hashlib.sha256(), 0, Spool(retries)
    try:
        for one in listed():
            spool.add(one)
            digest.update(one.uri.encode("utf-8", "surrogateescape") + b"\0")
            count += 1
            if count % 1000 == 0:
                report(count)
    except UnreadableInputError as error:
        failure = SourceNotThereError if isinstance(error, InputNotThereError) else InvalidSourceError
        raise failure(f"the source {name} cannot be listed: {error}") from error
    if count == 0:
        raise SourceNotThereError(f"the source {name} holds no pictures; {_EXPECTED}")
    return Source(name, kind, count, digest.hexdigest(), spool.again, retries)


def load_uri(uri: str, *, column: str | None = None, retries: RetryCount | None = None) -> bytes:
    """Read an input again by the uri in its row; members of archives and rows of tables too.

    Args:
        uri: of the row.
        column: of the pictures in a table.
        retries: counts repetitions.

    Raises:
        UnreadableInputError: it is not there any more.
        StoreUnavailableError: its store does not answer.
    """
    container, mark, _ = uri.partition("#")
    ending = _ending(container)
    if not mark or not ending.endswith((".tar", ".parquet")):
        return place_of(uri, retries).read()
    place = place_of(container, retries)
    is_tar = ending.endswith(".tar")
    inputs = tar_inputs(place, suffixes=PICTURE_SUFFIXES) if is_tar else parquet_inputs(place, column=column)
    for found, load in inputs:
        if found == uri:
            return load()
    raise UnreadableInputError(f"there is no {uri} any more")


def _ending(name: str) -> str:
    """The end of a name that tells what it is, in lower case; a web address says so before its query."""
    return (name.partition("?")[0] if scheme_of(name) in WEB else name).lower()


def _kind(name: str, column: str | None) -> tuple[str, Callable[[Place], Inputs]]:
    lower = _ending(name)
    if lower.endswith(_PACKED):
        raise InvalidSourceError(
            f"{name} is a compressed archive, which cannot be read from the middle; unpack it, to .tar or a folder"
        )
    if lower.endswith(_NO_SOURCE):
        raise InvalidSourceError(f"{name} is no source; {_EXPECTED}")
    if lower.endswith(".tar"):
        return "tar", partial(tar_inputs, suffixes=PICTURE_SUFFIXES)
    if lower.endswith(".parquet"):
        return "parquet", partial(parquet_inputs, column=column)
    if lower.endswith(".csv"):
        return "csv", partial(csv_inputs, column=column)
    if lower.endswith((".jsonl", ".ndjson")):
        return "jsonl", partial(json_lines_inputs, column=column)
    if lower.endswith(".txt"):
        return "list", text_inputs
    return "pictures", _picture


def _picture(file: Place) -> Inputs:
    yield file.uri, file.read


def _files(name: str, retries: RetryCount, *, is_folder_of_pictures: bool) -> Iterator[Place]:
    """The files that a name stands for, sorted."""
    for one in _expanded(name):
        place = place_of(one, retries)
        if _is_glob(one, place):
            found = place.asked(partial(place.files.glob, place.path))
            yield from (place.at(path) for path in sorted(found) if not is_folder_of_pictures or _is_picture(path))
        elif not is_folder_of_pictures or place.scheme in WEB:
            yield place
        # Not the file system's `isdir`, to which a store in trouble has nothing.
        elif place.asked(partial(place.files.info, place.path))["type"] == "directory":
            yield from _pictures_below(place)
        else:
            yield place


def _is_glob(name: str, place: Place) -> bool:
    if not _GLOB.search(name) or place.scheme in WEB:
        return False
    # A folder may be called "photos [2024]". Not pathlib's `exists`, which raises where we may not look.
    return not (place.is_local and os.path.exists(place.path))  # noqa: PTH110


def _pictures_below(folder: Place) -> Iterator[Place]:
    if folder.is_local:
        # fsspec would hold a record of every file at once.
        seen: set[tuple[int, int]] = set()
        for path, folders, names in os.walk(folder.path, onerror=_cannot_list, followlinks=True):
            try:
                about = Path(path).stat()
            except OSError as error:
                _cannot_list(error)
            if (about.st_dev, about.st_ino) in seen:  # links that lead to it twice, or in a circle
                folders.clear()
                continue
            seen.add((about.st_dev, about.st_ino))
            folders.sort()
            yield from (folder.at(f"{path}/{name}") for name in sorted(names) if _is_picture(name))
    else:
        found = folder.asked(partial(folder.files.find, folder.path))
        yield from (folder.at(path) for path in sorted(found) if _is_picture(path))


def _cannot_list(error: OSError) -> NoReturn:
    failure = SourceNotThereError if isinstance(error, FileNotFoundError) else InvalidSourceError
    raise failure(f"the folder {error.filename} cannot be listed ({error.strerror})") from error


def _is_picture(path: str) -> bool:
    return path.lower().endswith(PICTURE_SUFFIXES)


def _expanded(name: str) -> Iterator[str]:
    """Names of a numbered series, as WebDataset writes it: shard-{000..003}.tar."""
    found = _NUMBERS.search(name)
    if found is None:
        yield name
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{name[: found.start()]}{number:0{len(first)}d}{name[found.end() :]}")
