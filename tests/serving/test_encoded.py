"""The encoded endpoint on a real server: the same answers as for pixels prepared here, typed errors, true metrics."""

import io
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from encoded_requests import Endpoint, Failure, assert_sums_hold, workers
from hostile_pictures import good_files, refused_files
from PIL import Image

from salf_contract import ENCODED_OUTPUTS, Refusal, decode_picture, parse_metadata, prepare, read_refusal
from salf_serving import RunningServer

ROOT = Path(__file__).parents[2]
DOCUMENT = parse_metadata((ROOT / "model_repository/scenes_encoded/1/metadata.json").read_bytes())
PICTURES = sorted((ROOT / "demonstration/pictures").glob("*.jpg"))


@pytest.fixture(scope="module")
def endpoint(triton_server: RunningServer):
    endpoint = Endpoint(triton_server.grpc_address)
    with endpoint.channel:
        yield endpoint


@pytest.fixture(scope="module")
def explain(triton_server: RunningServer):
    """Ask the explain model itself about pixels."""
    with triton.InferenceServerClient(triton_server.grpc_address) as client:

        def ask(pixels: np.ndarray) -> dict[str, np.ndarray]:
            image = triton.InferInput("image", [1, *pixels.shape], "UINT8").set_data_from_numpy(pixels[None])
            target = triton.InferInput("target", [1, 1], "INT32").set_data_from_numpy(np.array([[-1]], np.int32))
            answer = client.infer("scenes", [image, target])
            return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}

        yield ask


def metrics(server: RunningServer) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:5] == "salf_"}


def test_the_endpoint_is_probed_before_it_is_ready(triton_server):
    (model,) = (model for model in triton_server.models if model.name == "scenes_encoded")
    assert (model.backend, model.probed) == ("salf_encoded", True)


@pytest.mark.parametrize("name", list(good_files()))
def test_answers_are_those_for_pixels_prepared_here(endpoint, explain, name):
    data = good_files()[name]
    prepared = prepare(decode_picture(data), DOCUMENT.preparation)
    answer, expected = endpoint.ask(data), explain(prepared.pixels)
    assert set(answer) == {spec.name for spec in ENCODED_OUTPUTS}
    # The same graph on the same pixels: not one bit differs.
    for output, values in expected.items():
        assert np.array_equal(answer[output], values), output
    assert answer["source_size"].tolist() == [list(prepared.source_size)]
    assert np.array_equal(answer["crop_box"], np.array([prepared.crop_box], np.float32))
    assert_sums_hold(answer)


def test_one_changed_pixel_would_be_noticed(explain):
    pixels = prepare(decode_picture(good_files()["jpeg"]), DOCUMENT.preparation).pixels
    other = pixels.copy()
    other[50, 50, 1] ^= 1
    assert not np.array_equal(explain(pixels)["logits"], explain(other)["logits"])


def test_a_batch_keeps_the_order_and_the_class_asked_for(endpoint):
    files = [path.read_bytes() for path in PICTURES[:5]]
    together = endpoint.ask(*files, target=2)
    assert together["target_class"].tolist() == [[2]] * 5
    assert_sums_hold(together)
    for row, file in enumerate(files):
        alone = endpoint.ask(file, target=2)
        np.testing.assert_allclose(together["logits"][row], alone["logits"][0], atol=1e-3)
        assert np.array_equal(together["source_size"][row], alone["source_size"][0])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", Refusal.PICTURE_EMPTY),
        (b"no picture", Refusal.PICTURE_UNSUPPORTED),
        (good_files()["png"][:3000], Refusal.PICTURE_BROKEN),
        (refused_files()["animated webp"], Refusal.PICTURE_TOO_LARGE),
        (refused_files()["png of 60000 x 60000"], Refusal.PICTURE_TOO_LARGE),
        (refused_files()["more bytes than allowed"], Refusal.PICTURE_TOO_LARGE),
    ],
    ids=["empty", "words", "truncated", "animated", "bomb", "long"],
)
def test_a_refusal_carries_its_code_and_counts(endpoint, triton_server, data, code):
    name = f'salf_failures_total{{model="scenes",reason="{code.lower()}",version="1"}}'
    before = metrics(triton_server).get(name, 0)
    answer = endpoint.ask(data)
    assert isinstance(answer, Failure)
    assert answer.status is grpc.StatusCode.INVALID_ARGUMENT
    found = read_refusal(answer.message)
    assert found is not None
    assert found[0] is code
    assert "Traceback" not in answer.message
    wait_until(lambda: metrics(triton_server).get(name, 0) == before + 1)


def test_a_bad_picture_of_a_request_is_named(endpoint):
    good = PICTURES[0].read_bytes()
    answer = endpoint.ask(good, good, b"x")
    assert isinstance(answer, Failure)
    assert "picture 2 of this request" in answer.message


def test_bad_pictures_spare_the_requests_beside_them(endpoint):
    good = PICTURES[0].read_bytes()
    alone = endpoint.ask(good)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(endpoint.ask, [good, b"bad", good, good[:1000]] * 12))
    for number, answer in enumerate(answers):
        assert isinstance(answer, Failure) == (number % 2 == 1)
        if number % 2 == 0:
            np.testing.assert_allclose(answer["logits"], alone["logits"], atol=1e-3)


def test_metrics_say_what_was_explained(endpoint, triton_server):
    before = settled_metrics(triton_server)
    data = PICTURES[0].read_bytes()
    answers = [endpoint.ask(data) for _ in range(3)] + [endpoint.ask(data, data)]
    label = DOCUMENT.classes[answers[0]["target_class"][0, 0]]
    concept = DOCUMENT.concepts[answers[0]["top_concepts"][0, 0]]
    expected = {
        'salf_explanations_total{model="scenes",version="1"}': 5,
        f'salf_top_concepts_total{{class="{label}",concept="{concept}",model="scenes",version="1"}}': 5,
        'salf_coverage_total{model="scenes",version="1"}': sum(float(one["coverage"].sum()) for one in answers),
        **{
            f'salf_explanation_seconds_count{{model="scenes",stage="{stage}",version="1"}}': 4
            for stage in ("decode", "infer", "answer", "total")
        },
    }

    def grown() -> dict[str, float]:
        now = metrics(triton_server)
        return {name: now.get(name, 0) - before.get(name, 0) for name in expected}

    wait_until(lambda: grown() == pytest.approx(expected, abs=1e-3))


def test_the_largest_picture_is_explained(endpoint):
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000), (9, 99, 200)).save(file, "JPEG", progressive=True)
    answer = endpoint.ask(file.getvalue())
    assert answer["source_size"].tolist() == [[5000, 5000]]
    assert_sums_hold(answer)


def test_decoders_are_processes_of_their_own(triton_server):
    assert len(workers(triton_server.pid)) == 3


def settled_metrics(server: RunningServer) -> dict[str, float]:
    """Metrics after all that was explained before has been counted; the endpoint sends its sums a moment later."""

    def ours() -> dict[str, float]:
        time.sleep(1.5)
        return {name: value for name, value in metrics(server).items() if name.startswith("salf_")}

    before = ours()
    while before != (now := ours()):
        before = now
    return now


def wait_until(holds, *, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "not within the time allowed"
        time.sleep(0.1)
