"""A Triton server over gRPC, awaited."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import grpc
import grpc.aio
from numpy.typing import NDArray

from salf_client import messages
from salf_client.connection import Connection
from salf_client.errors import ClientError, ModelNotFoundError, ServerNotReadyError
from salf_client.rpcs import (
    COMPRESSION,
    INDEX_RPC,
    METADATA_RPC,
    Rpc,
    closed_error,
    config_rpc,
    credentials_of,
    infer_rpc,
    methods_on,
    ready_rpc,
    register_rpc,
    typed_error,
    unregister_rpc,
)
from salf_client.shared_memory import SharedPictures
from salf_client.transport import IndexEntry, ModelConfig, ServerMetadata, Tensors

T = TypeVar("T")


class AsyncGrpcTransport:
    """Implements `AsyncTransport` on one gRPC channel, for one event loop.

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
        self._credentials = None if self._connection.tls is None else credentials_of(self._connection)
        self._address = address
        self._reader = messages.InferReader(address)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        self._compression = COMPRESSION.get(self._connection.compression or "")
        self._shared = SharedPictures() if self._connection.shared_memory else None
        self._was_closed = False

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._address

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Tensors:
        """One ModelInfer call; see `Transport.infer`."""
        if self._shared is None:
            request = messages.infer_request(model, inputs, outputs)
            return await self._call(infer_rpc(model, request, outputs, reader=self._reader), timeout_s, headers)
        with self._shared.borrowed(inputs) as region:
            if not region.registered:
                await self._call(register_rpc(region), timeout_s)
                region.registered = True
            request = region.request(model, inputs, outputs)
            return await self._call(infer_rpc(model, request, outputs, reader=self._reader), timeout_s, headers)

    async def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        """One ModelConfig call; see `Transport.model_config`."""
        return await self._call(config_rpc(model), timeout_s)

    async def repository_index(self, *, timeout_s: float) -> tuple[IndexEntry, ...]:
        """One RepositoryIndex call; see `Transport.repository_index`."""
        return await self._call(INDEX_RPC, timeout_s)

    async def server_metadata(self, *, timeout_s: float) -> ServerMetadata:
        """One ServerMetadata call."""
        return await self._call(METADATA_RPC, timeout_s)

    async def is_ready(self, model: str | None, *, timeout_s: float) -> bool:
        """One ServerReady or ModelReady call; see `Transport.is_ready`."""
        try:
            return await self._call(ready_rpc(model), timeout_s)
        except (ModelNotFoundError, ServerNotReadyError):
            return False

    async def close(self) -> None:
        """Close the channel, and remove what lies in shared memory."""
        if self._shared is not None:
            for region in self._shared.drain():
                with suppress(ClientError):  # the server may be gone, and its mapping with it
                    await self._call(unregister_rpc(region), 1.0)
                region.remove()
        self._was_closed = True
        if self._channel is not None:
            await self._channel.close(None)

    async def _call(self, rpc: Rpc[T], timeout_s: float, headers: Mapping[str, str] | None = None) -> T:
        if self._was_closed:
            raise closed_error(self._address)
        if self._channel is None:
            # Made here, where a loop runs: gRPC binds a channel to it.
            options = self._connection.channel_options()
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._address, options)
            else:
                self._channel = grpc.aio.secure_channel(self._address, self._credentials, options)
            self._methods = methods_on(self._channel)
        try:
            response = await self._methods[rpc.method](
                rpc.request,
                timeout=timeout_s,
                metadata=self._connection.metadata(headers),
                compression=self._compression,
            )
        except grpc.RpcError as error:
            raise typed_error(error, rpc, address=self._address, timeout_s=timeout_s) from error
        except grpc.aio.UsageError as error:
            raise closed_error(self._address) from error
        return rpc.read(response)
