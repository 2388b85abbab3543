"""The seam to the network: what the client asks of one server, and nothing about how it travels.

Anything with these methods can stand in for a server, for instance in tests. A transport raises the errors of
`salf_client.errors` and no others; arrays keep their batch axis of 1. `Transport` blocks, `AsyncTransport` is awaited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

#: Tensor name -> array [1, ...]; BYTES tensors are object arrays of bytes.
Tensors: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class IndexEntry:
    """One version of one model in the server's repository index."""

    model: str
    version: int | None
    ready: bool
    reason: str = ""


@dataclass(frozen=True)
class ModelConfig:
    """What a model's configuration says, as far as clients need it."""

    name: str
    backend: str
    outputs: tuple[str, ...]
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class ServerMetadata:
    """What the server says about itself."""

    name: str
    version: str


@dataclass(frozen=True)
class Pin:
    """The version of a model that shall answer a request.

    Attributes:
        version: its number.
        parameter: name of the request's parameter that carries it to a model in front of the one meant; None says it by
            KServe's `model_version`.
    """

    version: int
    parameter: str | None = None


class Transport(Protocol):
    """One server, reachable by some means."""

    @property
    def address(self) -> str:
        """Where the server is, for messages."""
        ...

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
        """Run one inference.

        Args:
            model: name of the model; its newest served version answers unless `pin` says another.
            inputs: tensor name -> array [1, ...].
            outputs: names of the tensors wanted; the server sends no others.
            timeout_s: seconds until DeadlineExceededError.
            headers: for this call alone, such as a trace's id; None sends none, and is left out.
            pin: the version that shall answer; None leaves it to the server, and is left out.

        Returns:
            tensor name -> array [1, ...], one for each of `outputs`.
        """
        ...

    def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        """The configuration of a model."""
        ...

    def repository_index(self, *, timeout_s: float) -> tuple[IndexEntry, ...]:
        """Every model version that the server knows, ready or not."""
        ...

    def server_metadata(self, *, timeout_s: float) -> ServerMetadata:
        """Name and version of the server."""
        ...

    def is_ready(self, model: str | None, *, timeout_s: float) -> bool:
        """Whether the server, and the model if one is named, answer inferences.

        Raises:
            ServerUnavailableError: nothing answers.
        """
        ...

    def close(self) -> None:
        """Give back the connection; a second call does nothing."""
        ...


class AsyncTransport(Protocol):
    """One server, reachable by some means that are awaited; see `Transport` for each method."""

    @property
    def address(self) -> str:
        """Where the server is, for messages."""
        ...

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
        """Run one inference."""
        ...

    async def model_config(self, model: str, *, timeout_s: float) -> ModelConfig:
        """The configuration of a model."""
        ...

    async def repository_index(self, *, timeout_s: float) -> tuple[IndexEntry, ...]:
        """Every model version that the server knows, ready or not."""
        ...

    async def server_metadata(self, *, timeout_s: float) -> ServerMetadata:
        """Name and version of the server."""
        ...

    async def is_ready(self, model: str | None, *, timeout_s: float) -> bool:
        """Whether the server, and the model if one is named, answer inferences."""
        ...

    async def close(self) -> None:
        """Give back the connection; a second call does nothing."""
        ...


AnyTransport: TypeAlias = Transport | AsyncTransport
