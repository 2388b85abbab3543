"""A Triton server over gRPC, blocking."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import grpc
from numpy.typing import NDArray

from salf_client.connection import Connection
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
from salf_client.steps import run
from salf_client.transport import IndexEntry, ModelConfig, Pin, ServerMetadata, Tensors

T = TypeVar("T")


class GrpcTransport(GrpcEndpoint):
    """Implements `Transport` on one gRPC channel; threads may share it. Arguments and errors: see `GrpcEndpoint`."""

    def __init__(self, address: str, connection: Connection | None = None) -> None:
        super().__init__(address, connection)
        options = self._connection.channel_options()
        if self._connection.tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, credentials_of(self._connection), options)
        self._methods = methods_on(self._channel)
        self._was_closed = False

    def infer(
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
        return run(self._infer(model, inputs, outputs, timeout_s, headers, pin))

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
        return run(self._is_ready(model, timeout_s))

    def close(self) -> None:
        """Close the channel, and remove what lies in shared memory."""
        run(self._given_back())
        self._was_closed = True
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
            if self._was_closed and error.code() is grpc.StatusCode.CANCELLED:
                raise closed_error(self._address) from error
            raise typed_error(error, rpc, address=self._address, timeout_s=timeout_s) from error
        except ValueError as error:  # gRPC's word for a channel that was closed
            raise closed_error(self._address) from error
        return rpc.read(response)
