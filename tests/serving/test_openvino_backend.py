"""The openvino backend's own logic, outside Triton; tests/test_precisions_served.py runs it inside."""

import functools

import numpy as np
import openvino
import pytest
from opened_backends import TritonModelException, load_tiny, opened, parameters, request


@pytest.fixture(scope="module")
def backend():
    with opened("openvino") as module:
        yield module


def test_float32_is_asked_for_unless_told_otherwise(backend):
    assert backend.parse_settings({}).properties == {"INFERENCE_PRECISION_HINT": "f32"}
    assert backend.parse_settings(parameters(HINT_BF16="yes")).properties == {"INFERENCE_PRECISION_HINT": "bf16"}


def test_the_native_names_are_read_and_ours_are_left_alone(backend):
    settings = backend.parse_settings(
        parameters(
            PERFORMANCE_HINT="latency", NUM_STREAMS="auto", INFERENCE_NUM_THREADS="2", COMPILATION_NUM_THREADS="1",
            TARGET_DEVICE="cpu", ENABLE_BATCH_PADDING="YES", RESHAPE_IO_LAYERS="YES", salf_role="explain",
        )
    )  # fmt: skip
    assert settings.properties == {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "AUTO",
        "INFERENCE_NUM_THREADS": 2,
        "COMPILATION_NUM_THREADS": 1,
    }
    assert settings.ignored == ("RESHAPE_IO_LAYERS",)


@pytest.mark.parametrize(("asked", "insists", "threads"), [(None, False, 2), ("1", False, 1), ("1", True, 2)])
def test_instances_divide_the_budget_and_a_model_may_ask_for_less(backend, asked, insists, threads):
    config = {} if asked is None else parameters(INFERENCE_NUM_THREADS=asked)
    config["instance_group"] = [{"count": 2}]
    properties = backend.parse_settings(config, budget=backend.ThreadBudget(4, insists=insists)).properties
    assert properties["INFERENCE_NUM_THREADS"] == threads
    assert "COMPILATION_NUM_THREADS" not in properties, "OpenVINO's plugin for CPUs knows none"


def test_a_model_is_loaded_within_a_budget(load, monkeypatch):
    monkeypatch.setenv("SALF_THREAD_BUDGET", "2")
    model = load(lambda config: config.update(instance_group=[{"count": 2}]))
    assert model.request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"INFERENCE_PRECISION_HINT": "f32"}, "unknown parameter 'INFERENCE_PRECISION_HINT'.*reads .*HINT_BF16"),
        ({"HINT_BF16": "NO"}, "'HINT_BF16' must be YES, but is 'NO'"),
        ({"PERFORMANCE_HINT": "FAST"}, "must be LATENCY or THROUGHPUT or CUMULATIVE_THROUGHPUT, but is 'FAST'"),
        ({"NUM_STREAMS": "many"}, "must be AUTO, NUMA or a number, but is 'many'"),
        ({"INFERENCE_NUM_THREADS": "-1"}, "must be a number of threads"),
        ({"TARGET_DEVICE": "GPU"}, "TARGET_DEVICE GPU is not available"),
    ],
)
def test_wrong_settings_are_refused(backend, given, words):
    with pytest.raises(ValueError, match=words):
        backend.parse_settings(parameters(**given))


@pytest.fixture
def load(backend, tiny, tmp_path):
    """Load the tiny model as OpenVINO's representation; `change` edits its configuration first."""
    folder = tiny.write(tmp_path)
    openvino.save_model(openvino.Core().read_model(folder / "model.onnx"), folder / "model.xml", compress_to_fp16=False)
    (folder / "model.onnx").unlink()

    return functools.partial(load_tiny, backend, tmp_path)


def test_any_batch_size_is_answered_and_answers_are_not_overwritten(load, tiny):
    model = load()
    first = tiny.images(3, seed=1), np.full((3, 1), 2, np.int32)
    second = tiny.images(1, seed=2), np.full((1, 1), 4, np.int32)
    (kept,) = model.execute([request(*first)])
    wrong, other = model.execute([request(first[0].astype(np.float32), first[1]), request(*second)])
    assert "input 'image' must be uint8 ['batch', 6, 4, 3], but is float32" in wrong.error
    for response, asked in ((kept, first), (other, second)):
        expected = tiny.answers(*asked)
        for name in ("logits", "bias"):
            np.testing.assert_allclose(response.outputs[name], expected[name], rtol=1e-5, atol=1e-4)


def test_an_instance_has_run_before_it_counts_as_loaded(load, backend, monkeypatch):
    sizes, compute = [], backend.TritonPythonModel.compute
    monkeypatch.setattr(
        backend.TritonPythonModel, "compute",
        lambda model, names, feed: sizes.append(len(feed["image"])) or compute(model, names, feed),
    )  # fmt: skip
    load()
    assert sizes == [1, 8]
    assert not backend.warnings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["input"][0].update(name="picture"), "input 'picture' of config.pbtxt is not in the graph"),
        (lambda c: c["input"][1].update(data_type="TYPE_INT64"), "input 'target' is i64 .* but i32 in the graph"),
        (lambda c: c["input"][0].update(dims=["4", "6", "3"]), r"is \[4, 6, 3\] in config.pbtxt but \[6, 4, 3\]"),
        (lambda c: c.update(default_model_filename="other.xml"), r"other\.xml does not exist"),
        (lambda c: c.update(parameters(NOPE="1")), "unknown parameter 'NOPE'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(load, change, words):
    with pytest.raises(TritonModelException, match=f"tiny version 1: .*{words}"):
        load(change)
