"""A source's inputs on this machine's disk: listed once, then read from here as often as they are needed.

An input is a name and how to load it, some tens of bytes when compressed, in a file that nobody else sees and that ends
with the run. What all inputs share stays in memory, and is the same object for those that are read back.
"""

import io
import pickle
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from salf_batch.errors import TemporaryFilesError
from salf_batch.stores import RetryCount

_TOGETHER = 1000
_LENGTH_BYTES = 4


class Spool:
    """Inputs in their order.

    Args:
        retries: counts repetitions for all of them.

    Raises:
        TemporaryFilesError: the folder for temporary files is full, or cannot be used; adding and reading raise it too.
    """

    def __init__(self, retries: RetryCount) -> None:
        self._retries = retries
        with _on_disk():
            self._file = tempfile.TemporaryFile(prefix="salf-inputs-")  # noqa: SIM115 - as long as the spool lives
        self._waiting: list[Any] = []

    def add(self, one: Any) -> None:
        """Append an input."""
        self._waiting.append(one)
        if len(self._waiting) >= _TOGETHER:
            self._write()

    def again(self) -> Iterator[Any]:
        """All inputs, from the first one on."""
        self._write()
        position = 0
        while True:
            with _on_disk():
                self._file.seek(position)
                head = self._file.read(_LENGTH_BYTES)
                if not head:
                    return
                data = self._file.read(int.from_bytes(head, "big"))
                position = self._file.tell()
            yield from unpacked(data, self._retries)

    def _write(self) -> None:
        if not self._waiting:
            return
        data = packed(self._waiting)
        with _on_disk():
            self._file.seek(0, io.SEEK_END)
            self._file.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
            self._file.flush()
        self._waiting = []


@contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TemporaryFilesError(
            f"the names of the inputs cannot be kept among this machine's temporary files ({error.strerror or error}); "
            f"make room in {tempfile.tempdir or 'their folder'}, or set TMPDIR to a folder with more of it"
        ) from error


def packed(inputs: list[Any]) -> bytes:
    """Inputs as bytes, for this run's own processes."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(inputs)
    return zlib.compress(buffer.getvalue(), 1)


def unpacked(data: bytes, retries: RetryCount) -> list[Any]:
    """What `packed` was given, with another count of repetitions for all of them."""
    inputs: list[Any] = _Unpickler(io.BytesIO(zlib.decompress(data)), retries).load()
    return inputs


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> str | None:
        return "retries" if isinstance(value, RetryCount) else None


class _Unpickler(pickle.Unpickler):
    """Reads what this run wrote itself, a moment ago."""

    def __init__(self, file: io.BytesIO, retries: RetryCount) -> None:
        super().__init__(file)
        self._retries = retries

    def persistent_load(self, _name: Any) -> RetryCount:
        return self._retries
