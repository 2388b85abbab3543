"""Which of several endpoints to ask: the least busy of those that answer; those that do not are tried again later.

gRPC's own `round_robin` was the alternative. It needs addresses instead of names, keeps sending to a server that is
alive but whose model is not ready or that refuses for overload, and a retry may land on the endpoint that just failed.
"""

import random
import threading
import time
from collections.abc import Callable, Collection, Sequence

from salf_client.errors import ClientError, DeadlineExceededError, ServerFailedError
from salf_client.errors import ServerNotReadyError as NotReady
from salf_client.errors import ServerUnavailableError as Unavailable
from salf_client.transport import AnyTransport

#: An endpoint that fails rests this long, doubling up to the second.
_REST_S, _LONGEST_REST_S = 0.25, 2.0
#: So many failures in a row of a kind that a single request may cause, and an endpoint rests.
_STRIKES = 3


class Endpoint:
    """One server of several.

    Attributes:
        transport: how to reach it.
        in_flight: calls that it has not answered yet.
        resting_until_s: on the balancer's clock; 0 while it answers.
    """

    def __init__(self, transport: AnyTransport) -> None:
        self.transport = transport
        self.in_flight = 0
        self.resting_until_s = 0.0
        self._rests = 0
        self._strikes = 0

    @property
    def address(self) -> str:
        """Where it is, for messages."""
        return self.transport.address

    @property
    def is_resting(self) -> bool:
        """Whether its last calls failed, and it has not been seen ready since."""
        return self.resting_until_s > 0

    @property
    def is_troubled(self) -> bool:
        """Whether there is a failure to forget when it answers."""
        return self.resting_until_s > 0 or self._strikes > 0 or self._rests > 0

    def rest(self, now_s: float, jitter: float) -> None:
        """Leave it alone for a while, longer each time; `jitter` 0..1 keeps many clients from coming back at once."""
        pause_s = min(_LONGEST_REST_S, _REST_S * 2**self._rests) * (0.5 + 0.5 * jitter)
        self.resting_until_s = now_s + pause_s
        self._rests += 1

    def struck(self) -> bool:
        """Count a failure that a request may have caused; whether that is enough."""
        self._strikes += 1
        return self._strikes >= _STRIKES

    def recovered(self) -> None:
        """It answered."""
        self.resting_until_s, self._rests, self._strikes = 0.0, 0, 0


class Balancer:
    """Chooses endpoints and remembers which of them answer; threads may share it.

    Args:
        transports: one for each endpoint, at least one.
        clock_s: seconds that only rise.
        jitter: gives 0..1.
    """

    def __init__(
        self,
        transports: Sequence[AnyTransport],
        *,
        clock_s: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.endpoints = tuple(Endpoint(transport) for transport in transports)
        self._clock_s, self._jitter = clock_s, jitter
        self._turn = 0
        self._lock = threading.Lock()

    def choose(self, avoid: Collection[Endpoint] = ()) -> Endpoint:
        """The endpoint to ask next.

        One that has rested long enough comes first: its caller must see whether it is ready before sending it anything.
        If all are resting or to be avoided, one of them is chosen all the same: its error is the true one.

        Args:
            avoid: endpoints that failed this call already.
        """
        if len(self.endpoints) == 1:
            return self.endpoints[0]
        with self._lock:
            now_s = self._clock_s()
            for endpoint in self.endpoints:
                if endpoint.is_resting and endpoint.resting_until_s <= now_s and endpoint not in avoid:
                    # Only one caller looks; the others wait for what it finds.
                    endpoint.rest(now_s, 1.0)
                    return endpoint
            self._turn += 1
            turned = self.endpoints[self._turn % len(self.endpoints) :] + self.endpoints
            candidates = turned[: len(self.endpoints)]
            for wanted in (
                [one for one in candidates if not one.is_resting and one not in avoid],
                [one for one in candidates if not one.is_resting],
                [one for one in candidates if one not in avoid],
                candidates,
            ):
                if wanted:
                    return min(wanted, key=lambda one: one.in_flight)
        raise AssertionError("a balancer has at least one endpoint")

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one endpoint."""
        return len(self.endpoints) > 1

    def begin(self, endpoint: Endpoint) -> None:
        """A request goes out."""
        with self._lock:
            endpoint.in_flight += 1

    def end(self, endpoint: Endpoint) -> None:
        """A request is over, however it ended."""
        with self._lock:
            endpoint.in_flight -= 1

    def answered(self, endpoint: Endpoint) -> None:
        """A request was answered."""
        if endpoint.is_troubled:
            endpoint.recovered()

    def failed(self, endpoint: Endpoint, error: ClientError) -> None:
        """Let an endpoint rest if the error says that it is at fault."""
        with self._lock:
            at_fault = isinstance(error, Unavailable | NotReady) or (
                isinstance(error, DeadlineExceededError | ServerFailedError) and endpoint.struck()
            )
            if at_fault:
                endpoint.rest(self._clock_s(), self._jitter())
