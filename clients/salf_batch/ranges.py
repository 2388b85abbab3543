"""A file of a store, read piece by piece, each of which is asked for again where that helps."""

import io
from collections.abc import Callable

_PIECE_BYTES = 4 * 2**20


class _Ranges(io.RawIOBase):
    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader passes
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self._read(self._position, stop)
        buffer[: len(data)] = data
        self._position = stop
        return len(data)


def ranges(read: Callable[[int, int], bytes], size: int) -> io.BufferedReader:
    """A seekable file made of pieces.

    Args:
        read: gives the bytes of [start, stop), all of them.
        size: of the whole, in bytes.
    """
    return io.BufferedReader(_Ranges(read, size), _PIECE_BYTES)
