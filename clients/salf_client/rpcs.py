"""The calls of KServe v2 that the client makes: their requests, how answers are read, and what their errors mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from tritonclient.grpc import service_pb2

from salf_client import messages
from salf_client.connection import Connection
from salf_client.errors import (
    ClientError,
    InvalidConnectionError,
    ServerFailedError,
    SharedMemoryUnavailableError,
    UnauthenticatedError,
)
from salf_client.shared_memory import Region
from salf_client.statuses import NO_SHARED_MEMORY, error_of
from salf_client.transport import ModelConfig, Tensors

T = TypeVar("T")
COMPRESSION = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
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
class Rpc(Generic[T]):
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


def infer_rpc(model: str, request: bytes, outputs: Sequence[str], *, reader: messages.InferReader) -> Rpc[Tensors]:
    """One inference."""
    wanted = tuple(outputs)
    return Rpc("ModelInfer", request, lambda response: reader.read(response, wanted, model=model), model)


def config_rpc(model: str) -> Rpc[ModelConfig]:
    """A model's configuration."""
    request = service_pb2.ModelConfigRequest(name=model).SerializeToString()
    return Rpc("ModelConfig", request, messages.read_config, model)


INDEX_RPC = Rpc("RepositoryIndex", b"", messages.read_index)
METADATA_RPC = Rpc("ServerMetadata", b"", messages.read_metadata)


def ready_rpc(model: str | None) -> Rpc[bool]:
    """Whether the server, or a model, answers inferences."""
    if model is None:
        return Rpc("ServerReady", b"", lambda response: bool(response.ready))
    request = service_pb2.ModelReadyRequest(name=model).SerializeToString()
    return Rpc("ModelReady", request, lambda response: bool(response.ready), model)


def register_rpc(region: Region) -> Rpc[None]:
    """Tell the server of a piece of shared memory."""
    message = service_pb2.SystemSharedMemoryRegisterRequest(
        name=region.name, key=region.key, offset=0, byte_size=region.byte_size
    )
    return Rpc("SystemSharedMemoryRegister", message.SerializeToString(), lambda _: None)


def unregister_rpc(region: Region) -> Rpc[None]:
    """Let the server forget it."""
    message = service_pb2.SystemSharedMemoryUnregisterRequest(name=region.name)
    return Rpc("SystemSharedMemoryUnregister", message.SerializeToString(), lambda _: None)


def methods_on(channel: Any) -> dict[str, Callable[..., Any]]:
    """The service's calls on a channel; requests are bytes already."""
    return {
        name: channel.unary_unary(
            messages.SERVICE + name,
            request_serializer=None,
            response_deserializer=None if response is None else response.FromString,
        )
        for name, response in _RESPONSES.items()
    }


def credentials_of(connection: Connection) -> grpc.ChannelCredentials:
    """Credentials of a connection.

    Raises:
        InvalidConnectionError: a file cannot be read.
    """
    return grpc.ssl_channel_credentials(*connection.pem_files())


def typed_error(error: Any, rpc: Rpc[T], *, address: str, timeout_s: float) -> ClientError:
    """Our error of gRPC's."""
    code, said = error.code().name, str(error.details() or "")
    typed = error_of(code, said, model=rpc.model, address=address, timeout_s=timeout_s)
    # Triton restricts an interface that is closed.
    if rpc.method in _SHARED_MEMORY_METHODS and isinstance(typed, ServerFailedError | UnauthenticatedError):
        return SharedMemoryUnavailableError(NO_SHARED_MEMORY.format(address=address, said=said))
    return typed


def closed_error(address: str) -> ClientError:
    """What a call on a closed channel ends with."""
    return InvalidConnectionError(f"the client for {address} was closed; make a new one")
