"""Pixels handed to a server on the same machine through /dev/shm instead of through gRPC.

A region holds one request's pixels, and is used again for the next of the same size: the server hears of it once.
"""

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from salf_client import messages
from salf_client.errors import SharedMemoryUnavailableError
from salf_client.transport import Pin

#: Tensors of fewer bytes travel with the request: the detour costs more than it saves.
_LEAST_BYTES = 4096


class Region:
    """One piece of shared memory.

    Attributes:
        name: under which the server knows it.
        key: of the POSIX shared memory, "/name".
        byte_size: its size.
        registered: whether the server was told of it.
    """

    def __init__(self, byte_size: int) -> None:
        from tritonclient.utils import shared_memory  # loads a C library

        self._library = shared_memory
        self.name = f"salf_client_{secrets.token_hex(8)}"
        self.key = f"/{self.name}"
        self.byte_size = byte_size
        self.registered = False
        try:
            self._handle = shared_memory.create_shared_memory_region(self.name, self.key, byte_size)
        except shared_memory.SharedMemoryException as error:
            raise SharedMemoryUnavailableError(
                f"{byte_size} bytes of shared memory cannot be made ({error}); see whether /dev/shm is full, "
                f"or leave Connection(shared_memory=True) away"
            ) from error

    def request(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], *, pin: Pin | None = None
    ) -> bytes:
        """Write the large tensors here, and serialise a ModelInferRequest that points to them."""
        heads = [(name, array.dtype, array.shape) for name, array in inputs.items()]
        message = messages.request_message(model, heads, outputs, pin=pin)
        offset = 0
        for tensor, array in zip(message.inputs, inputs.values(), strict=True):
            if not _is_large(array):
                message.raw_input_contents.append(messages.raw_tensor(array))
                continue
            self._library.set_shared_memory_region(self._handle, [array], offset=offset)
            tensor.parameters["shared_memory_region"].string_param = self.name
            tensor.parameters["shared_memory_byte_size"].int64_param = array.nbytes
            tensor.parameters["shared_memory_offset"].int64_param = offset
            offset += array.nbytes
        return bytes(message.SerializeToString())

    def remove(self) -> None:
        """Unmap and unlink it."""
        self._library.destroy_shared_memory_region(self._handle)


class SharedPictures:
    """Regions that no request is using, by size; threads may share it."""

    def __init__(self) -> None:
        self._free: dict[int, list[Region]] = {}
        self._retired: list[Region] = []
        self._is_over = False
        self._lock = threading.Lock()

    @contextmanager
    def borrowed(self, inputs: Mapping[str, NDArray[Any]]) -> Iterator[Region]:
        """A region that holds these tensors' large ones.

        A request that failed may still be read by the server, so its region is not used again: it is removed here, and
        `retired` until the server has forgotten it too.
        """
        byte_size = max(1, sum(array.nbytes for array in inputs.values() if _is_large(array)))
        with self._lock:
            waiting = self._free.get(byte_size)
            region = waiting.pop() if waiting else None
        region = region or Region(byte_size)
        try:
            yield region
        except BaseException:
            region.remove()
            self.retire([region] if region.registered else [])
            raise
        with self._lock:
            is_kept = not self._is_over
            if is_kept:
                self._free.setdefault(byte_size, []).append(region)
        if not is_kept:
            region.remove()

    def retire(self, regions: Sequence[Region]) -> None:
        """Keep in mind that the server still knows these."""
        with self._lock:
            self._retired += regions

    def retired(self) -> list[Region]:
        """Take out those that the server is to forget."""
        if not self._retired:
            return []
        with self._lock:
            regions, self._retired = self._retired, []
        return regions

    def drain(self) -> list[Region]:
        """Take all regions out, for good: one that a request still uses is removed when it comes back."""
        with self._lock:
            self._is_over = True
            regions = [region for waiting in self._free.values() for region in waiting]
            self._free.clear()
        return regions


def _is_large(array: NDArray[Any]) -> bool:
    return array.dtype != object and array.nbytes >= _LEAST_BYTES
