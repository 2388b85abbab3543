"""A table on disk that is filled row by row, survives being killed at any moment, and notices when it was damaged.

    FOLDER/table.npy   the rows, a plain .npy file; complete once all rows are there
    FOLDER/note.json   how many rows count, and their checksum (TableNote); written after the rows are on disk
    FOLDER/lock        held while a process fills the table

Rows behind those that count are cut off when a run goes on, so a run that was killed leaves no trace in the bytes. Rows
are appended with ordinary writes, not through a map: memory does not grow with the table.
"""

import fcntl
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from salf_training.errors import DataError

_TABLE, _NOTE, _LOCK = "table.npy", "note.json", "lock"
_READ_BYTES = 1 << 20

Batches = Callable[[int], Iterator[NDArray[np.float16]]]


class TableNote(BaseModel):
    """What of a table counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    rows: int = Field(ge=0, description="of the whole table")
    row_shape: tuple[int, ...]
    done: int = Field(ge=0, description="rows that are on disk")
    crc32: int = Field(ge=0, description="of those rows' bytes")


def filled_table(
    folder: Path,
    batches: Batches,
    *,
    rows: int,
    on_rows: Callable[[int], None],
    sync_every_s: float,
) -> np.memmap[tuple[int, ...], np.dtype[np.float16]]:
    """Take a table from its folder, computing what of it is missing.

    Args:
        folder: the table's own; its name must say all that the rows depend on.
        batches: batches(start) gives rows from `start` to the end, FP16 [b,*row_shape] at a time; it is not called for
            a complete table.
        rows: of the whole table, 1 or more.
        on_rows: told how many rows are there: once when an interrupted run goes on, and after each batch.
        sync_every_s: seconds of work that a kill may cost.

    Returns:
        Read-only, memory-mapped FP16 [rows,*row_shape].

    Raises:
        DataError: the table was damaged, another process is filling it, or the disk is too small.
    """
    note = _verified_note(folder, rows=rows)
    if note is None or note.done < rows:  # a complete table is only read, by any number of processes
        with _locked(folder):
            note = _verified_note(folder, rows=rows)
            if note is not None:
                on_rows(note.done)
            _fill(folder, note, batches, rows=rows, on_rows=on_rows, sync_every_s=sync_every_s)
    return np.lib.format.open_memmap(folder / _TABLE, mode="r")


def _verified_note(folder: Path, *, rows: int) -> TableNote | None:
    """What of the table counts, after a look at all of it; None for a table that was not begun."""
    note = _read_note(folder, rows=rows)
    if note is not None:
        _verify(folder, note)
    return note


def _fill(
    folder: Path,
    note: TableNote | None,
    batches: Batches,
    *,
    rows: int,
    on_rows: Callable[[int], None],
    sync_every_s: float,
) -> None:
    done, crc = (note.done, note.crc32) if note else (0, 0)
    with (folder / _TABLE).open("r+b" if note else "w+b") as file:
        if note:
            file.truncate(_header_bytes(folder) + done * _row_bytes(note.row_shape))
            file.seek(0, os.SEEK_END)
        synced, synced_at = done, time.monotonic()

        def sync() -> None:
            nonlocal synced, synced_at
            if note is not None and done > synced:
                _flush(file)
                _write_note(folder, note.model_copy(update={"done": done, "crc32": crc}))
                synced, synced_at = done, time.monotonic()

        try:
            for batch in batches(done):
                if note is None:
                    note = TableNote(rows=rows, row_shape=batch.shape[1:], done=0, crc32=0)
                    _start(file, note, folder)
                if batch.shape[1:] != note.row_shape:
                    raise DataError(
                        f"rows of the table {folder} have shape {batch.shape[1:]}, expected {note.row_shape}; did what "
                        "computes them change? remove the folder to compute it again"
                    )
                data = np.ascontiguousarray(batch, dtype=np.float16).tobytes()
                file.write(data)
                crc, done = zlib.crc32(data, crc), done + len(batch)
                if time.monotonic() - synced_at >= sync_every_s:
                    sync()
                on_rows(done)
        finally:
            sync()  # also when a batch failed: what was computed before it counts
    if done != rows:
        raise AssertionError(f"{done} rows were computed for a table of {rows}")


def _start(file: BinaryIO, note: TableNote, folder: Path) -> None:
    """Write the header of the whole table."""
    needed, free = note.rows * _row_bytes(note.row_shape), shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the table {folder} needs {needed / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB left; make room or "
            "give the cache another place"
        )
    shape = (note.rows, *note.row_shape)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})


def _verify(folder: Path, note: TableNote) -> None:
    """Compare the rows that count with their checksum.

    Raises:
        DataError: they are not those that were written.
    """
    remedy = f"remove {folder} to compute it again"
    try:
        file = (folder / _TABLE).open("rb")
    except OSError as error:
        raise DataError(f"the table {folder / _TABLE} cannot be read: {error}; {remedy}") from error
    with file:
        try:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except (ValueError, EOFError) as error:
            raise DataError(f"the table {folder / _TABLE} is damaged: {error}; {remedy}") from error
        if (shape, dtype) != ((note.rows, *note.row_shape), np.dtype(np.float16)):
            raise DataError(f"the table {folder / _TABLE} has another shape than its note says; {remedy}")
        left, crc = note.done * _row_bytes(note.row_shape), 0
        while left > 0:
            block = file.read(min(left, _READ_BYTES))
            if not block:
                raise DataError(f"the table {folder / _TABLE} was cut off: {left} bytes are missing; {remedy}")
            crc, left = zlib.crc32(block, crc), left - len(block)
        if crc != note.crc32:
            raise DataError(f"the table {folder / _TABLE} was changed since it was written; {remedy}")


def _read_note(folder: Path, *, rows: int) -> TableNote | None:
    path = folder / _NOTE
    if not path.is_file():
        return None
    try:
        note = TableNote.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"the note {path} cannot be read; remove {folder} to compute the table again") from error
    if note.rows != rows or note.done > rows:
        raise DataError(f"the note {path} is for {note.rows} rows, expected {rows}; remove {folder}")
    return note


def _write_note(folder: Path, note: TableNote) -> None:
    """Replace the note in one step."""
    aside = folder / f"{_NOTE}.aside"
    with aside.open("wb") as file:
        file.write(note.model_dump_json().encode())
        _flush(file)
    aside.replace(folder / _NOTE)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _header_bytes(folder: Path) -> int:
    with (folder / _TABLE).open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def _row_bytes(row_shape: tuple[int, ...]) -> int:
    return int(np.prod(row_shape, dtype=np.int64)) * 2


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("wb")
    except OSError as error:
        raise DataError(f"the table {folder} cannot be written: {error}; give the cache another place") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another process is filling the table {folder}; wait for it or end it") from error
        yield
