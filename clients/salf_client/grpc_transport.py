"""A Triton server over gRPC, with tritonclient."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from salf_client.errors import (
    ClientError,
    ContractMismatchError,
    DeadlineExceededError,
    InvalidAddressError,
    InvalidRequestError,
    ModelNotFoundError,
    ServerFailedError,
    ServerNotReadyError,
    ServerUnavailableError,
)
from salf_client.transport import IndexEntry, ModelConfig, ServerMetadata

_MESSAGE_BYTES = 2**31 - 1
# A client made just after a failed one must not inherit its back-off, and a server that comes back is found quickly.
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
_PROBE_TIMEOUT_S = 1.0


class GrpcTransport:
    """Implements `Transport` on one gRPC channel; threads may share it.

    Args:
        address: `host:port` of Triton's gRPC endpoint. Connecting waits for the first call.

    Raises:
        InvalidAddressError: the address has no port or names another protocol.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if "//" in address or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InvalidAddressError(
                f"'{address}' is no address of a gRPC server; expected host:port, such as localhost:8001"
            )
        self._address = address
        self._client = triton.InferenceServerClient(address, channel_args=_CHANNEL_OPTIONS)

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._address

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], *, timeout_s: float
    ) -> dict[str, NDArray[Any]]:
        """One ModelInfer call; see `Transport.infer`."""
        tensors = [_input_tensor(name, array) for name, array in inputs.items()]
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        with self._errors_of(model, timeout_s=timeout_s):
            result = self._client.infer(model, tensors, outputs=wanted, client_timeout=timeout_s)
        answer = {name: result.as_numpy(name) for name in outputs}
        missing = [name for name, array in answer.items() if array is None]
        if missing:
            raise ContractMismatchError(
                f"model '{model}' at {self._address} answered without {', '.join(missing)}; is it a salf explain model?"
            )
        return answer

    def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        """One ModelConfig call; see `Transport.model_config`."""
        with self._errors_of(model, timeout_s=timeout_s):
            config = self._client.get_model_config(model, client_timeout=timeout_s).config
        return ModelConfig(
            name=config.name,
            backend=config.backend or config.platform,
            outputs=tuple(output.name for output in config.output),
            parameters={key: value.string_value for key, value in config.parameters.items()},
        )

    def repository_index(self, *, timeout_s: float) -> tuple[IndexEntry, ...]:
        """One RepositoryIndex call; see `Transport.repository_index`."""
        with self._errors_of(None, timeout_s=timeout_s):
            index = self._client.get_model_repository_index(client_timeout=timeout_s)
        return tuple(
            IndexEntry(
                model=entry.name,
                version=int(entry.version) if entry.version.isdigit() else None,
                ready=entry.state == "READY",
                reason=entry.reason,
            )
            for entry in index.models
        )

    def server_metadata(self, *, timeout_s: float) -> ServerMetadata:
        """One ServerMetadata call."""
        with self._errors_of(None, timeout_s=timeout_s):
            metadata = self._client.get_server_metadata(client_timeout=timeout_s)
        return ServerMetadata(name=metadata.name, version=metadata.version)

    def is_ready(self, model: str | None, *, timeout_s: float) -> bool:
        """One ServerReady or ModelReady call; see `Transport.is_ready`."""
        try:
            with self._errors_of(model, timeout_s=timeout_s):
                if model is None:
                    return bool(self._client.is_server_ready(client_timeout=timeout_s))
                return bool(self._client.is_model_ready(model, client_timeout=timeout_s))
        except (ModelNotFoundError, ServerNotReadyError):
            return False

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    @contextmanager
    def _errors_of(self, model: str | None, *, timeout_s: float) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            raise self._typed_error(error, model=model, timeout_s=timeout_s) from error

    def _typed_error(self, error: InferenceServerException, *, model: str | None, timeout_s: float) -> ClientError:
        """The one place where gRPC's status codes become errors of ours."""
        said = str(error.message()).rstrip(".")
        what = f"model '{model}'" if model else "the server"
        code = str(error.status()).removeprefix("StatusCode.")
        match code:
            case "UNAVAILABLE":
                # Both a dead server and a live one whose model is not ready give this code: ask which it is.
                if self._is_live():
                    return ServerNotReadyError(
                        f"{what} at {self._address} is not ready: {said}; wait until it has loaded, or see its log"
                    )
                return ServerUnavailableError(
                    f"no server answers at {self._address} ({said}); start one with "
                    f"`salf serve model_repository`, or give the address of a running one"
                )
            case "DEADLINE_EXCEEDED":
                return DeadlineExceededError(
                    f"{what} at {self._address} did not answer within {timeout_s:.3g} s; "
                    f"give the client a larger timeout_s, or see whether the server is overloaded"
                )
            case "NOT_FOUND":
                return ModelNotFoundError(f"{what} is not served at {self._address}: {said}; see `salf models`")
            case "INVALID_ARGUMENT":
                return InvalidRequestError(f"{what} at {self._address} refused the request: {said}")
            case "UNIMPLEMENTED":
                return ServerFailedError(
                    f"what listens at {self._address} is no Triton server or lacks this call ({said}); "
                    f"check the address: Triton's gRPC port is 8001 by default"
                )
            case _:
                return ServerFailedError(f"{what} at {self._address} failed ({code}): {said}; see the server's log")

    def _is_live(self) -> bool:
        try:
            return bool(self._client.is_server_live(client_timeout=_PROBE_TIMEOUT_S))
        except InferenceServerException:
            return False


def _input_tensor(name: str, array: NDArray[Any]) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return tensor.set_data_from_numpy(np.ascontiguousarray(array))
