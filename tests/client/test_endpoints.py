"""Several endpoints: one dies and comes back under load, and no call of the asynchronous client fails."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from salf_client import AsyncClient, Client, Retry, ServerNotReadyError
from salf_client.testing import MockModel, mock_server
from salf_serving import RunningServer, Runtime, ServingError, free_port, launch

ROOT = Path(__file__).resolve().parents[2]
PICTURE = np.random.default_rng(4).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture
def answered_by(monkeypatch):
    """How many inferences each address answered."""
    from salf_client.grpc_aio_transport import AsyncGrpcTransport

    counts: Counter[str] = Counter()
    infer = AsyncGrpcTransport.infer

    async def counted(transport, *arguments, **options):
        answer = await infer(transport, *arguments, **options)
        counts[transport.address] += 1
        return answer

    monkeypatch.setattr(AsyncGrpcTransport, "infer", counted)
    return counts


@pytest.mark.slow
def test_a_real_server_of_three_dies_and_comes_back_and_no_call_fails(
    triton_server: RunningServer, runtime: Runtime, tmp_path: Path, answered_by: Counter[str]
) -> None:
    def start(stack: ExitStack, port: int, name: str) -> RunningServer:
        # Killed on purpose: that the guard finds it dead at the end is no failure of this test.
        stack.enter_context(suppress(ServingError))
        return stack.enter_context(
            launch(ROOT / "model_repository", grpc_port=port, log_file=tmp_path / f"{name}.log", threads=1)
        )

    with ExitStack() as stack:
        second, third = start(stack, free_port(), "second"), start(stack, free_port(), "third")
        addresses = [triton_server.grpc_address, second.grpc_address, third.grpc_address]
        victim = third.grpc_address

        async def load() -> tuple[int, list[BaseException]]:
            failures: list[BaseException] = []
            calls, stopped = 0, False

            async def ask(client: AsyncClient) -> None:
                nonlocal calls
                while not stopped:
                    try:
                        await client.explain(PICTURE)
                    except Exception as error:  # noqa: BLE001 - the test is about there being none
                        failures.append(error)
                    calls += 1

            async with AsyncClient(addresses, model="scenes", timeout_s=20) as client:
                tasks = [asyncio.create_task(ask(client)) for _ in range(6)]
                await until(lambda: min(answered_by[address] for address in addresses) >= 20)
                os.kill(third.pid, signal.SIGKILL)
                await asyncio.sleep(1.0)
                before = Counter(answered_by)
                await until(lambda: min(answered_by[one] - before[one] for one in addresses[:2]) >= 20)
                assert answered_by[victim] == before[victim]
                await asyncio.to_thread(start, stack, int(victim.rpartition(":")[2]), "again")
                before = Counter(answered_by)
                await until(lambda: answered_by[victim] - before[victim] >= 20)
                stopped = True
                await asyncio.gather(*tasks)
                health = await client.health()
                assert [endpoint.ready for endpoint in health.endpoints] == [True] * 3
                assert {endpoint.in_flight for endpoint in health.endpoints} == {0}
            return calls, failures

        calls, failures = asyncio.run(load())
    assert not failures
    assert calls > 100


async def until(condition, timeout_s=30.0):
    ends_at_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at_s, "it did not happen in time"
        await asyncio.sleep(0.02)


def test_without_an_answer_anywhere_the_call_fails_after_its_attempts():
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    started_s = time.monotonic()
    with Client(addresses, timeout_s=20) as client, pytest.raises(Exception, match="no server answers"):
        client.explain(PICTURE)
    assert time.monotonic() - started_s < 5


def test_a_look_up_waits_for_endpoints_that_all_start_at_the_moment():
    with mock_server() as one, mock_server() as two:
        one.ready = two.ready = False
        becoming_ready = threading.Timer(0.4, lambda: setattr(two, "ready", True))
        becoming_ready.start()
        patient = Retry(attempts=60, first_pause_s=0.1, longest_pause_s=0.1, budget=100)
        with Client([one.address, two.address], retry=patient, timeout_s=20) as client:
            assert client.explain(PICTURE).model == "mock"
        becoming_ready.join()
        assert two.calls["ModelInfer"] >= 1
        twice = Retry(attempts=2)
        with Client([one.address] * 2, retry=twice) as client, pytest.raises(ServerNotReadyError):
            client.explain(PICTURE)


def test_an_endpoint_that_is_not_ready_gets_no_inference_until_it_is():
    with mock_server() as good, mock_server() as late:
        late.ready = False
        with Client([good.address, late.address]) as client:
            client.explain(PICTURE)
            for _ in range(20):
                client.explain(PICTURE)
            assert late.calls["ModelInfer"] <= 1
            late.ready = True
            deadline_s = time.monotonic() + 5
            while late.calls["ModelInfer"] < 5 and time.monotonic() < deadline_s:
                client.explain(PICTURE)
        assert late.calls["ModelInfer"] >= 5
        assert late.calls["ModelReady"] >= 1


def test_a_hanging_endpoint_costs_one_attempts_time_and_not_the_calls():
    with mock_server() as good, mock_server() as hanging:
        with Client([good.address, hanging.address], retry=Retry(attempt_timeout_s=0.3), timeout_s=10) as client:
            client.explain(PICTURE)
            hanging.delay_s = 3.0
            started_s = time.monotonic()
            for _ in range(4):
                client.explain(PICTURE)
            assert time.monotonic() - started_s < 2.5
        hanging.delay_s = 0.0


def test_endpoints_of_different_versions_are_read_by_their_own_names():
    first = MockModel(["cat", "dog"], ["tail", "fur"], version=1)
    second = MockModel(["dog", "cat", "fox"], ["fur", "snout", "tail"], version=2, input_size=(24, 40), seed=3)
    with mock_server(first) as one, mock_server(second) as two:
        with Client([one.address, two.address]) as client:
            answers = [client.explain(PICTURE, target="cat") for _ in range(12)]
        assert {answer.version for answer in answers} == {1, 2}
        for answer in answers:
            assert answer.target == "cat"
            assert answer.contract_id == (first if answer.version == 1 else second).metadata.contract_id
