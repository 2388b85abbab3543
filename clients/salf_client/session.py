"""What the calls of one client share: its endpoints, what is known of the model, and how one request is sent."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from salf_client.balancing import Balancer, Endpoint
from salf_client.deadline import Deadline
from salf_client.errors import ClientError
from salf_client.findings import Rule
from salf_client.models import ServedModel
from salf_client.observing import NOBODY, Call, Observer
from salf_client.retrying import Budget, Retry, where_to_retry
from salf_client.steps import Send, Steps, paused, sent
from salf_client.transport import AnyTransport

T = TypeVar("T")
_PROBE_TIMEOUT_S = 0.5
#: A year: gRPC takes times of a few centuries for times that are over.
_LONGEST_S = 366 * 24 * 3600.0


@dataclass(slots=True)
class Ask:
    """One call under way: what it may still spend, and who watches it.

    Attributes:
        deadline: for all its requests together.
        watched: what an observer made of its beginning.
        last: the endpoint that was sent the last request.
    """

    deadline: Deadline
    watched: Call
    last: Endpoint | None = None


class Session:
    """State of a client, for its calls; threads may share it.

    Args:
        transports: one for each endpoint.
        model: name of the model to ask; None asks the only one.
        timeout_s: limit for each call.
        retry: how requests are repeated.
        observer: hears of each call.
        sends_encoded: whether JPEG, PNG and WebP bytes go to the server as they are, where it takes them.
        version: of the model that must answer; None takes whichever the server answers with.
    """

    def __init__(
        self,
        transports: Sequence[AnyTransport],
        *,
        model: str | None,
        timeout_s: float,
        retry: Retry,
        observer: Observer | None = None,
        sends_encoded: bool = True,
        version: int | None = None,
    ) -> None:
        if version is not None and version < 1:
            raise ValueError(f"model_version must be 1 or more, but it is {version}")
        _check_timeout(timeout_s)
        self.balancer = Balancer(transports)
        self.model = model
        self.timeout_s = timeout_s
        self.retry = retry
        self.budget = Budget(retry)
        self.observer = observer
        self.sends_encoded = sends_encoded
        self.version = version
        self.served: ServedModel | None = None
        self.rules: dict[tuple[str, int], Rule] = {}

    @property
    def address(self) -> str:
        """Of all endpoints, for messages."""
        return ", ".join(endpoint.address for endpoint in self.balancer.endpoints)

    def begun(self, name: str, timeout_s: float | None = None) -> Ask:
        """Begin a call.

        Args:
            name: of the method, for observers.
            timeout_s: its limit; None takes the client's.
        """
        allowed = self.timeout_s if timeout_s is None else timeout_s
        _check_timeout(allowed)
        watched = NOBODY if self.observer is None else self.observer.begin(name)
        return Ask(Deadline.after(allowed), watched)

    def watched(self, name: str, work: Callable[[Ask], Steps[T]], timeout_s: float | None = None) -> Steps[T]:
        """Do a call's work, and tell the observer how it ends.

        Args:
            name: of the method.
            work: does it.
            timeout_s: the call's limit; None takes the client's.
        """
        ask = self.begun(name, timeout_s)
        if self.observer is None:
            return (yield from work(ask))
        try:
            result = yield from work(ask)
        except BaseException as error:
            ask.watched.end(error)
            raise
        ask.watched.end(None)
        return result

    def request(
        self,
        ask: Ask,
        send: Callable[[AnyTransport, float, Mapping[str, str] | None], T | Awaitable[T]],
        *,
        only: Endpoint | None = None,
        first: Endpoint | None = None,
    ) -> Steps[tuple[T, Endpoint]]:
        """Send a request to an endpoint that can answer, and again where that helps.

        Args:
            ask: the call it belongs to.
            send: sends it with (transport, timeout_s, headers).
            only: the endpoint to ask; where there are others, its failures are the caller's. None lets the balancer
                choose, and choose again.
            first: the endpoint to begin with, if there is one to prefer.

        Returns:
            The answer, and which endpoint gave it.
        """
        self.budget.earn()
        failed: list[Endpoint] = []
        attempt = 0
        while True:
            attempt += 1
            endpoint = only or (None if failed else first) or (yield from self.ready_endpoint(ask, failed))
            ask.last = endpoint
            try:
                remaining_s = ask.deadline.remaining_s()
                limit_s = self.retry.attempt_timeout_s
                timeout_s = remaining_s if limit_s is None else min(remaining_s, limit_s)
                headers = ask.watched.headers()
                self.balancer.begin(endpoint)
                try:
                    answer: T = yield Send(partial(send, endpoint.transport, timeout_s, headers))
                finally:
                    self.balancer.end(endpoint)
            except ClientError as error:
                self.balancer.failed(endpoint, error)
                ask.watched.attempt_failed(endpoint.address, error)
                failed.append(endpoint)
                if only is not None and self.balancer.has_choice:
                    raise
                pause_s = self.pause_before_retry(error, ask.deadline, attempt=attempt, failed=failed)
                if pause_s is None:
                    raise
            else:
                self.balancer.answered(endpoint)
                return answer, endpoint
            if pause_s > 0:
                yield from paused(pause_s)

    def pause_before_retry(
        self, error: ClientError, deadline: Deadline, *, attempt: int, failed: Sequence[Endpoint]
    ) -> float | None:
        """Seconds until the next attempt, for which the budget is charged; None if there shall be none.

        Args:
            error: how the last attempt ended.
            deadline: of the call.
            attempt: its number, from 1.
            failed: endpoints that were asked already.
        """
        where = where_to_retry(error)
        fresh = [one for one in self.balancer.endpoints if one not in failed and not one.is_resting]
        if where == "never" or (where == "elsewhere" and not fresh) or attempt >= self.retry.attempts:
            return None
        # Another endpoint that is not known to be in trouble is asked at once.
        pause_s = 0.0 if fresh else self.retry.pause_s(attempt)
        if deadline.left_s() <= pause_s or not self.budget.spend():
            return None
        return pause_s

    def ready_endpoint(self, ask: Ask, failed: Sequence[Endpoint]) -> Steps[Endpoint]:
        """Choose an endpoint; one that had failed is asked first whether it is ready, so that no call pays for it.

        Args:
            ask: the call.
            failed: endpoints to avoid.
        """
        skipped = list(failed)
        while True:
            endpoint = self.balancer.choose(skipped)
            if not self.balancer.has_choice or not endpoint.is_resting or endpoint in skipped:
                return endpoint
            model = self.model or (self.served.name if self.served else None)
            timeout_s = min(_PROBE_TIMEOUT_S, ask.deadline.remaining_s() / 4)
            transport = endpoint.transport
            try:
                ready: bool = yield from sent(lambda: transport.is_ready(model, timeout_s=timeout_s))  # noqa: B023
            except ClientError:
                ready = False
            if ready:
                endpoint.recovered()
                return endpoint
            skipped.append(endpoint)


def _check_timeout(timeout_s: float) -> None:
    # Written so that NaN fails. Without an end, a call would wait for an answer that was lost on its way.
    if not 0 < timeout_s <= _LONGEST_S:
        raise ValueError(f"timeout_s must be a positive number of seconds, a year at most, but it is {timeout_s}")
