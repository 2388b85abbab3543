"""Manifests: text lists, CSV and JSON lines that name pictures by path or URL."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from urllib.parse import urljoin

from salf_batch.errors import InvalidSourceError, UnreadableInputError
from salf_batch.stores import WEB, Place, RetryCount, is_known, place_of

#: Names of the column that holds a picture's path or URL, in order of preference.
URI_COLUMNS = ("uri", "url", "path", "image", "file")


def text_inputs(manifest: Place) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Paths or URLs, one a line; empty lines and those that begin with # are skipped."""
    with _lines(manifest) as lines:
        for line in lines:
            name = line.strip()
            if name and not name.startswith("#"):
                yield _input(manifest, name)


def csv_inputs(manifest: Place, *, column: str | None) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """One column of a CSV file with a heading.

    Raises:
        InvalidSourceError: no such column, or no CSV.
    """
    with _lines(manifest) as lines:
        reader = csv.DictReader(lines)
        try:
            wanted = _column(manifest, reader.fieldnames or (), column)
            for row in reader:
                yield _input(manifest, _value(manifest, row, wanted, reader.line_num))
        except csv.Error as error:
            raise InvalidSourceError(f"{manifest.uri}, line {reader.line_num}: {error}") from error


def json_lines_inputs(manifest: Place, *, column: str | None) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """One field of the JSON objects, one a line.

    Raises:
        InvalidSourceError: no such field, or no JSON.
    """
    wanted = column
    with _lines(manifest) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidSourceError(f"{manifest.uri}, line {number}: no JSON ({error})") from error
            if not isinstance(row, dict):
                raise InvalidSourceError(f"{manifest.uri}, line {number}: expected a JSON object")
            if wanted is None or number == 1:
                wanted = _column(manifest, tuple(row), column)
            yield _input(manifest, _value(manifest, row, wanted, number))


@contextmanager
def _lines(manifest: Place) -> Iterator[io.TextIOWrapper]:
    with io.TextIOWrapper(manifest.open(), encoding="utf-8-sig", newline="") as lines:
        try:
            yield lines
        except UnicodeDecodeError as error:
            raise InvalidSourceError(f"{manifest.uri} is no UTF-8 text ({error.reason})") from error


def _column(manifest: Place, names: Sequence[str], column: str | None) -> str:
    for name in URI_COLUMNS if column is None else (column,):
        if name in names:
            return name
    wanted = " or ".join(URI_COLUMNS) if column is None else column
    raise InvalidSourceError(
        f"{manifest.uri} has no column {wanted}; it has: {', '.join(map(str, names)) or 'none'}; name one with --column"
    )


def _value(manifest: Place, row: Mapping[str, object], column: str, line: int) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value or _is_no_text(value):
        raise InvalidSourceError(f"{manifest.uri}, line {line}: '{column}' is {value!r}, expected a path or URL")
    return value


def _is_no_text(value: str) -> bool:
    """JSON can name halves of characters, which no file has in its name."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return True
    return False


def _input(manifest: Place, name: str) -> tuple[str, Callable[[], bytes]]:
    """Relative names are relative to the manifest's own folder, on a web server those with a slash to its root.

    A store is looked for when the picture is read.
    """
    if "://" in name:
        return name, partial(_read_address, name, manifest.retries)
    if not name.startswith("/"):
        place = manifest.beside(name)
    else:
        place = manifest.at(urljoin(manifest.path, name) if manifest.scheme in WEB else name)
    return place.uri, place.read


def _read_address(name: str, retries: RetryCount) -> bytes:
    if not is_known(name):
        raise UnreadableInputError(f"{name} is in no kind of store that there is; check the address")
    return place_of(name, retries).read()
