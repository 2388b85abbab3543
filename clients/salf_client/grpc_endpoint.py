"""What a Triton server over gRPC is asked, without I/O: the blocking and the awaited transport drive the same steps."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from salf_client import messages
from salf_client.connection import Connection
from salf_client.deadline import Deadline
from salf_client.errors import (
    ClientError,
    DeadlineExceededError,
    ModelNotFoundError,
    ServerNotReadyError,
    ServerUnavailableError,
    SharedMemoryUnavailableError,
)
from salf_client.rpcs import COMPRESSION, Rpc, infer_rpc, ready_rpc, register_rpc, unregister_rpc
from salf_client.shared_memory import Region, SharedPictures
from salf_client.steps import Steps, sent
from salf_client.transport import Pin, Tensors

T = TypeVar("T")
#: For letting a server forget shared memory, which no answer depends on: seconds at most, and share of a call's time.
_FORGET_TIMEOUT_S, _FORGET_SHARE = 1.0, 0.5


class GrpcEndpoint:
    """One server, reached over one gRPC channel.

    Args:
        address: `host:port` of Triton's gRPC endpoint. Connecting waits for the first call.
        connection: encryption, token and sizes.

    Raises:
        InvalidAddressError: the address has no port or names another protocol.
        InvalidConnectionError: certificates cannot be read, or a token would travel in the clear.
    """

    def __init__(self, address: str, connection: Connection | None = None) -> None:
        self._connection = connection or Connection()
        self._connection.check_address(address)
        self._address = address
        self._reader = messages.InferReader(address)
        self._compression = COMPRESSION.get(self._connection.compression or "")
        self._shared = SharedPictures() if self._connection.shared_memory else None

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._address

    def _call(self, rpc: Rpc[T], timeout_s: float, headers: Mapping[str, str] | None = None) -> T | Awaitable[T]:
        """Make one call; a transport's own."""
        raise NotImplementedError

    def _infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        timeout_s: float,
        headers: Mapping[str, str] | None,
        pin: Pin | None,
    ) -> Steps[Tensors]:
        if self._shared is None:
            message = messages.infer_request(model, inputs, outputs, pin=pin)
            rpc = infer_rpc(model, message, outputs, reader=self._reader)
            return (yield from sent(lambda: self._call(rpc, timeout_s, headers)))
        deadline = Deadline.after(timeout_s)
        within_s = min(_FORGET_TIMEOUT_S, _FORGET_SHARE * timeout_s)
        yield from self._forgotten(self._shared, self._shared.retired(), within_s=within_s)
        with self._shared.borrowed(inputs) as region:
            was_registered = region.registered
            while True:
                try:
                    if not region.registered:
                        yield from self._registered(region, deadline)
                    message = region.request(model, inputs, outputs, pin=pin)
                    rpc = infer_rpc(model, message, outputs, reader=self._reader)
                    return (yield from sent(lambda: self._call(rpc, deadline.remaining_s(), headers)))  # noqa: B023
                except SharedMemoryUnavailableError:
                    if not was_registered:
                        raise
                    # It was started again since, and knows nothing of what it was told.
                    was_registered = region.registered = False

    def _is_ready(self, model: str | None, timeout_s: float) -> Steps[bool]:
        try:
            return (yield from sent(lambda: self._call(ready_rpc(model), timeout_s)))
        except (ModelNotFoundError, ServerNotReadyError):
            return False

    def _given_back(self) -> Steps[None]:
        """Remove what lies in shared memory."""
        if self._shared is not None:
            regions = self._shared.drain()
            told = [*regions, *self._shared.retired()]
            try:
                yield from self._forgotten(self._shared, told, within_s=_FORGET_TIMEOUT_S)
            finally:
                for region in regions:
                    region.remove()

    def _registered(self, region: Region, deadline: Deadline) -> Steps[None]:
        """Tell the server of a region. If no answer comes, it may know the region all the same."""
        region.registered = True
        try:
            yield from sent(lambda: self._call(register_rpc(region), deadline.remaining_s()))
        except DeadlineExceededError:
            raise
        except ClientError:
            region.registered = False
            raise

    def _forgotten(self, shared: SharedPictures, regions: Sequence[Region], *, within_s: float) -> Steps[None]:
        """Let the server forget regions; those that it does not are kept in mind until the next call."""
        deadline, waiting, kept = Deadline.after(within_s), list(regions), list[Region]()
        try:
            while waiting:
                try:
                    yield from sent(lambda: self._call(unregister_rpc(waiting[0]), deadline.remaining_s()))
                except (DeadlineExceededError, ServerUnavailableError):  # nor would it answer for the others
                    break
                except ClientError:  # it still reads this one
                    kept.append(waiting[0])
                waiting.pop(0)
        finally:
            shared.retire([*kept, *waiting])
