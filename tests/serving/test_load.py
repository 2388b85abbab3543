"""The closed-loop load: what it sends, and what it counts."""

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from salf_serving import free_port
from salf_serving.errors import ServingError
from salf_serving.load import Load, closed_loop, infer_request


def test_a_request_carries_names_types_shapes_and_bytes():
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    request = infer_request("m", {"image": image, "target": np.array([[-1]], np.int32)})
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("image", "UINT8", [1, 2, 2, 3]),
        ("target", "INT32", [1, 1]),
    ]
    assert list(request.raw_input_contents) == [image.tobytes(), np.array([[-1]], np.int32).tobytes()]


def test_answers_are_counted_and_timed(tiny, tiny_server):
    inputs = {"image": tiny.images(2), "target": np.full((2, 1), -1, np.int32)}
    load = closed_loop(
        tiny_server.grpc_address, infer_request("tiny", inputs), concurrency=2, warm_up_s=0.2, measure_s=1.0
    )
    assert load.failures == 0
    assert 5 < len(load.latencies_ms) <= load.answered
    assert load.pictures_per_s == pytest.approx(2 * len(load.latencies_ms))
    assert 0 < load.percentile_ms(50) <= load.percentile_ms(95) < 10_000


def test_a_server_that_refuses_everything_is_an_error(tiny, tiny_server):
    wrong = infer_request("nobody", {"image": tiny.images(1)})
    with pytest.raises(ServingError, match="nobody"):
        closed_loop(tiny_server.grpc_address, wrong, concurrency=1, warm_up_s=0.0, measure_s=0.2)
    with pytest.raises(ServingError, match="answered none"):
        closed_loop(
            f"127.0.0.1:{free_port()}", service_pb2.ModelInferRequest(inputs=wrong.inputs),
            concurrency=1, warm_up_s=0.0, measure_s=0.2,
        )  # fmt: skip


def test_nothing_answered_in_time_is_infinitely_late():
    assert Load(np.zeros(0), 1.0, 1, 0, 0, "").percentile_ms(95) == float("inf")
