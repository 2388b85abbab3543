"""A real server: right values, real batches, and bad requests that it survives."""

import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from salf_serving import RunningServer, ServedModel

ALL_OUTPUTS = ("logits", "target_class", "bias", "maps")


@pytest.fixture(scope="module")
def connection(tiny_server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(tiny_server.grpc_address) as client:
        yield client


def ask(connection, images, targets, outputs=ALL_OUTPUTS):
    tensors = []
    for name, array in (("image", images), ("target", targets)):
        if array is not None:
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
    answer = connection.infer("tiny", tensors, outputs=[triton.InferRequestedOutput(name) for name in outputs])
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def batch_counts(connection) -> tuple[int, int]:
    """(pictures answered, runs of the graph) so far."""
    statistics = connection.get_inference_statistics("tiny").model_stats[0]
    return statistics.inference_count, statistics.execution_count


def assert_answers(got, expected):
    assert set(got) == set(expected)
    for name, array in expected.items():
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-4, err_msg=name)


def test_the_server_tells_what_it_serves(tiny_server):
    assert tiny_server.version == "2.51.0"
    assert tiny_server.models == (ServedModel("tiny", "1", "onnxruntime", probed=True),)


def test_metrics_are_on_their_own_loopback_port(tiny_server):
    with urllib.request.urlopen(f"http://{tiny_server.metrics_address}/metrics", timeout=5) as answer:
        assert 'nv_inference_count{model="tiny"' in answer.read().decode()


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8])
def test_values_are_right_for_odd_batches(connection, tiny, rows):
    images, targets = tiny.images(rows, seed=rows), np.arange(rows, dtype=np.int32)[:, None] % 5 - 1
    assert_answers(ask(connection, images, targets), tiny.answers(images, targets))


def test_only_the_requested_outputs_come_back(connection, tiny):
    got = ask(connection, tiny.images(1), np.zeros((1, 1), np.int32), outputs=("bias",))
    assert list(got) == ["bias"]
    assert got["bias"].tolist() == [[0.0]]


def test_concurrent_requests_share_runs_and_keep_their_own_answers(connection, tiny):
    before = batch_counts(connection)

    def one(seed: int) -> None:
        rows = 1 + seed % 3
        images, targets = tiny.images(rows, seed), np.full((rows, 1), seed % 5, np.int32)
        outputs = ALL_OUTPUTS if seed % 2 else ("maps", "target_class")
        expected = tiny.answers(images, targets)
        assert_answers(ask(connection, images, targets, outputs), {name: expected[name] for name in outputs})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(64)))
    after = batch_counts(connection)
    pictures, runs = after[0] - before[0], after[1] - before[1]
    assert pictures == sum(1 + seed % 3 for seed in range(64))
    assert runs <= 40  # 64 requests; without batching 64


def test_a_request_that_fails_in_the_graph_spares_the_others_of_its_batch(connection, tiny):
    before = batch_counts(connection)

    def one(seed: int):
        images, targets = tiny.images(1, seed), np.full((1, 1), 99 if seed == 2 else 1, np.int32)
        try:
            got = ask(connection, images, targets)
        except InferenceServerException as error:
            return error
        assert_answers(got, tiny.answers(images, targets))
        return None

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(one, range(6)))
    after = batch_counts(connection)
    assert [seed for seed, result in enumerate(results) if result is not None] == [2]
    assert "tiny version 1" in results[2].message()
    assert "Gather" in results[2].message()
    assert after[1] - before[1] < 6


def bad_requests():
    good, target = np.zeros((1, 6, 4, 3), np.uint8), np.zeros((1, 1), np.int32)
    yield "height and width swapped", np.zeros((1, 4, 6, 3), np.uint8), target
    yield "no batch axis", np.zeros((6, 4, 3), np.uint8), target
    yield "float pixels", good.astype(np.float32), target
    yield "no image", None, target
    yield "no target", good, None
    yield "no rows", good[:0], target[:0]
    yield "more rows than max_batch_size", np.zeros((9, 6, 4, 3), np.uint8), np.zeros((9, 1), np.int32)
    yield "different rows", np.zeros((2, 6, 4, 3), np.uint8), target
    yield "target of another type", good, target.astype(np.int64)


@pytest.mark.parametrize(("images", "targets"), [pytest.param(i, t, id=name) for name, i, t in bad_requests()])
def test_a_bad_request_gets_an_error_and_the_server_lives_on(connection, tiny, images, targets):
    with pytest.raises(InferenceServerException):
        ask(connection, images, targets)
    images, targets = tiny.images(2), np.full((2, 1), -1, np.int32)
    assert_answers(ask(connection, images, targets), tiny.answers(images, targets))


def test_unknown_models_and_outputs_get_an_error(connection, tiny):
    with pytest.raises(InferenceServerException, match="nothing"):
        ask(connection, tiny.images(1), np.zeros((1, 1), np.int32), outputs=("nothing",))
    with pytest.raises(InferenceServerException, match="unknown model"):
        connection.infer("other", [])
