"""All models of the committed repository at once, through the front; every answer is computed here as well.

The length is a CI size of 8 seconds; SALF_LOAD_SECONDS=600 is the full size.
"""

import os
import random
import shutil
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
from served import infer_request, rss_mb, serving, stub_on

SECONDS = float(os.environ.get("SALF_LOAD_SECONDS", "8"))
MODELS = {"scenes": True, "scenes_all_maps": False, "scenes_all_scores": False}
REPOSITORY = Path(__file__).parents[2] / "model_repository"


def answered(session: onnxruntime.InferenceSession, images: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    names = [item.name for item in session.get_inputs()]
    given = {"image": images, "target": targets}
    outputs = [item.name for item in session.get_outputs()]
    return dict(zip(outputs, session.run(None, {name: given[name] for name in names}), strict=True))


def differs(name: str, got: bytes, wanted: np.ndarray) -> bool:
    array = np.frombuffer(got, wanted.dtype)
    if array.size != wanted.size:
        return True
    exact = not np.issubdtype(wanted.dtype, np.inexact)
    return not (np.array_equal if exact else _close)(array.reshape(wanted.shape), wanted)


def _close(got: np.ndarray, wanted: np.ndarray) -> bool:
    return np.allclose(got, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_no_answer_is_wrong_and_none_is_lost_on_any_model(runtime, nginx, tmp_path):
    for model in MODELS:
        shutil.copytree(REPOSITORY / model, tmp_path / "models" / model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        model: onnxruntime.InferenceSession(next((REPOSITORY / model).glob("*/model.onnx")), options)
        for model in MODELS
    }
    questions = []
    for seed in range(24):
        model = list(MODELS)[seed % 3]
        rows = 1 + seed % 5
        size = sessions[model].get_inputs()[0].shape[1:]
        images = np.random.default_rng(seed).integers(0, 256, (rows, *size), dtype=np.uint8)
        targets = np.full((rows, 1), seed % 4 - 1, np.int32)
        request = infer_request(images, targets, model)
        if not any(item.name == "target" for item in sessions[model].get_inputs()):
            del request.inputs[1], request.raw_input_contents[1]
        questions.append((request, answered(sessions[model], images, targets)))
    sent, right, problems = [0] * 6, [0] * 6, []

    def ask(number: int) -> None:
        rng = random.Random(number)
        channel, stub = stub_on(served.address)
        while time.monotonic() < end_s:
            request, wanted = rng.choice(questions)
            sent[number] += 1
            try:
                answer = stub.ModelInfer(request, timeout=20)
            except grpc.RpcError as error:
                problems.append(f"{request.model_name}: {error.code()} {error.details()}")
                continue
            got = {item.name: raw for item, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)}
            bad = [name for name, array in wanted.items() if differs(name, got.get(name, b""), array)]
            if bad:
                problems.append(f"{request.model_name}: wrong {bad}")
            else:
                right[number] += 1
        channel.close()

    with serving(tmp_path / "models", tmp_path / "serve", nginx=nginx) as served:
        end_s = time.monotonic() + SECONDS
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS / 2)
        half_way_mb = rss_mb(served.tree())
        for thread in threads:
            thread.join()
        grown_mb = rss_mb(served.tree()) - half_way_mb
        assert served.is_ready()
        assert served.metric("salf_restarts_total") == 0
    assert not problems, problems[:5]
    assert sum(right) == sum(sent) > 50
    assert grown_mb < 30, "memory is flat after the first half"
