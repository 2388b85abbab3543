"""A Triton server over gRPC, blocking."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import grpc
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
            self._channel = grpc.secure_channel(address, credentials_of(self._connection), options)
        self._methods = methods_on(self._channel)
        self._compression = COMPRESSION.get(self._connection.compression or "")
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
            return self._call(infer_rpc(model, request, outputs, reader=self._reader), timeout_s, headers)
        with self._shared.borrowed(inputs) as region:
            if not region.registered:
                self._call(register_rpc(region), timeout_s)
                region.registered = True
            request = region.request(model, inputs, outputs)
            return self._call(infer_rpc(model, request, outputs, reader=self._reader), timeout_s, headers)

    def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        """One ModelConfig call; see `Transport.model_config`."""
        return self._call(config_rpc(model), timeout_s)

    def repository_index(self, *, timeout_s: float) -> tuple[IndexEntry, ...]:
        """One RepositoryIndex call; see `Transport.repository_index`."""
        return self._call(INDEX_RPC, timeout_s)

    def server_metadata(self, *, timeout_s: float) -> ServerMetadata:
        """One ServerMetadata call."""
        return self._call(METADATA_RPC, timeout_s)

    def is_ready(self, model: str | None, *, timeout_s: float) -> bool:
        """One ServerReady or ModelReady call; see `Transport.is_ready`."""
        try:
            return self._call(ready_rpc(model), timeout_s)
        except (ModelNotFoundError, ServerNotReadyError):
            return False

    def close(self) -> None:
        """Close the channel, and remove what lies in shared memory."""
        if self._shared is not None:
            for region in self._shared.drain():
                with suppress(ClientError):  # the server may be gone, and its mapping with it
                    self._call(unregister_rpc(region), 1.0)
                region.remove()
        self._channel.close()

    def _call(self, rpc: Rpc[T], timeout_s: float, headers: Mapping[str, str] | None = None) -> T:
        try:
            response = self._methods[rpc.method](
                rpc.request,
                timeout=timeout_s,
                metadata=self._connection.metadata(headers),
                compression=self._compression,
            )
        except grpc.RpcError as error:
            raise typed_error(error, rpc, address=self._address, timeout_s=timeout_s) from error
        except ValueError as error:  # gRPC's word for a channel that was closed
            raise closed_error(self._address) from error
        return rpc.read(response)
