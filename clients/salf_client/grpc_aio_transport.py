"""A Triton server over gRPC, awaited."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
from numpy.typing import NDArray

from salf_client.connection import Connection
from salf_client.errors import InvalidConnectionError
from salf_client.grpc_endpoint import GrpcEndpoint
from salf_client.rpcs import (
    INDEX_RPC,
    METADATA_RPC,
    Rpc,
    closed_error,
    config_rpc,
    credentials_of,
    methods_on,
    typed_error,
)
from salf_client.steps import run_async
from salf_client.transport import IndexEntry, ModelConfig, Pin, ServerMetadata, Tensors

T = TypeVar("T")


class AsyncGrpcTransport(GrpcEndpoint):
    """Implements `AsyncTransport` on one gRPC channel, for one event loop. Arguments and errors: see `GrpcEndpoint`."""

    def __init__(self, address: str, connection: Connection | None = None) -> None:
        super().__init__(address, connection)
        self._credentials = None if self._connection.tls is None else credentials_of(self._connection)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        self._was_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        pin: Pin | None = None,
    ) -> Tensors:
        """One ModelInfer call; see `Transport.infer`."""
        return await run_async(self._infer(model, inputs, outputs, timeout_s, headers, pin))

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
        return await run_async(self._is_ready(model, timeout_s))

    async def close(self) -> None:
        """Close the channel, and remove what lies in shared memory."""
        await run_async(self._given_back())
        self._was_closed = True
        if self._channel is not None and self._loop is asyncio.get_running_loop():
            await self._channel.close(None)

    async def _call(self, rpc: Rpc[T], timeout_s: float, headers: Mapping[str, str] | None = None) -> T:
        if self._was_closed:
            raise closed_error(self._address)
        loop = asyncio.get_running_loop()
        if self._channel is None:
            # Made here, where a loop runs: gRPC binds a channel to it.
            self._loop = loop
            options = self._connection.channel_options()
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._address, options)
            else:
                self._channel = grpc.aio.secure_channel(self._address, self._credentials, options)
            self._methods = methods_on(self._channel)
        if self._loop is not loop:
            raise InvalidConnectionError(
                f"the client for {self._address} was used in another event loop; make one for each asyncio.run(...)"
            )
        try:
            response = await self._methods[rpc.method](
                rpc.request,
                timeout=timeout_s,
                metadata=self._connection.metadata(headers),
                compression=self._compression,
            )
        except asyncio.CancelledError as error:
            if self._was_cut_off():
                raise closed_error(self._address) from error
            raise
        except grpc.RpcError as error:
            raise typed_error(error, rpc, address=self._address, timeout_s=timeout_s) from error
        except grpc.aio.UsageError as error:
            raise closed_error(self._address) from error
        return rpc.read(response)

    def _was_cut_off(self) -> bool:
        """Whether a call was cancelled by closing its channel; gRPC lets that look as if its task had been."""
        task = asyncio.current_task()
        return self._was_closed and (task is None or not task.cancelling())
