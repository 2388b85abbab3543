"""A Triton server over gRPC: `GrpcTransport` blocks, `AsyncGrpcTransport` is awaited; all else they share."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from salf_client import messages
from salf_client.connection import Connection
from salf_client.errors import (
    ClientError,
    InvalidConnectionError,
    ModelNotFoundError,
    ServerFailedError,
    ServerNotReadyError,
    SharedMemoryUnavailableError,
)
from salf_client.shared_memory import Region, SharedPictures
from salf_client.statuses import error_of
from salf_client.transport import IndexEntry, ModelConfig, ServerMetadata, Tensors

T = TypeVar("T")
_COMPRESSION = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
_RESPONSES = {
    "ModelInfer": None,  # read by `messages.InferReader`
    "ModelConfig": service_pb2.ModelConfigResponse,
    "RepositoryIndex": service_pb2.RepositoryIndexResponse,
    "ServerMetadata": service_pb2.ServerMetadataResponse,
    "ServerReady": service_pb2.ServerReadyResponse,
    "ModelReady": service_pb2.ModelReadyResponse,
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterResponse,
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterResponse,
}
_SHARED_MEMORY_METHODS = ("SystemSharedMemoryRegister", "SystemSharedMemoryUnregister")


@dataclass(slots=True)
class _Rpc(Generic[T]):
    """One unary call.

    Attributes:
        method: of the KServe v2 service.
        request: serialised.
        read: makes an answer of the response message.
        model: that is asked; None for the server itself.
    """

    method: str
    request: bytes
    read: Callable[[Any], T]
    model: str | None = None


def _infer_rpc(model: str, request: bytes, outputs: Sequence[str], *, reader: messages.InferReader) -> _Rpc[Tensors]:
    wanted = tuple(outputs)
    return _Rpc("ModelInfer", request, lambda response: reader.read(response, wanted, model=model), model)


def _config_rpc(model: str) -> _Rpc[ModelConfig]:
    request = service_pb2.ModelConfigRequest(name=model).SerializeToString()
    return _Rpc("ModelConfig", request, messages.read_config, model)


_INDEX_RPC = _Rpc("RepositoryIndex", b"", messages.read_index)
_METADATA_RPC = _Rpc("ServerMetadata", b"", messages.read_metadata)


def _ready_rpc(model: str | None) -> _Rpc[bool]:
    if model is None:
        return _Rpc("ServerReady", b"", lambda response: bool(response.ready))
    request = service_pb2.ModelReadyRequest(name=model).SerializeToString()
    return _Rpc("ModelReady", request, lambda response: bool(response.ready), model)


def _register_rpc(region: Region) -> _Rpc[None]:
    message = service_pb2.SystemSharedMemoryRegisterRequest(
        name=region.name, key=region.key, offset=0, byte_size=region.byte_size
    )
    return _Rpc("SystemSharedMemoryRegister", message.SerializeToString(), lambda _: None)


def _unregister_rpc(region: Region) -> _Rpc[None]:
    message = service_pb2.SystemSharedMemoryUnregisterRequest(name=region.name)
    return _Rpc("SystemSharedMemoryUnregister", message.SerializeToString(), lambda _: None)


def _methods(channel: Any) -> dict[str, Callable[..., Any]]:
    """The service's calls on a channel; requests are bytes already."""
    return {
        name: channel.unary_unary(
            messages.SERVICE + name,
            request_serializer=None,
            response_deserializer=None if response is None else response.FromString,
        )
        for name, response in _RESPONSES.items()
    }


def _credentials(connection: Connection) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(*connection.pem_files())


class GrpcTransport:
    """Implements `Transport` on one gRPC channel; threads may share it.

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
        options = self._connection.channel_options()
        if self._connection.tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, _credentials(self._connection), options)
        self._methods = _methods(self._channel)
        self._compression = _COMPRESSION.get(self._connection.compression or "")
        self._shared = SharedPictures() if self._connection.shared_memory else None

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._address

    def infer(
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
            return self._call(_infer_rpc(model, request, outputs, reader=self._reader), timeout_s, headers)
        with self._shared.borrowed(inputs) as region:
            if not region.registered:
                self._call(_register_rpc(region), timeout_s)
                region.registered = True
            request = region.request(model, inputs, outputs)
            return self._call(_infer_rpc(model, request, outputs, reader=self._reader), timeout_s, headers)

    def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        """One ModelConfig call; see `Transport.model_config`."""
        return self._call(_config_rpc(model), timeout_s)

    def repository_index(self, *, timeout_s: float) -> tuple[IndexEntry, ...]:
        """One RepositoryIndex call; see `Transport.repository_index`."""
        return self._call(_INDEX_RPC, timeout_s)

    def server_metadata(self, *, timeout_s: float) -> ServerMetadata:
        """One ServerMetadata call."""
        return self._call(_METADATA_RPC, timeout_s)

    def is_ready(self, model: str | None, *, timeout_s: float) -> bool:
        """One ServerReady or ModelReady call; see `Transport.is_ready`."""
        try:
            return self._call(_ready_rpc(model), timeout_s)
        except (ModelNotFoundError, ServerNotReadyError):
            return False

    def close(self) -> None:
        """Close the channel, and remove what lies in shared memory."""
        if self._shared is not None:
            for region in self._shared.drain():
                with suppress(ClientError):  # the server may be gone, and its mapping with it
                    self._call(_unregister_rpc(region), 1.0)
                region.remove()
        self._channel.close()

    def _call(self, rpc: _Rpc[T], timeout_s: float, headers: Mapping[str, str] | None = None) -> T:
        try:
            response = self._methods[rpc.method](
                rpc.request,
                timeout=timeout_s,
                metadata=self._connection.metadata(headers),
                compression=self._compression,
            )
        except grpc.RpcError as error:
            raise _typed(error, rpc, address=self._address, timeout_s=timeout_s) from error
        except ValueError as error:  # gRPC's word for a channel that was closed
            raise _closed(self._address) from error
        return rpc.read(response)


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
        self._credentials = None if self._connection.tls is None else _credentials(self._connection)
        self._address = address
        self._reader = messages.InferReader(address)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        self._compression = _COMPRESSION.get(self._connection.compression or "")
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
            return await self._call(_infer_rpc(model, request, outputs, reader=self._reader), timeout_s, headers)
        with self._shared.borrowed(inputs) as region:
            if not region.registered:
                await self._call(_register_rpc(region), timeout_s)
                region.registered = True
            request = region.request(model, inputs, outputs)
            return await self._call(_infer_rpc(model, request, outputs, reader=self._reader), timeout_s, headers)

    async def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        """One ModelConfig call; see `Transport.model_config`."""
        return await self._call(_config_rpc(model), timeout_s)

    async def repository_index(self, *, timeout_s: float) -> tuple[IndexEntry, ...]:
        """One RepositoryIndex call; see `Transport.repository_index`."""
        return await self._call(_INDEX_RPC, timeout_s)

    async def server_metadata(self, *, timeout_s: float) -> ServerMetadata:
        """One ServerMetadata call."""
        return await self._call(_METADATA_RPC, timeout_s)

    async def is_ready(self, model: str | None, *, timeout_s: float) -> bool:
        """One ServerReady or ModelReady call; see `Transport.is_ready`."""
        try:
            return await self._call(_ready_rpc(model), timeout_s)
        except (ModelNotFoundError, ServerNotReadyError):
            return False

    async def close(self) -> None:
        """Close the channel, and remove what lies in shared memory."""
        if self._shared is not None:
            for region in self._shared.drain():
                with suppress(ClientError):  # the server may be gone, and its mapping with it
                    await self._call(_unregister_rpc(region), 1.0)
                region.remove()
        self._was_closed = True
        if self._channel is not None:
            await self._channel.close(None)

    async def _call(self, rpc: _Rpc[T], timeout_s: float, headers: Mapping[str, str] | None = None) -> T:
        if self._was_closed:
            raise _closed(self._address)
        if self._channel is None:
            # Made here, where a loop runs: gRPC binds a channel to it.
            options = self._connection.channel_options()
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._address, options)
            else:
                self._channel = grpc.aio.secure_channel(self._address, self._credentials, options)
            self._methods = _methods(self._channel)
        try:
            response = await self._methods[rpc.method](
                rpc.request,
                timeout=timeout_s,
                metadata=self._connection.metadata(headers),
                compression=self._compression,
            )
        except grpc.RpcError as error:
            raise _typed(error, rpc, address=self._address, timeout_s=timeout_s) from error
        except grpc.aio.UsageError as error:
            raise _closed(self._address) from error
        return rpc.read(response)


def _typed(error: Any, rpc: _Rpc[T], *, address: str, timeout_s: float) -> ClientError:
    code, said = error.code().name, str(error.details() or "")
    typed = error_of(code, said, model=rpc.model, address=address, timeout_s=timeout_s)
    if rpc.method in _SHARED_MEMORY_METHODS and isinstance(typed, ServerFailedError):
        return SharedMemoryUnavailableError(
            f"{address} does not take pictures through shared memory ({said}); leave Connection(shared_memory=True) "
            f"away unless the server runs on this machine and opens that interface"
        )
    return typed


def _closed(address: str) -> ClientError:
    return InvalidConnectionError(f"the client for {address} was closed; make a new one")
