"""Choosing endpoints and repeating calls, with a clock that the test turns and no network."""

import pytest

from salf_client import (
    DeadlineExceededError,
    InvalidRequestError,
    Retry,
    ServerFailedError,
    ServerUnavailableError,
)
from salf_client.balancing import Balancer
from salf_client.retrying import RETRIED, Budget, where_to_retry
from salf_client.steps import Pause, Send, run


class Peer:
    def __init__(self, address):
        self.address = address


@pytest.fixture
def clock():
    return {"s": 100.0}


@pytest.fixture
def balancer(clock):
    return Balancer([Peer("a"), Peer("b"), Peer("c")], clock_s=lambda: clock["s"], jitter=lambda: 1.0)


def test_the_least_busy_is_asked_and_equals_take_turns(balancer):
    a, b, c = balancer.endpoints
    assert {balancer.choose().address for _ in range(3)} == {"a", "b", "c"}
    balancer.begin(a)
    balancer.begin(b)
    assert {balancer.choose() for _ in range(3)} == {c}
    balancer.end(a)
    assert {balancer.choose() for _ in range(4)} == {a, c}


def test_an_endpoint_that_fails_rests_longer_each_time_and_then_one_caller_looks(balancer, clock):
    a, b, _c = balancer.endpoints
    for seconds in (0.25, 0.5, 1.0, 2.0, 2.0):
        a.rest(clock["s"], 1.0)
        assert a.resting_until_s == clock["s"] + seconds
    assert all(balancer.choose() is not a for _ in range(6))
    clock["s"] += 2.0
    assert balancer.choose() is a
    assert all(balancer.choose() is not a for _ in range(6))
    a.recovered()
    assert a in {balancer.choose() for _ in range(3)}
    assert b not in {balancer.choose(avoid=[b]) for _ in range(6)}


def test_all_at_rest_is_better_than_none(balancer, clock):
    for endpoint in balancer.endpoints:
        balancer.failed(endpoint, ServerUnavailableError("down"))
    assert balancer.choose() in balancer.endpoints


def test_one_bad_request_sends_no_endpoint_to_rest(balancer):
    a = balancer.endpoints[0]
    balancer.failed(a, InvalidRequestError("bad"))
    balancer.failed(a, ServerFailedError("odd"))
    balancer.failed(a, DeadlineExceededError("slow"))
    assert not a.is_resting
    balancer.failed(a, ServerFailedError("again"))
    assert a.is_resting
    balancer.answered(a)
    assert not a.is_troubled


def test_pauses_double_up_to_the_longest_and_are_random_below_it():
    retry = Retry(first_pause_s=0.1, longest_pause_s=0.5)
    assert [retry.pause_s(n, jitter=lambda: 1.0) for n in (1, 2, 3, 4, 9)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert retry.pause_s(3, jitter=lambda: 0.0) == 0.0


def test_a_budget_lets_through_a_burst_and_then_a_share():
    budget = Budget(Retry(budget=2.0, earned=0.25))
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]


def test_a_subclass_is_found_before_its_base_in_the_table():
    kinds = [kind for kind, _ in RETRIED]
    for number, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[number + 1 :])
    assert where_to_retry(InvalidRequestError("x")) == "never"


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"budget": -1.0}, {"attempt_timeout_s": 0.0}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retry(**wrong)


def test_a_call_hears_of_whatever_ends_a_step_and_gives_back_what_it_holds():
    held = []

    def call():
        held.append("place")
        try:
            yield Send(lambda: 1 / 0)
        finally:
            held.pop()

    with pytest.raises(ZeroDivisionError):
        run(call())
    assert held == []

    def recovering():
        try:
            yield Send(lambda: 1 / 0)
        except ZeroDivisionError:
            yield Pause(0.0)
        return "recovered"

    assert run(recovering()) == "recovered"
