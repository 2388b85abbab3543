"""A process that fills tables and is killed at every line, twice: `python table_kills.py FOLDER`. Imports no torch."""

import itertools
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from salf_training.resumable_table import filled_table

#: Of `Path`: lines in them count too, so that a file that is emptied before it is written is met half-way.
_PATH_METHODS = {"open", "write_bytes", "write_text", "replace", "rename", "unlink"}


def rows_from(start: int) -> Iterator[NDArray[np.float16]]:
    """Rows `start` to 13 of a table: 1 kB that waits in the file's buffer, 12 kB that do not fit in, 1 kB again."""
    table = (np.arange(14 * 500) % 997).astype(np.float16).reshape(14, 500)
    for rows in (slice(0, 1), slice(1, 13), slice(13, 14)):
        if rows.stop > start:
            yield table[max(start, rows.start) : rows.stop]


def kill_at_every_line(root: Path) -> None:
    """Fill ROOT/1, ROOT/2, ..., and kill the n-th run at the n-th line that resumable_table runs; then once more.

    The last folder is the one in which the first run came to its end.
    """
    for last_line in itertools.count(1):
        exit_codes = [_in_a_fork(root / str(last_line), last_line) for _ in range(2)]
        if exit_codes[0] == 0:
            return
        assert set(exit_codes) <= {0, -signal.SIGKILL}, exit_codes


def _in_a_fork(folder: Path, last_line: int) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _fill_until(folder, last_line)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _fill_until(folder: Path, last_line: int) -> None:
    """Fill a table and die as by `kill -9` at a line; FOLDER.done says how many rows were told of."""
    lines_run = 0
    os.fsync = lambda _: None  # a kill, unlike a power cut, loses nothing that the system holds; and it takes long

    def count(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal lines_run
        code = frame.f_code
        if not code.co_filename.endswith("resumable_table.py") and (
            code.co_filename != pathlib.__file__ or code.co_name not in _PATH_METHODS
        ):
            return None
        lines_run += event == "line"
        if lines_run == last_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    def tell(done: int) -> None:
        folder.with_suffix(".done").write_text(str(done))

    sys.settrace(count)
    filled_table(folder, rows_from, rows=14, on_rows=tell, sync_every_s=0)
    sys.settrace(None)


if __name__ == "__main__":
    kill_at_every_line(Path(sys.argv[1]))
