"""Shared memory that a failed request leaves registered: the server forgets it, and no call is late for that."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salf_client import (
    ClientError,
    Connection,
    DeadlineExceededError,
    InvalidRequestError,
    ServerUnavailableError,
    SharedMemoryUnavailableError,
)
from salf_client.grpc_endpoint import GrpcEndpoint
from salf_client.rpcs import Rpc
from salf_client.shared_memory import SharedPictures
from salf_client.steps import run

REGISTER, INFER, UNREGISTER = "SystemSharedMemoryRegister", "ModelInfer", "SystemSharedMemoryUnregister"
PICTURE = np.zeros((1, 64, 64, 3), np.uint8)


class Endpoint(GrpcEndpoint):
    """A server that fails as it is told; `known` are the regions that it maps, each by the end of its message."""

    def __init__(self) -> None:
        super().__init__("localhost:1", Connection(shared_memory=True))
        self.failures: dict[str, BaseException] = {}
        self.calls: list[tuple[str, float]] = []
        self.known: set[bytes] = set()

    def _call(self, rpc: Rpc[Any], timeout_s: float, headers: Mapping[str, str] | None = None) -> Any:
        self.calls.append((rpc.method, timeout_s))
        failure = self.failures.get(rpc.method)
        name = rpc.request[2 : 2 + rpc.request[1]]  # the first field of both messages
        if rpc.method == REGISTER and not isinstance(failure, SharedMemoryUnavailableError):
            self.known.add(name)  # also if the answer is late
        if rpc.method == UNREGISTER and failure is None:
            self.known.discard(name)
        if isinstance(failure, DeadlineExceededError):
            time.sleep(min(timeout_s, 0.2))
        if failure is not None:
            raise failure

    def ask(self, timeout_s: float = 10.0) -> None:
        run(self._infer("scenes", {"image": PICTURE}, ("logits",), timeout_s, None, None))

    def ask_failing(self, times: int) -> None:
        """Requests of which the server keeps the regions, as if they were asked at the same time."""
        self.failures = {INFER: InvalidRequestError("no such input"), UNREGISTER: InvalidRequestError("is in use")}
        for _ in range(times):
            with pytest.raises(InvalidRequestError):
                self.ask()
        self.failures = {}
        self.calls.clear()

    def count(self, method: str) -> int:
        return sum(called == method for called, _ in self.calls)


@pytest.fixture
def endpoint():
    made = Endpoint()
    yield made
    made.failures = {}
    run(made._given_back())
    assert not made.known


@pytest.mark.parametrize("failure", [DeadlineExceededError("late"), ServerUnavailableError("gone")])
def test_a_server_that_does_not_forget_costs_one_attempt_and_half_of_the_time_at_most(endpoint, failure):
    endpoint.ask_failing(5)
    endpoint.failures = {UNREGISTER: failure}
    endpoint.ask(timeout_s=0.4)
    assert endpoint.count(UNREGISTER) == 1
    assert all(timeout_s <= 0.2 for method, timeout_s in endpoint.calls if method == UNREGISTER)
    assert endpoint.count(INFER) == 1
    endpoint.failures = {}
    endpoint.ask()
    assert endpoint.count(UNREGISTER) == 1 + 5
    assert len(endpoint.known) == 1


def test_a_region_that_is_in_use_does_not_keep_the_others(endpoint):
    endpoint.ask_failing(3)
    endpoint.failures = {UNREGISTER: InvalidRequestError("is in use")}
    endpoint.ask()
    assert endpoint.count(UNREGISTER) == 3


def test_a_call_that_is_cancelled_while_the_server_forgets_loses_no_region(endpoint):
    endpoint.ask_failing(3)
    endpoint.failures = {UNREGISTER: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        endpoint.ask()
    endpoint.failures = {}
    endpoint.ask()
    assert len(endpoint.known) == 1


@pytest.mark.parametrize("failure", [DeadlineExceededError("late"), KeyboardInterrupt()])
def test_a_region_whose_registration_was_not_answered_is_forgotten(endpoint, failure):
    endpoint.failures = {REGISTER: failure}
    with pytest.raises(type(failure)):
        endpoint.ask()
    assert len(endpoint.known) == 1
    endpoint.failures = {}
    endpoint.ask()
    assert endpoint.count(UNREGISTER) == 1
    assert len(endpoint.known) == 1


def test_a_registration_that_was_refused_leaves_nothing_to_forget(endpoint):
    endpoint.failures = {REGISTER: SharedMemoryUnavailableError("not here")}
    for _ in range(3):
        with pytest.raises(ClientError, match="not here"):
            endpoint.ask()
    assert endpoint.count(UNREGISTER) == 0


def test_a_region_that_comes_back_after_the_end_is_removed():
    """As when a client is closed while the rest of a stream is in flight."""
    shared, before = SharedPictures(), set(Path("/dev/shm").glob("salf_client_*"))
    with shared.borrowed({"image": np.zeros((64, 64, 3), np.uint8)}):
        assert shared.drain() == []
        assert set(Path("/dev/shm").glob("salf_client_*")) != before
    assert set(Path("/dev/shm").glob("salf_client_*")) == before
    assert shared.drain() == []
