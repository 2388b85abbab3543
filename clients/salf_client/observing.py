"""The seam to tracing and metrics: what an observer of a client hears. Nobody listening costs nothing.

`salf_client.telemetry` has observers for OpenTelemetry and for prometheus-client.
"""

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

from salf_client.errors import ClientError

#: Making the request (reading and preparing the picture); from sending it to having the answer, repeated requests and
#: their pauses included; making what the caller gets of the answer.
Stage: TypeAlias = Literal["prepare", "infer", "read"]


class Call(Protocol):
    """One call of a client, from the observer's side; used by one thread or task at a time."""

    def headers(self) -> Mapping[str, str] | None:
        """GRPC metadata to send with each request, such as a trace's id."""
        ...

    def attempt_failed(self, address: str, error: ClientError) -> None:
        """A request to an endpoint failed; another one may follow."""
        ...

    def took(self, stage: Stage, seconds: float) -> None:
        """A stage of the call is over; a stage that is repeated, as when a model changed its version, is told again."""
        ...

    def end(self, error: BaseException | None) -> None:
        """The call is over; `error` is what its caller sees."""
        ...


class Observer(Protocol):
    """Whoever wants to hear of calls. Its methods must not raise."""

    def begin(self, name: str) -> Call:
        """A call of the client's method `name` begins."""
        ...


class _Nobody:
    def headers(self) -> Mapping[str, str] | None:
        return None

    def attempt_failed(self, address: str, error: ClientError) -> None:
        pass

    def took(self, stage: Stage, seconds: float) -> None:
        pass

    def end(self, error: BaseException | None) -> None:
        pass


#: Hears nothing.
NOBODY: Call = _Nobody()


class Several:
    """Passes everything on to several observers.

    Args:
        observers: to pass it to, in this order.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def begin(self, name: str) -> Call:
        """A call begins; see `Observer.begin`."""
        return _SeveralCalls([observer.begin(name) for observer in self._observers])


class _SeveralCalls:
    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls

    def headers(self) -> Mapping[str, str] | None:
        return {name: value for call in self._calls for name, value in (call.headers() or {}).items()} or None

    def attempt_failed(self, address: str, error: ClientError) -> None:
        for call in self._calls:
            call.attempt_failed(address, error)

    def took(self, stage: Stage, seconds: float) -> None:
        for call in self._calls:
            call.took(stage, seconds)

    def end(self, error: BaseException | None) -> None:
        for call in self._calls:
            call.end(error)
