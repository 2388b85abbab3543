"""All models of the committed repository at once, through the front; every answer is computed here as well.

The length is a CI size of 8 seconds. The full size is 10 minutes:
SALF_LOAD_SECONDS=600 python -m pytest tests/serving/test_mixed_load.py
"""

import logging
import os
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
from hostile_pictures import good_files
from served import rss_mb, serving, shared_memory_of, stub_on
from tritonclient.grpc import service_pb2 as pb

from salf_contract import EDIT_SLOTS, NO_CONCEPT, decode_picture, parse_metadata, prepare

_logger = logging.getLogger(__name__)
SECONDS = float(os.environ.get("SALF_LOAD_SECONDS", "8"))
CLIENTS = 6
REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODELS = sorted(path.name for path in REPOSITORY.iterdir())
DOCUMENT = parse_metadata((REPOSITORY / "scenes/1/metadata.json").read_bytes())
DATATYPES = {"u1": "UINT8", "i4": "INT32", "f4": "FP32"}

Arrays = dict[str, np.ndarray]


def request_of(model: str, inputs: Mapping[str, np.ndarray]) -> pb.ModelInferRequest:
    """Arrays as a request; one of objects holds one file."""
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        if array.dtype == object:
            datatype, raw = "BYTES", len(array.item()).to_bytes(4, "little") + array.item()
        else:
            datatype, raw = DATATYPES[array.dtype.str[1:]], array.tobytes()
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw)
    return request


def question(model: str, seed: int) -> Arrays:
    """Random inputs for 1 to 5 pictures of any size of model but the encoded one's."""
    random_of = np.random.default_rng(seed)
    rows, cells = 1 + seed % 5, DOCUMENT.map_size
    size = (DOCUMENT.preparation.height, DOCUMENT.preparation.width)
    concepts = random_of.integers(0, len(DOCUMENT.concepts), (rows, EDIT_SLOTS))
    everything = {
        "image": random_of.integers(0, 256, (rows, *size, 3), dtype=np.uint8),
        "target": random_of.integers(-1, len(DOCUMENT.classes), (rows, 1), dtype=np.int32),
        "region": random_of.random((rows, *cells), dtype=np.float32),
        "edit_concepts": np.where(np.arange(EDIT_SLOTS) < 5, concepts, NO_CONCEPT).astype(np.int32),
        "edit_strengths": random_of.normal(size=(rows, EDIT_SLOTS)).astype(np.float32),
        "edit_masks": random_of.random((rows, EDIT_SLOTS, *cells), dtype=np.float32),
    }
    wanted = {"scenes": 2, "scenes_what_if": 6}.get(model, 1)
    return dict(list(everything.items())[:wanted])


def questions() -> list[tuple[pb.ModelInferRequest, Arrays]]:
    """Requests to all models, and what must be answered."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def answers(model: str, inputs: Arrays) -> Arrays:
        session = sessions[model]
        names = [item.name for item in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))

    graphs = [model for model in MODELS if model != "scenes_encoded"]
    sessions = {name: onnxruntime.InferenceSession(REPOSITORY / name / "1/model.onnx", options) for name in graphs}
    asked = []
    for seed in range(32):
        model = graphs[seed % len(graphs)]
        inputs = question(model, seed)
        asked.append((request_of(model, inputs), answers(model, inputs)))
    for file in good_files().values():
        prepared = prepare(decode_picture(file), DOCUMENT.preparation)
        target = np.full((1, 1), -1, np.int32)
        seen = {
            "source_size": np.array([prepared.source_size], np.int32),
            "crop_box": np.array([prepared.crop_box], np.float32),
        }
        request = request_of("scenes_encoded", {"encoded": np.array([[file]], object), "target": target})
        asked.append((request, answers("scenes", {"image": prepared.pixels[None], "target": target}) | seen))
    assert {request.model_name for request, _ in asked} == set(MODELS)
    return asked


def differs(got: bytes, wanted: np.ndarray) -> bool:
    array = np.frombuffer(got, wanted.dtype)
    if array.size != wanted.size:
        return True
    array = array.reshape(wanted.shape)
    if np.issubdtype(wanted.dtype, np.inexact):
        return not np.allclose(array, wanted, rtol=1e-3, atol=1e-3)
    return not np.array_equal(array, wanted)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_no_answer_is_wrong_and_none_is_lost_on_any_model(runtime, nginx, tmp_path):
    asked = questions()
    sent, right, problems = [0] * CLIENTS, [0] * CLIENTS, []
    per_model = dict.fromkeys(MODELS, 0)

    def ask(number: int) -> None:
        rng = random.Random(number)
        channel, stub = stub_on(served.address)
        while time.monotonic() < end_s:
            request, wanted = rng.choice(asked)
            sent[number] += 1
            try:
                answer = stub.ModelInfer(request, timeout=20)
            except grpc.RpcError as error:
                problems.append(f"{request.model_name}: {error.code()} {error.details()}")
                continue
            got = {item.name: raw for item, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)}
            bad = [name for name, array in wanted.items() if differs(got.get(name, b""), array)]
            if bad:
                problems.append(f"{request.model_name}: wrong {bad}")
            else:
                right[number] += 1
                per_model[request.model_name] += 1
        channel.close()

    with serving(REPOSITORY, tmp_path / "serve", nginx=nginx) as served:
        end_s = time.monotonic() + SECONDS
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS / 2)
        half_way_mb, pieces = rss_mb(served.tree()), len(shared_memory_of(served.process.pid))
        for thread in threads:
            thread.join()
        grown_mb = rss_mb(served.tree()) - half_way_mb
        assert served.is_ready()
        assert served.metric("salf_restarts_total") == 0
        assert served.metric("salf_worker_restarts_total") == 0
        assert len(shared_memory_of(served.process.pid)) == pieces
    _logger.info("%d answers right of %d, %s, grown by %.1f MB", sum(right), sum(sent), per_model, grown_mb)
    assert not problems, problems[:5]
    assert sum(right) == sum(sent) > 50
    assert min(per_model.values()) > 0, per_model
    assert grown_mb < 30, "memory is flat after the first half"
