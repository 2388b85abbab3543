"""The clients: pictures in, explanations out. Each call is written once, in `salf_client.calls`."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from salf_client import calls
from salf_client.connection import Connection
from salf_client.errors import InvalidAddressError
from salf_client.observing import Observer, Several
from salf_client.pictures import Picture
from salf_client.retrying import Retry
from salf_client.session import Session
from salf_client.steps import awaiting, blocking
from salf_client.streaming import DEFAULT_IN_FLIGHT, Outcome, check_stream, stream, stream_async
from salf_client.transport import AnyTransport, AsyncTransport, Transport

T = TypeVar("T")


class Client:
    """Asks a model for explanations; threads may share it.

    Args:
        url: `host:port` of Triton's gRPC endpoint or of the front before it, or several of them that serve the same
            model. Connecting waits for the first call.
        model: name of the model to ask; None asks the only one that the server has.
        model_version: pins the version that answers, for a server that keeps several loaded; None takes its newest.
        timeout_s: limit for each call of a method, all its steps and retries together.
        connection: encryption, token, sizes, compression, shared memory.
        retry: how often requests are repeated; `Retry(attempts=1)` never does.
        observers: hear of each call, see `salf_client.telemetry`.
        sends_encoded: whether JPEG, PNG and WebP bytes go to the server as they are, where it takes them; otherwise,
            and for everything else, pictures are prepared here.
        transport: stands in for the network, or several of them; `url` and `connection` are not used then.

    Raises:
        InvalidAddressError: `url` is no `host:port`.
        InvalidConnectionError: certificates cannot be read, or a token would travel in the clear.

    Example:
        >>> with Client("localhost:8001") as client:  # doctest: +SKIP
        ...     print(client.explain("boat.jpg"))
    """

    def __init__(
        self,
        url: str | Sequence[str] = "localhost:8001",
        *,
        model: str | None = None,
        model_version: int | None = None,
        timeout_s: float = 30.0,
        connection: Connection | None = None,
        retry: Retry | None = None,
        observers: Sequence[Observer] = (),
        sends_encoded: bool = True,
        transport: Transport | Sequence[Transport] | None = None,
    ) -> None:
        self._transports: Sequence[Transport] = _listed(transport, url, partial(_grpc_transport, connection=connection))
        self._session = _session(
            self._transports, model, timeout_s, retry, observers, sends_encoded=sends_encoded, version=model_version
        )

    explain = blocking(calls.explain)
    concept_maps = blocking(calls.concept_maps)
    region = blocking(calls.region)
    what_if = blocking(calls.what_if)
    rules = blocking(calls.rules)
    model = blocking(calls.model)
    models = blocking(calls.models)
    health = blocking(calls.health)
    is_ready = blocking(calls.is_ready)

    def explain_many(
        self,
        images: Iterable[Picture],
        *,
        top: int | None = None,
        target: str | int | None = None,
        in_flight: int = DEFAULT_IN_FLIGHT,
        ordered: bool = True,
        timeout_s: float | None = None,
    ) -> Iterator[Outcome]:
        """Explain pictures as a stream; one that fails becomes an outcome with an error, and the others go on.

        Args:
            images: any iterable of pictures; read no further than the window reaches. An error of its own is raised
                after the outcomes of what it gave before.
            top: as for `explain`.
            target: as for `explain`.
            in_flight: at most so many requests at a time.
            ordered: whether outcomes come in the order of the pictures, or as they finish.
            timeout_s: seconds for each picture.
        """
        check_stream(images, in_flight)
        explain = partial(self.explain, top=top, target=target, timeout_s=timeout_s)
        return stream(explain, images, in_flight=in_flight, ordered=ordered)

    def close(self) -> None:
        """Give back the connections; a second call does nothing."""
        for transport in self._transports:
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """Asks a model for explanations from an event loop; tasks of one loop may share it.

    Takes the same arguments as `Client`, and has the same methods, to be awaited.

    Example:
        >>> async with AsyncClient("localhost:8001") as client:  # doctest: +SKIP
        ...     print(await client.explain("boat.jpg"))
    """

    def __init__(
        self,
        url: str | Sequence[str] = "localhost:8001",
        *,
        model: str | None = None,
        model_version: int | None = None,
        timeout_s: float = 30.0,
        connection: Connection | None = None,
        retry: Retry | None = None,
        observers: Sequence[Observer] = (),
        sends_encoded: bool = True,
        transport: AsyncTransport | Sequence[AsyncTransport] | None = None,
    ) -> None:
        make = partial(_async_grpc_transport, connection=connection)
        self._transports: Sequence[AsyncTransport] = _listed(transport, url, make)
        self._session = _session(
            self._transports, model, timeout_s, retry, observers, sends_encoded=sends_encoded, version=model_version
        )

    explain = awaiting(calls.explain)
    concept_maps = awaiting(calls.concept_maps)
    region = awaiting(calls.region)
    what_if = awaiting(calls.what_if)
    rules = awaiting(calls.rules)
    model = awaiting(calls.model)
    models = awaiting(calls.models)
    health = awaiting(calls.health)
    is_ready = awaiting(calls.is_ready)

    def explain_many(
        self,
        images: Iterable[Picture] | AsyncIterable[Picture],
        *,
        top: int | None = None,
        target: str | int | None = None,
        in_flight: int = DEFAULT_IN_FLIGHT,
        ordered: bool = True,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Outcome]:
        """Explain pictures as a stream; one that fails becomes an outcome with an error, and the others go on.

        Args:
            images: any iterable of pictures, asynchronous ones too; read no further than the window reaches. An error
                of its own is raised after the outcomes of what it gave before.
            top: as for `explain`.
            target: as for `explain`.
            in_flight: at most so many requests at a time.
            ordered: whether outcomes come in the order of the pictures, or as they finish.
            timeout_s: seconds for each picture.
        """
        check_stream(images, in_flight)
        explain = partial(self.explain, top=top, target=target, timeout_s=timeout_s)
        return stream_async(explain, images, in_flight=in_flight, ordered=ordered)

    async def close(self) -> None:
        """Give back the connections; a second call does nothing."""
        for transport in self._transports:
            await transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _listed(given: T | Sequence[T] | None, url: str | Sequence[str], make: Callable[[str], T]) -> Sequence[T]:
    """The transports: those given, or one for each address."""
    if given is None:
        addresses = list(url) if isinstance(url, Sequence) and not isinstance(url, str) else [url]
        if not addresses:
            raise InvalidAddressError("no address was given; expected host:port, such as localhost:8001")
        return [make(address) for address in addresses]
    transports = list(given) if isinstance(given, Sequence) else [given]
    if not transports:
        raise InvalidAddressError("no transport was given; give one, or leave transport away")
    return transports


def _session(
    transports: Sequence[AnyTransport],
    model: str | None,
    timeout_s: float,
    retry: Retry | None,
    observers: Sequence[Observer],
    *,
    sends_encoded: bool,
    version: int | None,
) -> Session:
    observer = None if not observers else observers[0] if len(observers) == 1 else Several(*observers)
    return Session(
        transports,
        model=model,
        timeout_s=timeout_s,
        retry=retry or Retry(),
        observer=observer,
        sends_encoded=sends_encoded,
        version=version,
    )


def _grpc_transport(address: str, *, connection: Connection | None) -> Transport:
    from salf_client.grpc_transport import GrpcTransport  # 0.2 s of imports that other transports do not need

    return GrpcTransport(address, connection)


def _async_grpc_transport(address: str, *, connection: Connection | None) -> AsyncTransport:
    from salf_client.grpc_aio_transport import AsyncGrpcTransport

    return AsyncGrpcTransport(address, connection)
