"""Streams of pictures: their order and window, slow and broken sources, what their threads know of the caller."""

import asyncio
import threading
import time

import numpy as np
import pytest

from salf_client import AsyncClient, Client, InvalidPictureError
from salf_client.telemetry import OpenTelemetryObserver
from salf_client.testing import mock_server

PICTURE = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def server():
    with mock_server() as running:
        yield running


def test_streams_keep_order_stay_within_the_window_and_go_on_after_a_bad_picture(server):
    reached = 0

    def pictures():
        nonlocal reached
        for number in range(30):
            reached = number
            yield b"no picture" if number == 3 else np.full((32, 32, 3), number * 8, np.uint8)

    with Client(server.address) as client:
        stream = client.explain_many(pictures(), in_flight=4)
        first = next(stream)
        assert reached <= 4
        outcomes = [first, *stream]
        finished = list(client.explain_many(pictures(), in_flight=4, ordered=False))
    assert [outcome.index for outcome in outcomes] == list(range(30))
    assert sorted(outcome.index for outcome in finished) == list(range(30))
    assert [outcome.index for outcome in outcomes if outcome.error] == [3]
    with pytest.raises(InvalidPictureError):
        outcomes[3].get()

    async def streamed(*, ordered):
        async with AsyncClient(server.address) as client:
            return [outcome async for outcome in client.explain_many(pictures(), in_flight=4, ordered=ordered)]

    assert asyncio.run(streamed(ordered=True)) == outcomes
    assert sorted(one.index for one in asyncio.run(streamed(ordered=False))) == list(range(30))


def test_a_stream_that_is_left_cancels_what_is_in_flight(server):
    async def leave(address):
        async with AsyncClient(address) as client:
            async for _ in client.explain_many([PICTURE] * 100, in_flight=8):
                break
            await asyncio.sleep(0)
            return client._session.balancer.endpoints[0].in_flight

    server.delay_s = 0.05
    asyncio.run(leave(server.address))
    assert server.calls["ModelInfer"] < 30
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("salf-explain")]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_answer_does_not_wait_until_a_slow_source_has_filled_the_window(server, ordered):
    read = 0

    def camera():
        nonlocal read
        while read < 4:
            read += 1
            yield PICTURE
            time.sleep(1.0)

    with Client(server.address) as client:
        client.explain(PICTURE)
        seen = [(outcome.index, read) for outcome in client.explain_many(camera(), in_flight=8, ordered=ordered)]
    # A blocking source is read by the caller's thread: an answer comes with the picture after it, and no later.
    assert seen[:3] == [(0, 2), (1, 3), (2, 4)]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_answer_is_given_while_an_asynchronous_source_waits(server, ordered):
    async def streamed():
        answered = asyncio.Event()

        async def camera():
            yield PICTURE
            await asyncio.wait_for(answered.wait(), 5)
            yield PICTURE

        indices = []
        async with AsyncClient(server.address) as client:
            async for outcome in client.explain_many(camera(), in_flight=8, ordered=ordered):
                answered.set()
                indices.append(outcome.get() and outcome.index)
        return indices

    assert asyncio.run(streamed()) == [0, 1]


def test_answers_come_as_they_finish_or_in_order(server):
    slow = np.zeros((32, 32, 3), np.uint8)
    explain = server.model.explain

    def explained(image, target):
        time.sleep(0.4 if image.max() == 0 else 0)
        return explain(image, target)

    server.model.explain = explained
    pictures = [slow, PICTURE, PICTURE]

    async def indices(ordered):
        async with AsyncClient(server.address) as client:
            return [outcome.index async for outcome in client.explain_many(pictures, ordered=ordered)]

    with Client(server.address) as client:
        finished = [outcome.index for outcome in client.explain_many(pictures, ordered=False)]
        in_order = [outcome.index for outcome in client.explain_many(pictures)]
    assert finished[-1] == asyncio.run(indices(ordered=False))[-1] == 0
    assert in_order == asyncio.run(indices(ordered=True)) == [0, 1, 2]


def test_a_source_that_fails_ends_the_stream_and_leaves_nothing_in_flight(server):
    async def broken():
        for _ in range(2):
            yield PICTURE
        raise OSError("the camera is gone")

    async def streamed():
        async with AsyncClient(server.address) as client:
            with pytest.raises(OSError, match="camera"):
                async for _ in client.explain_many(broken(), in_flight=4):
                    pass
            await asyncio.sleep(0)
            return client._session.balancer.endpoints[0].in_flight, len(asyncio.all_tasks())

    assert asyncio.run(streamed()) == (0, 1)


@pytest.mark.parametrize("ordered", [True, False])
def test_what_was_begun_before_a_source_failed_is_given_first(server, ordered):
    def listing():
        yield from [PICTURE] * 5
        raise OSError("the store is gone")

    def streamed(given):
        with Client(server.address) as client:
            given.extend(outcome.index for outcome in client.explain_many(listing(), in_flight=8, ordered=ordered))

    async def streamed_async(given):
        async with AsyncClient(server.address) as client:
            async for outcome in client.explain_many(listing(), in_flight=8, ordered=ordered):
                given.append(outcome.index)

    given, given_async = [], []
    with pytest.raises(OSError, match="store"):
        streamed(given)
    with pytest.raises(OSError, match="store"):
        asyncio.run(streamed_async(given_async))
    assert sorted(given) == sorted(given_async) == list(range(5))


def test_a_source_that_is_left_may_be_read_on(server):
    source = iter([PICTURE] * 10)
    pictures = (picture for picture in source)
    with Client(server.address) as client:
        for _ in client.explain_many(pictures, in_flight=1):
            break
    assert len(list(pictures)) == 9


def test_spans_of_a_stream_belong_to_the_callers_trace(server):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    observers = [OpenTelemetryObserver(provider)]
    tracer = provider.get_tracer("test")

    async def streamed():
        async with AsyncClient(server.address, observers=observers) as client:
            with tracer.start_as_current_span("asynchronous job"):
                _ = [outcome async for outcome in client.explain_many([PICTURE] * 3)]

    with Client(server.address, observers=observers) as client, tracer.start_as_current_span("job"):
        _ = list(client.explain_many([PICTURE] * 3))
    asyncio.run(streamed())
    finished = spans.get_finished_spans()
    for name in ("job", "asynchronous job"):
        (job,) = [span for span in finished if span.name == name]
        children = [span for span in finished if span.parent and span.parent.span_id == job.context.span_id]
        assert [child.name for child in children] == ["salf explain"] * 3, name
